"""``skustream bench writer``: a backlog of listings, limited by the shop's bucket, and what overtakes it.

Two backlogs in one run. The first is that of a new shop: every listing has to be read before it is written,
and by the simulator's costs reading is what empties the bucket (two points a listing, against ten for a write
of 250). The second changes every listing again: nothing has to be read, and the bucket is not the limit.
While each drains, some listings reach or leave zero, one after the other.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import yaml

from app import topics
from app.dev.shops import SimulatorAdmin
from app.errors import Retry
from app.exactly_once.partitioner import partition_of
from app.local_kafka import free_port
from app.records import Target, encode
from app.settings import load_settings
from benchmarks.backlog_shop import CAPACITY, DOMAIN, FIRST_ITEM, LOCATION, RESTORE_RATE, SHOWN, shop_at
from benchmarks.load import PARTITIONS, fill
from benchmarks.measure import Bar, Progress, cpu_s, percentile
from benchmarks.processes import Command, broker_at, running

CROSSING, CROSSING_PAUSE_S = 20, 0.5
"""Listings that reach and leave zero in turn, and how often one of them does."""
LOOK_S = 0.5
LOW = 0.15
"""The share of the bucket at which the burst is over, and the refilling is the limit."""
ENDING = 0.9
"""The share of the writes after which what is left no longer fills the bucket's calls."""
UP_LIMIT_S, DRAIN_LIMIT_S = 60.0, 480.0


class Look(NamedTuple):
    """The shop at one instant."""

    at: float  # monotonic seconds
    spent: float
    available: float
    written: int  # listings of the backlog


class Backlog:
    """The listings of a backlog, and those that cross zero, with the versions of their targets."""

    def __init__(self, listings: int) -> None:
        self.listings = listings
        self.version = 0
        self.empty: set[int] = set()  # which of the crossing listings show nothing
        self.crossed: list[tuple[int, int, float]] = []  # item, what it shall show, when it was asked for

    def targets(self, numbers: Sequence[int], wanted: int) -> Iterator[tuple[int, tuple[bytes, bytes]]]:
        """The next targets of some listings, with their partition."""
        self.version += 1
        partition = partition_of(DOMAIN.encode(), PARTITIONS)
        for number in numbers:
            target = Target(
                shop=DOMAIN, item=FIRST_ITEM + number, location_id=LOCATION, sku=f"SKU-{number:06}",
                location="main", available=wanted, wanted=wanted, committed=0, physical_total=0,
                version=self.version,
            )  # fmt: skip
            yield partition, (target.record_key.encode(), encode(target))

    @property
    def slow(self) -> range:
        """The numbers of the listings that wait for their turn."""
        return range(CROSSING, CROSSING + self.listings)


class Shop:
    """The simulated shop's log and bucket, followed."""

    def __init__(self, admin: SimulatorAdmin, backlog: Backlog) -> None:
        self.looks: list[Look] = []
        self.throttled = self.requests = 0
        self.pushed: dict[int, list[tuple[float, int]]] = {}  # by item: when, and what it showed then
        self._admin = admin
        self._backlog = backlog
        self._after = 0

    async def look(self, wanted: int) -> Look:
        """Read what is new; ``wanted`` is what the backlog's listings shall show."""
        told = await self._admin.see("log", after=str(self._after), kind="pushed,request")
        for entry in told["entries"]:
            if entry["kind"] == "pushed":
                self.pushed.setdefault(entry["item"], []).append((entry["monotonic_s"], entry["available"]))
            else:
                self.requests += 1
                self.throttled += entry.get("result") == "THROTTLED"
        self._after = told["last"]
        [bucket] = (await self._admin.see("buckets"))["buckets"]
        written = sum(
            1
            for number in self._backlog.slow
            if self.pushed.get(FIRST_ITEM + number, [(0.0, SHOWN)])[-1][1] == wanted
        )
        self.looks.append(Look(time.monotonic(), bucket["spent"], bucket["available"], written))
        return self.looks[-1]


async def measure(directory: Path, listings: int, bar: Bar) -> dict[str, float]:
    """Both backlogs, one after the other.

    Raises:
        Retry: when a backlog does not drain in time, or a call was throttled after the first answers.
    """
    simulator_port, writer_port = free_port(), free_port()
    shops_file = directory / "shops.yaml"
    shops_file.write_text(yaml.safe_dump({"shops": {DOMAIN: _entry(simulator_port)}}))
    async with broker_at(directory / "kafka") as broker:
        settings = load_settings().model_copy(
            update={"bootstrap_servers": broker.bootstrap_servers, "partitions": PARTITIONS}
        )
        await topics.apply(settings)
        environment = {
            "KAFKA_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
            "SKUSTREAM_PARTITIONS": str(PARTITIONS),
            "SKUSTREAM_SHOPS_FILE": str(shops_file),
            "SKUSTREAM_DATA_DIR": str(directory / "data"),
            "SKUSTREAM_SHOPIFY_PORT": str(writer_port),
        }
        items = str(listings + CROSSING)
        simulator = [sys.executable, "-m", "benchmarks.backlog_shop", str(simulator_port), items]
        commands = [
            Command(simulator, {}, directory / "simulator"),
            Command([sys.executable, "-m", "app", "run", "shopify"], environment, directory / "writer"),
        ]
        with running(commands) as processes:
            async with SimulatorAdmin(f"http://127.0.0.1:{simulator_port}") as admin:
                return await _measured(broker.bootstrap_servers, admin, processes, listings, bar)


def _entry(port: int) -> dict[str, Any]:
    shop = shop_at(port)
    return {
        "api_url": shop.api_url,
        "access_token": shop.access_token,
        "webhook_secret": shop.webhook_secrets[0],
        "default_location_id": LOCATION,
    }


async def _measured(
    bootstrap: str, admin: SimulatorAdmin, processes: list[psutil.Process], listings: int, bar: Bar
) -> dict[str, float]:
    await _up(admin)
    backlog = Backlog(listings)
    shop = Shop(admin, backlog)
    # The listings that cross are known before: reading is not what is measured of them.
    await fill(bootstrap, "shopify.targets", backlog.targets(range(CROSSING), SHOWN + 1), lambda _: None)
    await _until_shown(shop, CROSSING)
    await admin.act("shops", domain=DOMAIN, bucket_capacity=CAPACITY, restore_rate=RESTORE_RATE)
    facts: dict[str, float] = {}
    for name, wanted in (("backlog", SHOWN + 2), ("known", SHOWN + 3)):
        facts |= await _drained(name, bootstrap, shop, backlog, processes, wanted, bar(name, listings))
    return facts


async def _up(admin: SimulatorAdmin) -> None:
    end = time.monotonic() + UP_LIMIT_S
    while time.monotonic() < end:
        try:
            await admin.see("healthz")
        except OSError:
            await asyncio.sleep(LOOK_S)
        else:
            return
    raise Retry(f"the simulated shop is not up within {UP_LIMIT_S:.0f} s")


async def _until_shown(shop: Shop, listings: int) -> None:
    end = time.monotonic() + UP_LIMIT_S
    while len(shop.pushed) < listings:
        if time.monotonic() > end:
            raise Retry(f"{len(shop.pushed)} of {listings} listings were written within {UP_LIMIT_S:.0f} s")
        await asyncio.sleep(LOOK_S)
        await shop.look(SHOWN)


async def _drained(
    name: str,
    bootstrap: str,
    shop: Shop,
    backlog: Backlog,
    processes: list[psutil.Process],
    wanted: int,
    progress: Progress,
) -> dict[str, float]:
    """Put a backlog in, follow it until it is written, and say what it took."""
    shop.looks.clear()
    backlog.crossed.clear()
    requests, throttled = shop.requests, shop.throttled
    before = [cpu_s(process) for process in processes]
    began = await shop.look(wanted)
    await fill(bootstrap, "shopify.targets", backlog.targets(backlog.slow, wanted), lambda _: None)
    crossing = asyncio.create_task(_cross(bootstrap, backlog))
    try:
        while (last := await shop.look(wanted)).written < backlog.listings:
            progress(last.written - shop.looks[-2].written)
            if last.at - began.at > DRAIN_LIMIT_S:
                raise Retry(f"{name}: {last.written} of {backlog.listings} written in {DRAIN_LIMIT_S:.0f} s")
            if crossing.done():
                crossing.result()
            _require_running(processes)
            await asyncio.sleep(LOOK_S)
    finally:
        crossing.cancel()
    under_load = list(backlog.crossed)
    await asyncio.sleep(2 * LOOK_S)
    await shop.look(wanted)
    seconds = last.at - began.at
    waits = sorted(_waits(shop, under_load))
    facts = {
        "seconds": round(seconds, 1),
        "listings_per_s": round(backlog.listings / seconds),
        "calls": shop.requests - requests,
        "throttled": shop.throttled - throttled,
        "points": round(last.spent - began.spent),
        "bucket_use_percent": _use(shop.looks, backlog.listings),
        "crossings": len(waits),
        "crossing_p50_ms": round(percentile(waits, 0.5) * 1000),
        "crossing_p99_ms": round(percentile(waits, 0.99) * 1000),
        "simulator_cpu_percent": round((cpu_s(processes[0]) - before[0]) / seconds * 100),
        "writer_cpu_percent": round((cpu_s(processes[1]) - before[1]) / seconds * 100),
    }
    return {f"{name}_{fact}": value for fact, value in facts.items()}


def _require_running(processes: Sequence[psutil.Process]) -> None:
    ended = [process.pid for process in processes if process.status() == psutil.STATUS_ZOMBIE]
    if ended:
        raise Retry(f"a measured process ended (pid {ended[0]}); see its log in the directory")


async def _cross(bootstrap: str, backlog: Backlog) -> None:
    """One listing after the other reaches zero, and then leaves it."""
    for number in cycle(range(CROSSING)):
        backlog.empty ^= {number}
        wanted = 0 if number in backlog.empty else SHOWN
        asked_at = time.monotonic()
        await fill(bootstrap, "shopify.targets", backlog.targets([number], wanted), lambda _: None)
        backlog.crossed.append((FIRST_ITEM + number, wanted, asked_at))
        await asyncio.sleep(CROSSING_PAUSE_S)


def _waits(shop: Shop, crossed: Sequence[tuple[int, int, float]]) -> Iterator[float]:
    """From the moment a crossing was asked for until the shop showed it, in seconds."""
    for item, wanted, asked_at in crossed:
        shown = [at for at, value in shop.pushed[item] if at >= asked_at and value == wanted]
        if not shown:
            raise Retry(f"item {item} was to show {wanted} and never did")
        yield shown[0] - asked_at


def _use(looks: Sequence[Look], listings: int) -> float:
    """What was spent of what the bucket gave, in percent: from the end of the burst until the backlog's end
    is near; 0 when the burst was enough for all of it.
    """
    limited = [
        look for look in looks if look.available <= CAPACITY * LOW and look.written < listings * ENDING
    ]
    if len(limited) < 2:
        return 0.0
    first, last = limited[0], limited[-1]
    given = (last.at - first.at) * RESTORE_RATE
    return round((last.spent - first.spent) / given * 100, 1)
