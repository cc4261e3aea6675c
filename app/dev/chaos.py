"""Chaos: the real ``orders`` and ``stock`` services under kills, pauses, lost brokers and full disks.

Two workers of each, input all the time. Afterwards everything is compared from outside: each event has one
outcome, the levels are the exact sums, and stores rebuilt from nothing equal the survivors' byte by byte.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from msgspec import Raw, Struct

from app.dev.shops import DOMAINS, Key, catalogue, location_id, open_keys, require_empty
from app.dev.supervisor import Ended, Stack
from app.dev.trouble import Tell, Trouble, small_disks
from app.exactly_once.partitioner import partition_of
from app.exactly_once.store import StoreView
from app.kafka_tools import levels, read_topic
from app.lag import lag_of
from app.records import (
    Envelope,
    Fulfillment,
    FulfillmentLine,
    Movement,
    MovementKind,
    Order,
    OrderLine,
    Outcome,
    Record,
    Result,
    encode,
    headers,
)
from app.services import WORKERS
from app.settings import Settings
from app.verify import verify

SERVICES = ("orders", "stock")
SESSION_S = 6.0
EVENTS_A_SECOND = 1_000
REPEATED = 0.03
SKUS = 200
UP_LIMIT_S = 120.0
DRAIN_LIMIT_S = 240.0


class Facts(Struct, frozen=True, kw_only=True):
    """What chaos prints."""

    events: int  # records sent, repetitions included
    kills: int
    pauses: int
    brokers_killed: int
    disks_filled: int
    lost: int  # movements without an applied outcome
    doubled: int  # applied outcomes of a movement beyond the first
    total_error: int  # units by which levels differ from the exact sums, over all keys
    stores_equal: bool  # rebuilt from the changelogs = the survivors', byte by byte
    verify_equal: bool  # what `skustream verify --ledger` says of the running workers

    @property
    def add_up(self) -> bool:
        """Whether everything is as promised."""
        exact = not (self.lost or self.doubled or self.total_error)
        return self.events > 0 and exact and self.stores_equal and self.verify_equal


class Input:
    """What is sent, and what must come of it."""

    def __init__(self, settings: Settings, keys: list[Key], random: Random) -> None:
        self.sent = 0
        self.movements: set[str] = set()
        self.on_hand: Counter[str] = Counter({key.name: key.opening for key in keys})
        self.committed: Counter[str] = Counter()
        self._settings = settings
        self._keys = keys
        self._random = random
        self._numbers = iter(range(1, 1 << 40))
        self._began = datetime.now(UTC)

    async def run(self, seconds: float) -> None:
        """Send at a steady pace, and until the broker has everything."""
        producer = AIOKafkaProducer(
            **self._settings.kafka_options(), acks="all", enable_idempotence=True, linger_ms=5
        )
        await producer.start()
        try:
            begin = time.monotonic()
            while (spent := time.monotonic() - begin) < seconds:
                await self._send(producer, [one for _ in range(50) for one in self._some()])
                await asyncio.sleep(max(0.0, self.sent / EVENTS_A_SECOND - spent))
        finally:
            await producer.stop()

    async def _send(self, producer: AIOKafkaProducer, records: list[tuple[str, str, Record]]) -> None:
        """All of them, whatever it takes; what is sent twice must change nothing."""
        waiting = records + [one for one in records if self._random.random() < REPEATED]
        self.sent += len(waiting)
        while waiting:
            futures = [await self._begin(producer, *record) for record in waiting]
            answers = await asyncio.gather(*futures, return_exceptions=True)
            failed = [
                one for one, answer in zip(waiting, answers, strict=True) if isinstance(answer, KafkaError)
            ]
            others = [
                one for one in answers if isinstance(one, Exception) and not isinstance(one, KafkaError)
            ]
            if others:
                raise others[0]
            waiting = failed

    async def _begin(
        self, producer: AIOKafkaProducer, topic: str, key: str, record: Record
    ) -> asyncio.Future[object]:
        partition = partition_of(key.encode(), self._settings.partitions)
        head = headers(record, "")
        future: asyncio.Future[object] = await producer.send(
            topic, encode(record), key.encode(), partition=partition, headers=head
        )
        return future

    def _some(self) -> Iterator[tuple[str, str, Record]]:
        """One event of the outside, as one or two records."""
        if self._random.random() < 0.5:
            movement = self._movement()
            yield "stock.movements", movement.key, movement
        else:
            yield from self._order()

    def _movement(self) -> Movement:
        key = self._random.choice(self._keys)
        kind = self._random.choice((MovementKind.SOLD, MovementKind.RECEIVED))
        quantity = self._random.randint(1, 5)
        self.on_hand[key.name] += quantity if kind is MovementKind.RECEIVED else -quantity
        number = next(self._numbers)
        return self._expected(
            Movement(
                id=f"chaos-{number}",
                kind=kind,
                sku=key.sku,
                location=key.location,
                quantity=quantity,
                source="chaos",
                occurred_at=datetime.now(UTC),
            )
        )

    def _expected(self, movement: Movement) -> Movement:
        self.movements.add(movement.id)
        return movement

    def _order(self) -> Iterator[tuple[str, str, Record]]:
        """An order of two lines, and for some of them its shipment."""
        number, now = next(self._numbers), datetime.now(UTC)
        shop, lines = DOMAINS[0], []
        for key in self._random.sample(self._keys, 2):
            line, quantity = next(self._numbers), self._random.randint(1, 3)
            lines.append(
                OrderLine(
                    id=line,
                    quantity=quantity,
                    fulfillable_quantity=quantity,
                    variant_id=key.listings[0].variant,
                    variant_inventory_management="shopify",
                )
            )
            self.movements.add(f"shopify:{shop}/{number}/committed/{line}/0-{quantity}")
            self.committed[key.name] += quantity
        created = Order(id=number, created_at=now, updated_at=now, line_items=lines)
        yield self._webhook("orders/create", created)
        if self._random.random() < 0.3:
            yield self._webhook("orders/updated", self._shipped(created))

    def _shipped(self, order: Order) -> Order:
        fulfillment, now = next(self._numbers), order.updated_at + timedelta(seconds=1)
        by_variant = {key.listings[0].variant: key.name for key in self._keys}
        for line in order.line_items:
            self.movements.add(
                f"shopify:{DOMAINS[0]}/{order.id}/shipped/{fulfillment}/{line.id}/0-{line.quantity}"
            )
            name = by_variant[line.variant_id or 0]
            self.committed[name] -= line.quantity
            self.on_hand[name] -= line.quantity
        parts = [FulfillmentLine(id=line.id, quantity=line.quantity) for line in order.line_items]
        sent = Fulfillment(
            id=fulfillment,
            created_at=now,
            status="success",
            location_id=location_id(0, 0),
            line_items=parts,
        )
        lines = [msgspec.structs.replace(line, fulfillable_quantity=0) for line in order.line_items]
        return msgspec.structs.replace(order, updated_at=now, line_items=lines, fulfillments=[sent])

    def _webhook(self, topic: str, order: Order) -> tuple[str, str, Record]:
        envelope = Envelope(
            shop=DOMAINS[0],
            topic=topic,
            received_at=datetime.now(UTC),
            order_id=order.id,
            body=Raw(encode(order)),
        )
        return "shopify.orders", f"{DOMAINS[0]}/{order.id}", envelope


def _failed(answer: object) -> bool:
    if isinstance(answer, BaseException) and not isinstance(answer, KafkaError):
        raise answer
    return isinstance(answer, KafkaError)


def chaos_stack(
    directory: Path, settings: Settings, external: str | None, *, brokers: int = 1, standbys: int = 0
) -> Stack:
    """What is tortured: two workers of each service, which give up a dead one soon."""
    environment = {
        "SKUSTREAM_SESSION_TIMEOUT_S": str(SESSION_S),
        "SKUSTREAM_STANDBY_REPLICAS": str(standbys),
    }
    return Stack(
        directory,
        settings,
        workers=dict.fromkeys(SERVICES, 2),
        only=SERVICES,
        environment=environment,
        external=external,
        brokers=brokers,
    )


async def chaos(stack: Stack, seconds: float, seed: int, tell: Tell) -> Facts:
    """Run chaos on a stack that is not started yet, and compare; stops it in any case."""
    data = stack.directory / "data"
    with small_disks([data / f"{service}-2" for service in SERVICES]) as disks:
        if not disks:
            tell("full disks are left out: mounting a tmpfs needs root")
        return await _chaos(stack, seconds, seed, tell, disks)


async def _chaos(stack: Stack, seconds: float, seed: int, tell: Tell, disks: list[Path]) -> Facts:
    keys = [key for key in catalogue(SKUS, 1_000_000) if key.location == "main"]
    try:
        tell(f"seed {seed}: starting Kafka and two workers each of {' and '.join(SERVICES)}")
        await stack.start()
        await stack.wait_healthy(UP_LIMIT_S)
        await require_empty(stack.settings)
        # Before the first event: a count absorbs what happened until then.
        await open_keys(stack.settings, keys, datetime.now(UTC) - timedelta(minutes=1))
        source = Input(stack.settings, keys, Random(seed))
        trouble = Trouble(stack, Random(seed), tell, disks)
        async with asyncio.TaskGroup() as group:
            group.create_task(source.run(seconds))
            group.create_task(trouble.run(seconds))
        tell(f"{source.sent} events sent; waiting until all are taken")
        await _drained(stack)
        lost, doubled = await _outcomes(stack.settings, source)
        total_error = await _total_error(stack.settings, source)
        tell("verifying the stores of the running workers")
        await stack.wait_healthy(UP_LIMIT_S)
        survivors = [stack.directory / "data" / name for name in stack.processes]
        verified = [
            one
            for service in SERVICES
            for root in survivors
            if root.name.startswith(service)
            for one in await verify(stack.settings, root, [service], ledger=True)
        ]
        for one in verified:
            if not one.equal:
                tell(f"{one.store} at {one.offset} differs: {'; '.join(one.differing)}")
        tell("rebuilding every store from nothing")
        rebuilt = await _rebuild(stack)
        return Facts(
            events=source.sent,
            kills=trouble.kills,
            pauses=trouble.pauses,
            brokers_killed=trouble.brokers_killed,
            disks_filled=trouble.disks_filled,
            lost=lost,
            doubled=doubled,
            total_error=total_error,
            stores_equal=_newest_stores(survivors) == _newest_stores(rebuilt),
            verify_equal=all(one.equal for one in verified),
        )
    finally:
        await stack.stop()


async def _drained(stack: Stack) -> None:
    end = time.monotonic() + DRAIN_LIMIT_S
    still = 0
    topics = {one: WORKERS[one](stack.settings).source_topics for one in SERVICES}
    while still < 2:  # orders may emit after stock was looked at
        lags = {one: await lag_of(stack.settings, one, sources) for one, sources in topics.items()}
        still = 0 if any(lags.values()) else still + 1
        if time.monotonic() > end:
            raise Ended(f"not taken within {DRAIN_LIMIT_S:.0f} s: {lags}; see {stack.directory}/logs")


async def _outcomes(settings: Settings, source: Input) -> tuple[int, int]:
    """Movements without an applied outcome, and applied outcomes that should not be."""
    applied: Counter[str] = Counter()
    decode = msgspec.json.Decoder(Outcome).decode
    async for records in read_topic(settings, "stock.ledger"):
        for record in records:
            outcome = decode(record.value)
            if outcome.result is Result.APPLIED and outcome.movement.kind is not MovementKind.COUNTED:
                applied[outcome.movement.id] += 1
    lost = len(source.movements - applied.keys())
    doubled = sum(applied.values()) - len(applied) + len(applied.keys() - source.movements)
    return lost, doubled


async def _total_error(settings: Settings, source: Input) -> int:
    known = await levels(settings)
    return sum(
        abs(known[name].level.on_hand - source.on_hand[name])
        + abs(known[name].level.committed - source.committed[name])
        for name in source.on_hand
    )


async def _rebuild(stack: Stack) -> list[Path]:
    """Stop the workers, and let one of each service with an empty data directory restore everything."""
    await stack.stop_processes()
    data_dir = stack.directory / "rebuilt"
    await stack.start_processes({}, data_dir)
    await stack.wait_healthy(UP_LIMIT_S)
    await stack.stop_processes()
    return [data_dir / service for service in SERVICES]


def _newest_stores(roots: list[Path]) -> dict[str, dict[bytes, bytes]]:
    """The contents of each table's partition, from the store that went furthest."""
    found: dict[str, tuple[int, dict[bytes, bytes]]] = {}
    for root in roots:
        for path in sorted(root.glob("*/*/*")):
            if not path.name.isdigit():
                continue
            store = StoreView(path)
            name = str(path.relative_to(root))
            if store.offset > found.get(name, (-1, {}))[0]:
                found[name] = store.offset, dict(store.scan())
            store.close()
    return {name: content for name, (_, content) in found.items()}
