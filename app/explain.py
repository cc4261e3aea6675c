"""Explain a stock key: read what the topics hold of it, and only that, and check that it adds up.

A key's own records are in one partition of each ``stock`` topic, those of its listings in one partition for
each shop. Everything is read ``read_committed``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from agents.shopify.writer import Paused
from app.exactly_once.partitioner import partition_of
from app.kafka_tools import read_topic
from app.records import (
    Alert,
    DeadLetter,
    Drift,
    Envelope,
    Outcome,
    Push,
    Record,
    Result,
    StockRecord,
    Target,
    correlation_of,
    stock_key,
)
from app.settings import Settings
from tables import chain
from tables.chain import Check, Event, Explanation, Kind, Shown
from tables.pushes import PushState

READS = 3
"""A key that changes while it is read is read again, so often."""
PLAIN_WIDTH = 200
"""Columns of the table when nobody's terminal tells."""


class Source(Struct, frozen=True, kw_only=True):
    """A topic with records of a key or a listing, and what they are."""

    topic: str
    kind: Kind
    record: type[Record]


OF_THE_KEY = (
    Source(topic="stock.ledger", kind=Kind.MOVEMENT, record=Outcome),
    Source(topic="stock.alerts", kind=Kind.ALERT, record=Alert),
    Source(topic="dead-letters.stock", kind=Kind.DEAD_LETTER, record=DeadLetter),
)
OF_A_LISTING = (
    Source(topic="shopify.targets", kind=Kind.TARGET, record=Target),
    Source(topic="shopify.pushes", kind=Kind.PUSH, record=Push),
    Source(topic="shopify.drift", kind=Kind.DRIFT, record=Drift),
    Source(topic="dead-letters.shopify", kind=Kind.DEAD_LETTER, record=DeadLetter),
)
OF_AN_ORDER = (Source(topic="shopify.orders", kind=Kind.WEBHOOK, record=Envelope),)
BELIEFS, PAUSED = "skustream.shopify.pushes", "skustream.shopify.paused"


async def explain(
    settings: Settings, sku: str, location: str, *, since: datetime | None = None, webhooks: bool = False
) -> Explanation | None:
    """All that is known of a key, or None when nothing is; ``webhooks`` adds those of its orders.

    Raises:
        BrokerUnavailable: when no broker answers.
    """
    key = stock_key(sku, location)
    for tries_left in reversed(range(READS)):
        before = await _level(settings, key)
        found = await _read(settings, key, before, since, webhooks=webhooks)
        level = await _level(settings, key)
        if level == before or not tries_left:
            break
    if level is None and not found.events:
        return None
    alerts_from = datetime.now(UTC) - timedelta(days=settings.retention_days)
    checks = chain.check_all(
        level or StockRecord(), found.events, whole=since is None, alerts_from=alerts_from
    )
    if level != before:
        moving = f"it went to version {level.version if level else 0} meanwhile; ask again when it is quiet"
        checks.append(Check(name="the key did not change while it was read", ok=False, detail=moving))
    return Explanation(
        sku=sku,
        location=location,
        since=since,
        level=level,
        available=level.level.available if level is not None else None,
        listings=found.listings,
        events=chain.in_order(found.events),
        checks=checks,
    )


class _Found(Struct, kw_only=True):
    events: list[Event]
    listings: list[Shown]


async def _read(
    settings: Settings, key: str, level: StockRecord | None, since: datetime | None, *, webhooks: bool
) -> _Found:
    reader = _Reader(settings, since)
    events = [event for source in OF_THE_KEY for event in await reader.events(source, {key: key})]
    outcomes: list[Outcome] = [event.record for event in events if event.kind is Kind.MOVEMENT]
    listings = {outcome.movement.cause.listing for outcome in outcomes} - {""}
    if level is not None:
        listings |= {*level.moved, *(listing.key for listing in level.listings)}
    routes = {listing: listing.partition("/")[0] for listing in listings}
    of_key = {f"{listing}/{key}": shop for listing, shop in routes.items()}  # targets since generations
    for source in OF_A_LISTING:
        events += await reader.events(source, routes | of_key)
    if webhooks:
        orders = {_order(outcome) for outcome in outcomes} - {""}
        for source in OF_AN_ORDER:
            events += await reader.events(source, {order: order for order in orders})
    targets = {event.listing for event in events if event.kind is Kind.TARGET and _is_of(event, key)}
    return _Found(
        events=[event for event in events if event.kind is not Kind.TARGET or _is_of(event, key)],
        listings=await reader.beliefs({one: routes[one] for one in targets}),
    )


class _Reader:
    """Reads the records of some keys, from the partitions that those are in."""

    def __init__(self, settings: Settings, since: datetime | None) -> None:
        self._settings = settings
        self._since_ms = int(since.timestamp() * 1000) if since is not None else None

    async def events(self, source: Source, routes: Mapping[str, str]) -> list[Event]:
        """The records of a topic; ``routes`` has for each key the text that is hashed to its partition."""
        decode = msgspec.json.Decoder(source.record).decode
        return [
            _event(source.kind, one, decode(one.value))
            for one in await self._records(source.topic, routes, self._since_ms)
            if one.value is not None
        ]

    async def beliefs(self, routes: Mapping[str, str]) -> list[Shown]:
        """What the writer knows of listings."""
        newest = {one.key: one.value for one in await self._records(BELIEFS, routes, None)}
        states = [msgspec.json.decode(one, type=PushState) for one in newest.values() if one is not None]
        paused = await self._paused({state.target.shop for state in states})
        told = (chain.shown(state, paused.get(state.target.shop, "")) for state in states)
        return sorted(told, key=lambda one: one.listing)

    async def _paused(self, shops: Iterable[str]) -> dict[str, str]:
        """Why shops are paused, of those that are."""
        records = await self._records(PAUSED, {shop: shop for shop in shops}, None)
        newest = {one.key.decode(): one.value for one in records}
        return {
            shop: msgspec.json.decode(value, type=Paused).reason
            for shop, value in newest.items()
            if value is not None
        }

    async def _records(self, topic: str, routes: Mapping[str, str], since_ms: int | None) -> list[Any]:
        keys = {key.encode() for key in routes}
        partitions = {partition_of(route.encode(), self._settings.partitions) for route in routes.values()}
        if not keys:
            return []
        found: list[Any] = []
        async for records in read_topic(self._settings, topic, sorted(partitions), since_ms=since_ms):
            found += (record for record in records if record.key in keys)
        return found


async def _level(settings: Settings, key: str) -> StockRecord | None:
    newest = None
    partition = partition_of(key.encode(), settings.partitions)
    async for records in read_topic(settings, "stock.levels", [partition]):
        for record in records:
            if record.key == key.encode():
                newest = record.value
    return msgspec.json.decode(newest, type=StockRecord) if newest is not None else None


def _event(kind: Kind, source: Any, record: Any) -> Event:
    after = record.after if kind is Kind.MOVEMENT else record
    listing = record.key if kind is Kind.TARGET else ""
    if kind in (Kind.PUSH, Kind.DRIFT):
        listing = source.key.decode()
    return Event(
        at=datetime.fromtimestamp(source.timestamp / 1000, UTC),
        kind=kind,
        origin=f"{source.topic}/{source.partition}/{source.offset}",
        correlation_id=correlation_of(source.headers),
        listing=listing,
        available=after.available if kind in (Kind.MOVEMENT, Kind.ALERT, Kind.TARGET) else None,
        record=record,
    )


def _is_of(event: Event, key: str) -> bool:
    """Whether a target is of this key: a listing may have been another key's before."""
    return stock_key(event.record.sku, event.record.location) == key


def _order(outcome: Outcome) -> str:
    cause = outcome.movement.cause
    return f"{cause.shop}/{cause.order}" if cause.order is not None else ""


# --- for people ------------------------------------------------------------------------------


def show(explanation: Explanation, console: Console) -> None:
    """Print the chain as a table, what its listings show, and the checks."""
    table = RichTable(box=None, pad_edge=False, header_style="bold")
    for column in ("time (UTC)", "event", "what", "available", "why", "correlation id"):
        table.add_column(column, overflow="fold", justify="right" if column == "available" else "left")
    for event in explanation.events:
        at = event.at.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        what, available, why = _words(event)
        table.add_row(*map(Text, (at, event.kind, what, available, why, event.correlation_id)))
    console.print(table)
    console.print()
    level = explanation.level
    if level is not None:
        parts = msgspec.structs.asdict(level.level).items()
        told = ", ".join(f"{part} {units}" for part, units in parts if units)
        opened = "" if level.opened_at else " (never counted: nothing is published)"
        console.print(Text(f"version {level.version}, available {explanation.available}: {told}{opened}"))
    for one in explanation.listings:
        state = f"not written, because {one.unwritten}" if one.unwritten else "shows it"
        missing = f" ({one.missing:+} to be written)" if one.missing else ""
        console.print(Text(f"{one.listing} should show {one.wanted}: {state}{missing}"))
    for check in explanation.checks:
        detail = f": {check.detail}" if check.detail else ""
        console.print(Text(f"{'ok' if check.ok else 'WRONG':5} {check.name}{detail}"))


def plain_console() -> Console:
    """A console as wide as the terminal, or wide enough when there is none."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)


def _words(event: Event) -> tuple[str, str, str]:
    """What happened, the balance, and why."""
    record = event.record
    if event.kind is Kind.MOVEMENT:
        return _movement_words(record)
    if event.kind is Kind.ALERT:
        units = f" by {record.units}" if record.units else ""
        return f"{record.kind}{units}", str(record.available), ", ".join(record.orders)
    if event.kind is Kind.TARGET:
        what = f"{event.listing} should show {record.wanted}"
        return what, str(record.available), f"version {record.version}"
    if event.kind is Kind.PUSH:
        error = f": {record.error}" if record.error else ""
        what = f"{event.listing} {record.delta:+} to {record.wanted}, {record.result}{error}"
        return what, "", f"version {record.target_version}, intent {record.intent}"
    if event.kind is Kind.DRIFT:
        what = f"{event.listing} {record.kind}: wanted {record.wanted}, shows {record.actual}"
        return what, "", f"found by {record.by}"
    if event.kind is Kind.WEBHOOK:
        return record.topic, "", f"{record.shop} webhook {record.webhook_id}"
    return f"{record.topic} {record.error}", "", record.message


def _movement_words(outcome: Outcome) -> tuple[str, str, str]:
    movement = outcome.movement
    what = f"{movement.kind} {movement.quantity}"
    if outcome.result is not Result.APPLIED:
        what += f", {outcome.result}" + (f": {outcome.reason}" if outcome.reason else "")
    before, after = outcome.before.available, outcome.after.available
    balance = f"{before} -> {after}" if outcome.before != outcome.after else str(after)
    return what, balance, " ".join([*_causes(outcome), f"from {movement.source}, id {movement.id}"])


def _causes(outcome: Outcome) -> Iterable[str]:
    cause = outcome.movement.cause
    for name in ("order", "line", "fulfillment", "refund"):
        value = getattr(cause, name)
        if value is not None:
            yield f"{name} {value}"
    if cause.document:
        yield f"document {cause.document}"
    if outcome.movement.reason:
        yield f"({outcome.movement.reason})"
