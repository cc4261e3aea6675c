"""``skustream bench adjuster`` and ``growth``: the stock service with its real rules, ids and targets."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import msgspec
import psutil

from app import topics
from app.errors import Retry
from app.exactly_once.partitioner import partition_of
from app.exactly_once.positions import Position, positions_topic
from app.local_kafka import LocalKafka, free_port
from app.records import Cause, Level, Listing, Movement, MovementKind, StockRecord, encode
from app.settings import Settings, load_settings
from benchmarks.engine import Course, systems
from benchmarks.floor import Stored, floor
from benchmarks.load import PARTITIONS, Record, fill
from benchmarks.measure import Bar, Progress, Run, count, drain
from benchmarks.processes import Command, broker_at, running

DRAIN_LIMIT_S = 420.0
KEYS = 40_000
SIZES = (10_000, 1_000_000, 5_000_000)
FLOOR_EVENTS = 20_000
SOURCES = ("stock.movements", "stock.listings")
SHOPS = ("north.myshopify.com", "south.myshopify.com")
KINDS = (MovementKind.SOLD, MovementKind.SOLD, MovementKind.COMMITTED, MovementKind.RECEIVED)
MARK = "SKU-00000000"
"""A SKU in a template, replaced by each key's own of the same length."""


async def measure(directory: Path, events: int, keys: int, bar: Bar) -> dict[str, float]:
    """The adjuster beside the engine's toy, one process each, on one broker; and its floor."""
    async with broker_at(directory / "kafka") as broker:
        course = Course(directory, broker)
        await course.load(events, bar("loading the toy's events", events))
        toy = next(system for system in systems() if system.name == "engine_one_process")
        engine = await course.backlog(toy, events, bar("engine", events))
        run = await adjust(directory, broker, events, keys, bar)
    few = [record for _, record in movements(FLOOR_EVENTS, keys)]
    least = floor(directory / "floor", (record for _, record in stock_records(keys)), few)
    return {
        "adjuster_events_per_s": run.events_per_s,
        "engine_events_per_s": engine.events_per_s,
        "ratio_engine": round(run.events_per_s / engine.events_per_s, 3),
        "adjuster_cpu_s_per_million": run.cpu_s_per_million,
        "engine_cpu_s_per_million": engine.cpu_s_per_million,
        "broker_cpu_s_per_million": run.broker_cpu_s_per_million,
        "keys": keys,
        "rss_mb_start": run.rss_mb_start,
        "rss_mb_end": run.rss_mb_end,
        **least,
    }


async def grow(directory: Path, events: int, sizes: Iterable[int], bar: Bar) -> dict[str, float]:
    """The adjuster's speed and memory by the number of keys, a fresh broker each."""
    facts: dict[str, float] = {}
    speeds = []
    for keys in sizes:
        place = directory / str(keys)
        async with broker_at(place / "kafka") as broker:
            run = await adjust(place, broker, events, keys, bar)
        speeds.append(run.events_per_s)
        facts[f"events_per_s_{keys}_keys"] = run.events_per_s
        facts[f"cpu_s_per_million_{keys}_keys"] = run.cpu_s_per_million
        facts[f"rss_mb_{keys}_keys"] = run.rss_mb_end
    facts["ratio_last_to_first"] = round(speeds[-1] / speeds[0], 3)
    return facts


async def adjust(directory: Path, broker: LocalKafka, events: int, keys: int, bar: Bar) -> Run:
    """Let one process of the stock service restore ``keys`` keys and drain ``events`` movements.

    Raises:
        Retry: when the ledger has not exactly one outcome for each movement.
    """
    settings = load_settings().model_copy(
        update={"bootstrap_servers": broker.bootstrap_servers, "partitions": PARTITIONS}
    )
    assert broker.process is not None, "started by the caller"
    await topics.apply(settings)
    bootstrap = broker.bootstrap_servers
    await fill_stock(bootstrap, keys, bar(f"loading {keys:,} keys", keys))
    moving = bar("loading movements", events)
    await fill(bootstrap, "stock.movements", movements(events, keys), moving)
    with running([stock_worker(settings, directory / "stock")]) as processes:
        run = await drain(
            bootstrap,
            "skustream.stock",
            ["stock.movements"],
            events,
            processes,
            psutil.Process(broker.process.pid),
            DRAIN_LIMIT_S,
            bar(f"adjuster, {keys:,} keys", events),
        )
    found = await count(bootstrap, "stock.ledger")
    if found != events:
        raise Retry(f"adjuster: {events} movements, {found} outcomes; see {directory}")
    return run


async def fill_stock(bootstrap: str, keys: int, progress: Progress) -> None:
    """Write the changelog of so many keys, and the positions of lanes that have read nothing since."""
    await fill(bootstrap, "stock.levels", stock_records(keys), progress)
    await fill(bootstrap, positions_topic("stock"), positions(SOURCES), lambda _: None)


def stock_worker(settings: Settings, directory: Path) -> Command:
    """One process of the stock service with a data directory of its own."""
    environment = {
        "KAFKA_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
        "SKUSTREAM_PARTITIONS": str(settings.partitions),
        "SKUSTREAM_DATA_DIR": str(directory / "data"),
        "SKUSTREAM_STOCK_PORT": str(free_port()),
        "SKUSTREAM_LOG_LEVEL": "warning",
    }
    return Command([sys.executable, "-m", "app", "run", "stock"], environment, directory)


def _sku(number: int) -> bytes:
    return b"SKU-%08d" % number


def stock_records(keys: int) -> Iterator[tuple[int, Stored]]:
    """The changelog of so many opened keys, each listed in two shops."""
    opened = datetime(2026, 11, 1, tzinfo=UTC)
    listings = [Listing(shop=shop, item=1, variant=2, location_id=3) for shop in SHOPS]
    record = StockRecord(
        level=Level(on_hand=100_000),
        version=1,
        opened_at=opened,
        counted_as_of=int(opened.timestamp() * 1000),
        listings=listings,
        updated_at=opened,
    )
    value = encode(record).replace(b'"item":1,', b'"item":1%08d,')
    for number in range(keys):
        key = _sku(number) + b"@main"
        yield partition_of(key, PARTITIONS), (key, value % ((number,) * len(SHOPS)))


def movements(events: int, keys: int, seed: int = 1) -> Iterator[tuple[int, Stored]]:
    """Sales of tills and shops, and receipts, of keys at random."""
    random = Random(seed)
    templates = [_template(kind) for kind in KINDS]
    for number in range(events):
        sku = _sku(random.randrange(keys))
        value = templates[number % len(templates)].replace(b"N" * 12, b"%012d" % number)
        key = sku + b"@main"
        yield partition_of(key, PARTITIONS), (key, value.replace(MARK.encode(), sku))


def _template(kind: MovementKind) -> bytes:
    cause = Cause()
    if kind is MovementKind.COMMITTED:
        cause = Cause(shop=SHOPS[0], order=450789469, line=466157049, listing=f"{SHOPS[0]}/1/3")
    movement = Movement(
        id=f"bench:{'N' * 12}",
        kind=kind,
        sku=MARK,
        location="main",
        quantity=1,
        source="bench",
        occurred_at=datetime(2026, 11, 2, tzinfo=UTC),
        correlation_id="8e3ae8e9-9f6e-4d0c-8b2e-0e6b5f2a7c11",
        cause=cause,
    )
    return encode(movement)


def positions(sources: Iterable[str]) -> Iterator[tuple[int, Record]]:
    """The position record of every lane, at the beginning of its sources."""
    value = msgspec.json.encode(Position(offsets=dict.fromkeys(sources, 0)))
    for number in range(PARTITIONS):
        yield number, (str(number).encode(), value)
