"""The inventory adjuster: movements and listings of a key in, its level, ledger, targets and alerts out."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b
from itertools import islice
from typing import Any

import msgspec
import structlog
from msgspec import Struct

from agents.source import own_key, payload_of
from app.errors import Rejected
from app.exactly_once import App, Lane, SourceRecord, Table, Transaction
from app.records import (
    Listings,
    Movement,
    Result,
    StockRecord,
    correlation_of,
    encode,
    headers,
    split_stock_key,
)
from tables import generations, stock

DAY_MS = 24 * 60 * 60 * 1000
DIGEST_BYTES = 16
"""Of a movement id: a collision among a hundred billion ids is less likely than one in 10^16."""
SWEEP_KEYS = 5_000
"""Expired ids deleted in one transaction."""
SWEEP_PAUSE_S = 60.0
"""Between two looks whether the lane's stream day has risen."""

log = structlog.get_logger(__name__)
tells = logging.getLogger(__name__).isEnabledFor
"""Asked first: a line that is not shown costs a microsecond, and there is one for each movement."""

_UNKNOWN = StockRecord()
"""The state of a key that nobody has told anything about."""

decode_movement = msgspec.json.Decoder(Movement).decode
decode_listings = msgspec.json.Decoder(Listings).decode


class Rules(Struct, frozen=True, kw_only=True):
    """The settings of the adjuster."""

    seen_days: int = 120
    low_water: int = 0
    authority: stock.Authority = stock.Authority()


def register(app: App, rules: Rules) -> None:
    """Declare the adjuster's tables, topics and agents on a service."""
    adjuster = Adjuster(app, rules)
    movements = app.batch_topic("stock.movements", state=adjuster.stock)
    listings = app.batch_topic("stock.listings")

    @app.agent(movements, name="adjust")  # type: ignore[untyped-decorator]  # faust ships no types
    async def adjust(batches: Any) -> None:
        async for batch in batches:
            await app.process(batch, adjuster.move)

    @app.agent(listings, name="list")  # type: ignore[untyped-decorator]  # faust ships no types
    async def list_keys(batches: Any) -> None:
        async for batch in batches:
            await app.process(batch, adjuster.list)

    sweeper = Sweeper(app, adjuster.seen, rules.seen_days)
    app.on_lane_opened(sweeper.start)
    app.on_lane_closed(sweeper.stop)


class Adjuster:
    """Decides movements and listings over the tables ``stock`` and ``seen``."""

    def __init__(self, app: App, rules: Rules) -> None:
        self.stock: Table[StockRecord] = app.state_table(
            "stock", StockRecord, changelog="stock.levels", derive=emit_targets
        )
        self.seen: Table[int] = app.state_table("seen", int, remember=False)
        self._rules = rules

    def move(self, transaction: Transaction, record: SourceRecord) -> None:
        """Apply one movement, unless its id was answered before."""
        movement = decode_movement(payload_of(record, Movement))
        key = own_key(record, movement.key)
        digest, day = digest_of(movement.id), transaction.stream_time_ms // DAY_MS
        known = transaction.get(self.seen, digest)
        applied = stock.apply(
            transaction.get(self.stock, key) or _UNKNOWN,
            movement,
            now=_moment(transaction),
            seen=known is not None and day - known <= self._rules.seen_days,
            authority=self._rules.authority,
            low_water=self._rules.low_water,
            origin=f"{record.topic}/{record.partition}/{record.offset}",
        )
        if applied.outcome.result is not Result.DUPLICATE:
            transaction.put(self.seen, digest, day)
            transaction.put(self.stock, key, applied.record)
        self._tell(transaction, key, record, applied)

    def list(self, transaction: Transaction, record: SourceRecord) -> None:
        """Take the listings of a key; an empty value takes them all away."""
        key, listings = _listings_of(record)
        known = transaction.get(self.stock, key) or _UNKNOWN
        at_ms = min(record.timestamp, transaction.now_ms)
        told = generations.told(listings.listings, known.listings, at_ms)
        listings = msgspec.structs.replace(listings, listings=told)
        if known.listings == listings.listings:
            return
        correlation_id = correlation_of(record.headers)
        for listing, units in stock.left_behind(known, listings).items():
            log.warning(
                "open orders hold units of a listing that was taken away; what they do stays with the key",
                key=key.decode(),
                listing=listing,
                units=units,
                correlation_id=correlation_id,
            )
        changed = stock.set_listings(known, listings, now=_moment(transaction), correlation_id=correlation_id)
        transaction.put(self.stock, key, changed)

    def _tell(
        self, transaction: Transaction, key: bytes, record: SourceRecord, applied: stock.Applied
    ) -> None:
        outcome = applied.outcome
        correlation_id = outcome.movement.correlation_id or correlation_of(record.headers)
        transaction.emit("stock.ledger", key, encode(outcome), headers(outcome, correlation_id))
        for alert in applied.alerts:
            transaction.emit("stock.alerts", key, encode(alert), headers(alert, correlation_id))
        if tells(logging.DEBUG):
            log.debug(
                "a movement was decided",
                key=key.decode(),
                movement=outcome.movement.id,
                result=str(outcome.result),
                version=outcome.version,
                correlation_id=correlation_id,
            )


class Sweeper:
    """Deletes expired movement ids, lane by lane, whenever the lane's stream time has reached a new day."""

    def __init__(self, app: App, seen: Table[int], seen_days: int) -> None:
        self._app = app
        self._seen = seen
        self._seen_days = seen_days
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def start(self, lane: Lane) -> None:
        """Sweep this lane from now on."""
        self._tasks[lane.partition] = self._app.background(self._run(lane), f"sweep lane {lane.partition}")

    def stop(self, lane: Lane) -> None:
        """Stop sweeping this lane."""
        self._tasks.pop(lane.partition).cancel()

    async def _run(self, lane: Lane) -> None:
        swept_day = -1
        while True:
            day = lane.position.stream_time_ms // DAY_MS
            while day > swept_day and await self._sweep(lane, day):
                pass
            swept_day = day
            await asyncio.sleep(SWEEP_PAUSE_S)

    async def _sweep(self, lane: Lane, day: int) -> bool:
        """Delete one portion of expired ids; returns whether there may be more."""
        old = (key for key, seen_on in lane.scan(self._seen) if day - seen_on > self._seen_days)
        expired = list(islice(old, SWEEP_KEYS))

        def delete(transaction: Transaction) -> None:
            for key in expired:
                transaction.delete(self._seen, key)

        if expired:
            await lane.submit(delete)
        return len(expired) == SWEEP_KEYS


def emit_targets(
    transaction: Transaction, key: bytes, before: StockRecord | None, after: StockRecord | None
) -> None:
    """Publish what a key's listings should show now, all of a shop in one partition."""
    if after is None:
        return
    targets = stock.targets(key.decode(), before or _UNKNOWN, after)
    if targets:
        head = headers(targets[0], after.correlation_id)
        for target in targets:
            route = target.shop.encode()
            transaction.emit("shopify.targets", target.record_key.encode(), encode(target), head, route)


def digest_of(movement_id: str) -> bytes:
    """The key of a movement id in table ``seen``."""
    return blake2b(movement_id.encode(), digest_size=DIGEST_BYTES).digest()


def _listings_of(record: SourceRecord) -> tuple[bytes, Listings]:
    """The key of a record and its listings: none when its value is empty."""
    key = record.key or b""
    try:
        sku, location = split_stock_key(key.decode())
    except ValueError as error:  # not text, or without an "@"
        raise Rejected(f"{record.topic}: {error}") from None
    if record.value is None:
        return key, Listings(sku=sku, location=location)
    listings = decode_listings(payload_of(record, Listings))
    return own_key(record, f"{listings.sku}@{listings.location}"), listings


def _moment(transaction: Transaction) -> datetime:
    return _instant(transaction.now_ms)


@lru_cache(maxsize=1)
def _instant(now_ms: int) -> datetime:
    return datetime.fromtimestamp(now_ms / 1000, UTC)
