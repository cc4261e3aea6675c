"""``skustream bench latency``: from the receiver's 200 to the ledger, and to the other shop's stock."""

from __future__ import annotations

import asyncio
import gc
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psutil
from aiokafka import TopicPartition

from app.dev.facts import Shown, read_pushes, shown_writes
from app.dev.shops import DOMAINS, Key, SimulatorAdmin, catalogue, load
from app.dev.supervisor import Stack
from app.errors import Retry
from app.records import MovementKind, Outcome
from app.settings import load_settings
from app.shops import load_shops
from benchmarks.http_load import connect
from benchmarks.load import paced
from benchmarks.measure import Bar, cpu_s, percentile, reader, until
from benchmarks.webhooks import order_created

SKUS, OPENING = 200, 1_000_000
CONNECTIONS = 64
UP_LIMIT_S, LISTED_LIMIT_S, ARRIVE_LIMIT_S = 120.0, 120.0, 60.0
POLL_S = 0.2
COST_BUCKET = {"bucket_capacity": 20_000.0, "restore_rate": 1_000.0}
"""A Shopify Plus shop's: 1 000 points a second (shopify.dev, API limits)."""


class Load(NamedTuple):
    """What is sent: orders a second, for how long, and for how long before that without being measured."""

    rate: int
    seconds: float
    warm_s: float


class Seen:
    """When what was seen, in monotonic seconds."""

    def __init__(self) -> None:
        self.answered: dict[int, float] = {}  # by order
        self.in_ledger: dict[int, tuple[float, str, int]] = {}  # by order: when, stock key, version

    def all_in_ledger(self) -> bool:
        """Whether every answered order has its ledger record."""
        return len(self.in_ledger) >= len(self.answered)


async def measure(directory: Path, sent: Load, partitions: int, bar: Bar) -> dict[str, float]:
    """Send orders of one shop at a steady rate to the whole pipeline, with the other shop simulated.

    Raises:
        Retry: when an order does not reach the ledger, or the other shop, in time.
    """
    settings = load_settings().model_copy(update={"partitions": partitions})
    stack = Stack(directory, settings, environment={"SKUSTREAM_PARTITIONS": str(partitions)})
    keys = [key for key in catalogue(SKUS, OPENING) if key.location == "main"]
    try:
        await stack.start()
        await stack.wait_healthy(UP_LIMIT_S)
        async with SimulatorAdmin(stack.simulator_url) as admin:
            await load(stack.settings, admin, keys)
            await _listed(admin, keys)
            for domain in DOMAINS:
                await admin.act("shops", domain=domain, **COST_BUCKET)
            return await _run(stack, admin, keys, sent, bar)
    finally:
        await stack.stop()


async def _run(
    stack: Stack, admin: SimulatorAdmin, keys: list[Key], sent: Load, bar: Bar
) -> dict[str, float]:
    shop = load_shops(stack.shops_file)[DOMAINS[0]]
    seen = Seen()
    gc.disable()  # a pause of the one that looks at the clock is not the pipeline's
    reading = asyncio.create_task(_read_ledger(stack, seen))
    try:
        await _send(stack, shop, keys, seen, sent.rate, sent.warm_s, 1, bar)
        warm = len(seen.answered)
        await until(seen.all_in_ledger, ARRIVE_LIMIT_S, "every order in the ledger", reading)
        before = _cpu(stack)
        began = time.monotonic()
        await _send(stack, shop, keys, seen, sent.rate, sent.seconds, 1 + warm, bar)
        took = time.monotonic() - began
        await until(seen.all_in_ledger, ARRIVE_LIMIT_S, "every order in the ledger", reading)
        after = _cpu(stack)
    finally:
        reading.cancel()
    measured = [order for order in seen.answered if order > warm]
    to_ledger = [(seen.in_ledger[order][0] - seen.answered[order]) * 1000 for order in measured]
    to_shop = await _to_shop(stack, admin, keys, seen, measured)
    facts = {
        "partitions": stack.settings.partitions,
        "orders": len(measured),
        "orders_per_s": round(len(measured) / took),
        "ledger_ms_p50": round(percentile(to_ledger, 0.5), 1),
        "ledger_ms_p99": round(percentile(to_ledger, 0.99), 1),
        "other_shop_ms_p50": round(percentile(to_shop, 0.5), 1),
        "other_shop_ms_p99": round(percentile(to_shop, 0.99), 1),
    }
    for name, used_s in after.items():
        facts[f"{name}_cpu_percent"] = round((used_s - before[name]) / took * 100, 1)
    return facts


async def _send(
    stack: Stack, shop: Any, keys: list[Key], seen: Seen, rate: int, seconds: float, first: int, bar: Bar
) -> None:
    """Orders at a steady rate; each connection has one request under way."""
    waiting: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()
    progress = bar("orders", int(rate * seconds))

    async def work() -> None:
        connection = await connect(stack.receiver_port)
        try:
            while True:
                order, request = await waiting.get()
                if connection.closed:
                    connection = await connect(stack.receiver_port)
                status = await connection.ask(request)
                if status != 200:
                    raise Retry(f"the receiver answered {status}")
                seen.answered[order] = time.monotonic()
                progress(1)
                waiting.task_done()
        finally:
            connection.transport.close()

    def send(number: int) -> None:
        order = first + number
        waiting.put_nowait((order, order_created(shop, order, keys[order % len(keys)], 0)))

    workers = [asyncio.create_task(work()) for _ in range(CONNECTIONS)]
    try:
        await paced(rate, seconds, send)
        joined = asyncio.create_task(waiting.join())
        await asyncio.wait({joined, *workers}, return_when=asyncio.FIRST_COMPLETED)
        for worker in workers:
            if worker.done():
                worker.result()
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def _read_ledger(stack: Stack, seen: Seen) -> None:
    consumer = reader(stack.bootstrap, fetch_max_wait_ms=20)
    await consumer.start()
    decode = msgspec.json.Decoder(Outcome).decode
    try:
        consumer.assign([TopicPartition("stock.ledger", p) for p in range(stack.settings.partitions)])
        while True:
            fetched = await consumer.getmany(timeout_ms=100)
            now = time.monotonic()
            for outcome in (decode(record.value) for records in fetched.values() for record in records):
                movement = outcome.movement
                if movement.kind is MovementKind.COMMITTED and movement.cause.order is not None:
                    seen.in_ledger[movement.cause.order] = now, movement.key, outcome.version
    finally:
        await consumer.stop()


async def _to_shop(
    stack: Stack, admin: SimulatorAdmin, keys: list[Key], seen: Seen, orders: list[int]
) -> list[float]:
    """For each order: milliseconds from the 200 until the other shop had applied its effect."""
    other = {key.name: key.listings[1].key for key in keys}
    end = time.monotonic() + ARRIVE_LIMIT_S
    while True:
        pushes = await read_pushes(stack.settings)
        shown = shown_writes(pushes, (await admin.see("log"))["entries"])
        arrived = [
            shown.get(other[seen.in_ledger[o][1]], Shown()).since(seen.in_ledger[o][2]) for o in orders
        ]
        if float("inf") not in arrived:
            return [(at - seen.answered[order]) * 1000 for at, order in zip(arrived, orders, strict=True)]
        if time.monotonic() > end:
            raise Retry(f"{arrived.count(float('inf'))} orders never reached the other shop")
        await asyncio.sleep(POLL_S)


async def _listed(admin: SimulatorAdmin, keys: list[Key]) -> None:
    """Wait until both shops show the opening."""
    wanted = {listing.key for key in keys for listing in key.listings}
    end = time.monotonic() + LISTED_LIMIT_S
    while True:
        rows = (await admin.see("stock"))["levels"]
        shown = {
            f"{row['shop']}/{row['item']}/{row['location']}" for row in rows if row["available"] == OPENING
        }
        if wanted <= shown:
            return
        if time.monotonic() > end:
            raise Retry(f"{len(wanted - shown)} listings never showed their opening")
        await asyncio.sleep(POLL_S)


def _cpu(stack: Stack) -> dict[str, float]:
    """CPU seconds of every process of the stack so far, by name."""
    found: dict[str, float] = defaultdict(float)
    for name, pid in _pids(stack):
        found[name] += cpu_s(psutil.Process(pid))
    return found


def _pids(stack: Stack) -> Iterator[tuple[str, int]]:
    for name, process in stack.processes.items():
        if process.state.pid is not None:
            yield name, process.state.pid
    for broker in stack.cluster.brokers if stack.cluster is not None else []:
        if broker.process is not None:
            yield "kafka", broker.process.pid
