"""``skustream bench restore``: a worker with an empty data directory reads its changelogs back."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import psutil

from app import topics
from app.errors import Retry
from app.exactly_once.partitioner import partition_of
from app.local_kafka import free_port
from app.settings import load_settings
from benchmarks.adjuster import fill_stock, positions, stock_worker
from benchmarks.load import PARTITIONS, Record, create_topics, fill
from benchmarks.measure import Bar, Progress, cpu_s
from benchmarks.processes import Command, broker_at, running

KEYS = 1_000_000
LIMIT_S = 120.0
POLL_S = 0.1
_SAMPLE = re.compile(r"^(skustream_\w+)(?:\{[^}]*\})? (\S+)$", re.M)


async def measure(directory: Path, records: int, bar: Bar) -> dict[str, float]:
    """Restore the toy's table of ``records`` records, and the stock service's of half as many keys."""
    facts: dict[str, float] = {}
    async with broker_at(directory / "kafka") as broker:
        service, events = "restored", "restored.in"
        bootstrap = broker.bootstrap_servers
        internal = [f"skustream.{service}.states", f"skustream.{service}.positions"]
        await create_topics(bootstrap, [events, f"dead-letters.{service}", "restored.out"], internal)
        await fill(bootstrap, internal[0], states(records), bar("loading", records))
        await fill(bootstrap, internal[1], positions([events]), lambda _: None)
        toy = toy_worker(service, bootstrap, events, directory / "toy")
        facts.update(await _restored(toy, "WEB_PORT", records, bar("restore", records)))

        settings = load_settings().model_copy(
            update={"bootstrap_servers": bootstrap, "partitions": PARTITIONS}
        )
        await topics.apply(settings)
        keys = records // 2
        await fill_stock(bootstrap, keys, bar("loading stock", keys))
        stock = stock_worker(settings, directory / "stock")
        found = await _restored(stock, "SKUSTREAM_STOCK_PORT", keys, bar("restore stock", keys))
        facts.update({f"stock_{name}": value for name, value in found.items()})
    return facts


async def _restored(
    command: Command, port_variable: str, records: int, progress: Progress
) -> dict[str, float]:
    url = f"http://127.0.0.1:{command.environment[port_variable]}"
    with running([command]) as processes:
        values = await _opened(url, processes[0], progress)
        used_s = cpu_s(processes[0])
        rss = processes[0].memory_info().rss / 1e6
    restored, seconds = values["skustream_restored_records_total"], values["skustream_restore_seconds"]
    if restored != records:
        raise Retry(f"{records} records in the changelog, {restored:.0f} restored; see {command.directory}")
    return {
        "restored_records": restored,
        "restore_seconds": round(seconds, 2),
        "restore_records_per_s": round(restored / seconds),
        "restore_cpu_s_per_million": round(used_s / restored * 1e6, 2),  # with the start of the process
        "rss_mb": round(rss, 1),
    }


async def _opened(url: str, process: psutil.Process, progress: Progress) -> dict[str, float]:
    """The worker's metrics once its lanes are open."""
    end = time.perf_counter() + LIMIT_S
    shown = 0.0
    async with aiohttp.ClientSession() as session:
        while time.perf_counter() < end:
            if process.status() == psutil.STATUS_ZOMBIE:
                raise Retry("the worker ended; see its log")
            values = await _metrics(session, url)
            done = values.get("skustream_restored_records_total", 0.0)
            progress(int(done - shown))
            shown = done
            if values.get("skustream_lanes"):
                return values
            await asyncio.sleep(POLL_S)
    raise Retry(f"not restored within {LIMIT_S:.0f} s")


async def _metrics(session: aiohttp.ClientSession, url: str) -> dict[str, float]:
    """The sums of the engine's metrics over their labels; nothing while the worker does not answer."""
    try:
        async with session.get(f"{url}/metrics") as answer:
            text = await answer.text()
    except aiohttp.ClientError:
        return {}
    values: dict[str, float] = {}
    for name, value in _SAMPLE.findall(text):
        values[name] = values.get(name, 0.0) + float(value)
    return values


def toy_worker(service: str, bootstrap: str, events: str, directory: Path, **further: str) -> Command:
    """A worker of the engine's toy with a data directory of its own; its outcomes go to ``{service}.out``."""
    environment = {
        "SERVICE": service,
        "BOOTSTRAP": bootstrap,
        "DATA_DIR": str(directory),
        "WEB_PORT": str(free_port()),
        "EVENTS": events,
        "OUTCOMES": f"{service}.out",
        **further,
    }
    return Command([sys.executable, "-m", "benchmarks.toy", "worker", "-l", "warn"], environment, directory)


def states(records: int) -> Iterator[tuple[int, Record]]:
    """The changelog of the toy's table: so many records of at most a million keys."""
    for number in range(records):
        key = b"SKU-%07d" % (number * 7_919 % KEYS)
        yield partition_of(key, PARTITIONS), (key, b'{"on":%d,"v":%d}' % (number % 5_000, number))
