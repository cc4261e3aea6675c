"""``skustream bench receiver``: webhooks acknowledged by Kafka, beside a handler that does nothing."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import psutil

from app import topics
from app.dev.shops import DOMAINS, catalogue, write_shops_file
from app.errors import Retry
from app.local_kafka import free_port
from app.settings import load_settings
from app.shops import load_shops
from benchmarks.http_load import ask_all, connect
from benchmarks.load import PARTITIONS
from benchmarks.measure import Bar, count, cpu_s, percentile
from benchmarks.processes import Command, broker_at, running
from benchmarks.webhooks import order_created

CONNECTIONS = 64
WARM_REQUESTS = 1_000
SKUS = 100


async def measure(directory: Path, requests: int, bar: Bar) -> dict[str, float]:
    """The same signed webhooks to both servers, one process each, one after the other.

    Raises:
        Retry: when not every acknowledged webhook is in the topic.
    """
    shops_file = directory / "shops.yaml"
    write_shops_file(shops_file, free_port())
    shop = load_shops(shops_file)[DOMAINS[0]]
    keys = catalogue(SKUS, 0)
    made = [
        order_created(shop, number, keys[number % len(keys)], 0) for number in range(requests + WARM_REQUESTS)
    ]
    facts: dict[str, float] = {}
    port = free_port()
    bare = Command([sys.executable, "-m", "benchmarks.bare_http"], {"PORT": str(port)}, directory / "bare")
    facts.update(await _asked("bare_aiohttp", bare, port, made, bar))
    async with broker_at(directory / "kafka") as broker:
        settings = load_settings().model_copy(
            update={"bootstrap_servers": broker.bootstrap_servers, "partitions": PARTITIONS}
        )
        await topics.apply(settings)
        environment = {
            "KAFKA_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
            "SKUSTREAM_PARTITIONS": str(PARTITIONS),
            "SKUSTREAM_SHOPS_FILE": str(shops_file),
            "SKUSTREAM_RECEIVER_PORT": str(port),
        }
        receiver = Command(
            [sys.executable, "-m", "app", "run", "receiver"], environment, directory / "receiver"
        )
        facts.update(await _asked("receiver", receiver, port, made, bar))
        stored = await count(broker.bootstrap_servers, "shopify.orders")
    if stored != len(made):
        raise Retry(f"{len(made)} webhooks acknowledged, {stored} stored")
    facts["ratio_bare_aiohttp"] = round(
        facts["receiver_requests_per_s"] / facts["bare_aiohttp_requests_per_s"], 3
    )
    return facts


async def _asked(name: str, command: Command, port: int, made: list[bytes], bar: Bar) -> dict[str, float]:
    with running([command]) as processes:
        connection = await connect(port)
        while await connection.ask(made[0]) == 503:  # not connected to Kafka yet
            pass
        connection.transport.close()
        await ask_all(port, iter(made[1:WARM_REQUESTS]), CONNECTIONS, lambda _: None)
        before, own_before = cpu_s(processes[0]), cpu_s(psutil.Process())
        began = time.perf_counter()
        seconds = await ask_all(port, iter(made[WARM_REQUESTS:]), CONNECTIONS, bar(name, len(made)))
        took = time.perf_counter() - began
        cpu, own = cpu_s(processes[0]) - before, cpu_s(psutil.Process()) - own_before
    milliseconds = [one * 1000 for one in seconds]
    return {
        f"{name}_requests_per_s": round(len(seconds) / took),
        f"{name}_p50_ms": round(percentile(milliseconds, 0.5), 1),
        f"{name}_p99_ms": round(percentile(milliseconds, 0.99), 1),
        f"{name}_cpu_ms_per_request": round(cpu / len(seconds) * 1000, 3),
        f"{name}_load_cpu_ms_per_request": round(own / len(seconds) * 1000, 3),
    }
