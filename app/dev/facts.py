"""Whether everything adds up, seen from outside: Kafka's committed records against the simulator's own log.

Nothing here asks a service: what the shops did is the simulator's word, what we made of it is read from the
topics that any consumer can read.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from statistics import quantiles
from typing import Any

import msgspec
from msgspec import Struct

from app.dev.shops import Key, SimulatorAdmin
from app.kafka_tools import levels, read_topic
from app.reconcile import compare
from app.records import (
    Alert,
    AlertKind,
    DriftClass,
    Envelope,
    Listing,
    MovementKind,
    Outcome,
    Push,
    PushResult,
    Result,
    StockRecord,
)
from app.settings import Settings
from tables.stock import MOVES_UNITS, channel_target

SHIPPING = frozenset({"pushed", "edited"})


class Facts(Struct, frozen=True, kw_only=True):
    """What the demo prints; counts are of records or units, times in milliseconds."""

    orders: int  # accepted by the shops
    movements: int  # applied
    duplicates_refused: int  # webhooks delivered more than once, and movements told more than once
    oversold_across_shops: int  # units sold in one shop before our lowering write could reach it
    oversold_put_back: int  # units of a cancel or return, sold again before our write could take them back
    oversold_otherwise: int
    oversold_unnamed: int  # units that no alert names
    listings: int
    mismatched: int  # listings that show something else than they should
    lost: int  # units that moved in a shop and not here
    doubled: int  # units that moved here and not in a shop
    hand_edits: int  # changes of stock in a shop's admin
    unexplained: int  # differences for which `skustream reconcile` has no cause
    differences: int  # all that it finds, whatever their class
    writes: int  # listings written, as the shops acknowledged them
    writes_not_once: int  # of these, not exactly once in the shop's own log; or there and never acknowledged
    sales_overwritten: int  # units by which a write did something else than it was decided to do
    click_to_stock_ms_p50: float  # from the shopper's click to the other shop's stock
    click_to_stock_ms_p99: float
    problems: list[str] = []  # what is mismatched, lost or doubled, in words

    @property
    def add_up(self) -> bool:
        """Whether everything is as promised."""
        wrong = self.mismatched + self.lost + self.doubled + self.oversold_otherwise + self.oversold_unnamed
        wrong += self.differences + self.writes_not_once + self.sales_overwritten
        return wrong == 0 and self.orders > 0


class Sale(Struct, frozen=True, kw_only=True):
    """One line of an accepted order, as the ledger and the shop's log have it."""

    shop: str
    key: str
    quantity: int
    clicked: float  # the simulator's monotonic seconds
    version: int  # of the stock key, after it
    before: int  # available, before it
    oversold: int
    movement: str
    occurred_at: datetime


class PutBack(Struct, frozen=True, kw_only=True):
    """Units that a shop put back for sale by itself, as the ledger has it."""

    shop: str
    units: int
    version: int  # of the stock key, after it
    occurred_at: datetime


class Oversold(Struct, kw_only=True):
    """Oversold units, by what explains them."""

    across: int = 0
    put_back: int = 0
    otherwise: int = 0
    problems: list[str] = []


class Difference(Struct, frozen=True, kw_only=True):
    """Units of a key that moved here and in no shop (positive), or the other way round."""

    key: str
    part: str
    units: int

    def describe(self) -> str:
        """One line."""
        return f"{self.key} {self.part}: {abs(self.units)} units {'doubled' if self.units > 0 else 'lost'}"


class Shown(Struct, kw_only=True):
    """The acknowledged writes of a listing: target versions, rising, and when the shop had applied each."""

    versions: list[int] = []
    applied: list[float] = []

    def since(self, version: int) -> float:
        """When the shop had what this version says; infinity when never."""
        index = bisect_left(self.versions, version)
        return self.applied[index] if index < len(self.applied) else float("inf")


async def gather(settings: Settings, admin: SimulatorAdmin, keys: Iterable[Key]) -> Facts:
    """Read everything and compare."""
    wanted = {key.name: key for key in keys}
    log = (await admin.see("log"))["entries"]
    shown = (await admin.see("stock"))["levels"]
    outcomes = [outcome async for outcome in _values(settings, "stock.ledger", Outcome)]
    known = await levels(settings)
    applied = [outcome for outcome in outcomes if outcome.result is Result.APPLIED]
    sales = _sales(applied, log)
    pushes = await read_pushes(settings)
    seen = shown_writes(pushes, log)
    writes = check_writes(pushes, log)
    reports = await compare(settings, (), dry_run=True)
    found = [one for report in reports for one in report.found]
    oversold = explain_oversold(sales, _put_back(applied), seen, wanted)
    differences = _differences(known, wanted, applied, shown, log)
    wrong = mismatches(known, wanted.values(), shown)
    repeated = Counter(outcome.movement.id for outcome in applied)
    times = _click_to_stock(sales, seen, wanted)
    return Facts(
        orders=len({(entry["shop"], entry["order"]) for entry in log if entry["kind"] == "sold"}),
        movements=len(applied),
        duplicates_refused=len(outcomes) - len(repeated) + await _repeated_webhooks(settings),
        oversold_across_shops=oversold.across,
        oversold_put_back=oversold.put_back,
        oversold_otherwise=oversold.otherwise,
        oversold_unnamed=await _unnamed(settings, applied),
        listings=sum(len(key.listings) for key in wanted.values()),
        mismatched=len(wrong),
        lost=sum(max(0, -difference.units) for difference in differences),
        doubled=sum(max(0, one.units) for one in differences) + sum(count - 1 for count in repeated.values()),
        hand_edits=sum(entry["kind"] == "edited" for entry in log),
        unexplained=sum(one.kind is DriftClass.UNEXPLAINED for one in found),
        differences=len(found),
        writes=writes.acknowledged,
        writes_not_once=len(writes.not_once),
        sales_overwritten=writes.overwritten,
        click_to_stock_ms_p50=_percentile(times, 50),
        click_to_stock_ms_p99=_percentile(times, 99),
        problems=[
            *wrong,
            *oversold.problems,
            *(one.describe() for one in differences if one.units),
            *writes.not_once,
            *(f"{one.key}: {one.kind} {one.units_off:+d} units, {one.detail}" for one in found),
        ],
    )


def mismatches(
    known: Mapping[str, StockRecord], keys: Iterable[Key], shown: Iterable[Mapping[str, Any]]
) -> list[str]:
    """The listings that do not show what they should; while a key is oversold, anything up to 0 is right."""
    available = {(row["shop"], row["item"], row["location"]): row["available"] for row in shown}
    wrong = []
    for key in keys:
        record = known.get(key.name, StockRecord())
        for listing in key.listings:
            shows = available[listing.shop, listing.item, listing.location_id]
            should = channel_target(record.level.available, listing)
            if shows > 0 if record.level.available < 0 else shows != should:
                wrong.append(f"{listing.key} ({key.name}): shows {shows}, should be {should}")
    return wrong


async def _values(settings: Settings, topic: str, kind: type[Any]) -> Any:
    decode = msgspec.json.Decoder(kind).decode
    async for records in read_topic(settings, topic):
        for record in records:
            yield decode(record.value)


async def _repeated_webhooks(settings: Settings) -> int:
    """Deliveries of a webhook after its first one."""
    seen: set[tuple[str, str, str]] = set()
    deliveries = 0
    async for envelope in _values(settings, "shopify.orders", Envelope):
        deliveries += 1
        seen.add((envelope.shop, envelope.topic, envelope.webhook_id))
    return deliveries - len(seen)


async def _unnamed(settings: Settings, applied: Iterable[Outcome]) -> int:
    """Oversold units without an alert that says so."""
    named: Counter[str] = Counter()
    async for alert in _values(settings, "stock.alerts", Alert):
        if alert.kind is AlertKind.OVERSOLD and alert.orders:
            named[alert.movement] += alert.units
    return sum(abs(outcome.oversold - named[outcome.movement.id]) for outcome in applied)


def _sales(applied: Iterable[Outcome], log: Iterable[Mapping[str, Any]]) -> list[Sale]:
    clicks = {
        (entry["shop"], entry["order"], entry["line"]): entry["monotonic_s"]
        for entry in log
        if entry["kind"] == "sold"
    }
    sales = []
    for outcome in applied:
        movement, cause = outcome.movement, outcome.movement.cause
        if movement.kind is MovementKind.COMMITTED and (cause.shop, cause.order, cause.line) in clicks:
            sales.append(
                Sale(
                    shop=cause.shop,
                    key=movement.key,
                    quantity=movement.quantity,
                    clicked=clicks[cause.shop, cause.order, cause.line],
                    version=outcome.version,
                    before=outcome.before.available,
                    oversold=outcome.oversold,
                    movement=movement.id,
                    occurred_at=movement.occurred_at,
                )
            )
    return sales


async def read_pushes(settings: Settings) -> list[Push]:
    """The result of every write so far."""
    return [push async for push in _values(settings, "shopify.pushes", Push)]


def shown_writes(pushes: Iterable[Push], log: Iterable[Mapping[str, Any]]) -> dict[str, Shown]:
    """By listing. A write is applied when the shop's log says so, whenever we heard of it.

    The log must be read after the pushes.
    """
    applied = {
        (entry["key"], entry["item"], entry["location"]): entry["monotonic_s"]
        for entry in log
        if entry["kind"] == "pushed"
    }
    found: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for push in pushes:
        if push.result is PushResult.ACKNOWLEDGED:
            at = applied[push.intent, push.item, push.location_id]
            found[f"{push.shop}/{push.item}/{push.location_id}"].append((push.target_version, at))
    return {
        listing: Shown(versions=[v for v, _ in sorted(writes)], applied=[at for _, at in sorted(writes)])
        for listing, writes in found.items()
    }


class Writes(Struct, frozen=True, kw_only=True):
    """The writes that the shops acknowledged, against the shops' own log."""

    acknowledged: int
    not_once: list[str]  # in words
    overwritten: int  # units


def check_writes(pushes: Iterable[Push], log: Iterable[Mapping[str, Any]]) -> Writes:
    """Whether each acknowledged entry of a write is in the log exactly once, by as much as was decided."""
    decided = {
        (push.intent, push.shop, push.item, push.location_id): push.delta
        for push in pushes
        if push.result is PushResult.ACKNOWLEDGED and push.delta
    }
    done: dict[tuple[str, str, int, int], list[int]] = defaultdict(list)
    for entry in log:
        if entry["kind"] == "pushed":
            done[entry["key"], entry["shop"], entry["item"], entry["location"]].append(entry["delta"])
    return Writes(
        acknowledged=len(decided),
        not_once=[
            f"write {'/'.join(map(str, entry))}: acknowledged {int(entry in decided)} times, "
            f"carried out {len(done.get(entry, []))} times"
            for entry in sorted(decided.keys() | done.keys())
            if entry not in decided or len(done.get(entry, [])) != 1
        ],
        overwritten=sum(abs(sum(done.get(entry, [delta])) - delta) for entry, delta in decided.items()),
    )


def _others(key: Key, shop: str) -> list[Listing]:
    return [listing for listing in key.listings if listing.shop != shop]


def _reached(shop: str, key: str, version: int, seen: Mapping[str, Shown], keys: Mapping[str, Key]) -> float:
    """When what a version of a key says had reached a shop."""
    listing = next(one for one in keys[key].listings if one.shop == shop)
    return seen.get(listing.key, Shown()).since(version)


def _put_back(applied: Iterable[Outcome]) -> dict[str, list[PutBack]]:
    """By stock key: what its shops put back, and could sell again."""
    found: dict[str, list[PutBack]] = defaultdict(list)
    for outcome in applied:
        units = outcome.after.available - outcome.before.available
        if units > 0:
            found[outcome.movement.key].append(
                PutBack(
                    shop=outcome.movement.cause.shop,
                    units=units,
                    version=outcome.version,
                    occurred_at=outcome.movement.occurred_at,
                )
            )
    return found


def explain_oversold(
    sales: Iterable[Sale],
    put_back: Mapping[str, Sequence[PutBack]],
    seen: Mapping[str, Shown],
    keys: Mapping[str, Key],
) -> Oversold:
    """Oversold units: sold while another shop could not know of it yet, or put back by the shop itself."""
    by_key: dict[str, list[Sale]] = defaultdict(list)
    for sale in sales:
        by_key[sale.key].append(sale)
    told = Oversold()
    for sale in (one for group in by_key.values() for one in group if one.oversold):
        across = min(sale.oversold, _blind(sale, by_key[sale.key], seen, keys))
        own = _not_taken_back(sale, by_key[sale.key], put_back.get(sale.key, ()), seen, keys)
        again = min(sale.oversold - across, own)
        otherwise = sale.oversold - across - again
        told.across += across
        told.put_back += again
        told.otherwise += otherwise
        if otherwise:
            told.problems.append(
                f"{sale.key}: {otherwise} units oversold by {sale.movement}, nothing says why"
            )
    return told


def _not_taken_back(
    sale: Sale,
    others: Iterable[Sale],
    put_back: Iterable[PutBack],
    seen: Mapping[str, Shown],
    keys: Mapping[str, Key],
) -> int:
    """Units that the sale's shop had put back itself, and sold again before our write took them away.

    Orders are not heard of in the order in which they are placed: the sale that took them may be in the
    ledger before an earlier one, which is the oversold one then.
    """
    own = [
        other
        for other in others
        if other.shop == sale.shop and other.clicked >= sale.clicked and other.version <= sale.version
    ]

    def could_be_sold(one: PutBack) -> bool:
        taken_away = _reached(sale.shop, sale.key, one.version, seen, keys)
        return any(one.occurred_at <= other.occurred_at and taken_away > other.clicked for other in own)

    return sum(one.units for one in put_back if one.shop == sale.shop and could_be_sold(one))


def _blind(sale: Sale, others: Iterable[Sale], seen: Mapping[str, Shown], keys: Mapping[str, Key]) -> int:
    """Units of the same key that another shop sold without either knowing of the other yet."""
    blind = 0
    for other in others:
        if other.shop == sale.shop:
            continue
        first, second = sorted((sale, other), key=lambda one: one.clicked)
        if _reached(second.shop, sale.key, first.version, seen, keys) > second.clicked:
            blind += other.quantity
    return blind


def _click_to_stock(sales: Iterable[Sale], seen: Mapping[str, Shown], keys: Mapping[str, Key]) -> list[float]:
    """Milliseconds for each sale that had to lower another shop's stock and did."""
    times = []
    for sale in sales:
        if sale.before <= 0:
            continue  # the other shop showed 0 already
        for listing in _others(keys[sale.key], sale.shop):
            at = _reached(listing.shop, sale.key, sale.version, seen, keys)
            if at != float("inf"):
                times.append(max(0.0, (at - sale.clicked) * 1000))
    return times


def _differences(
    known: Mapping[str, StockRecord],
    keys: Mapping[str, Key],
    applied: Iterable[Outcome],
    shown: Iterable[Mapping[str, Any]],
    log: Iterable[Mapping[str, Any]],
) -> list[Difference]:
    """Our committed and on_hand against what the shops did themselves."""
    pushed: Counter[tuple[str, int, int]] = Counter()
    for entry in log:
        if entry["kind"] in SHIPPING:
            pushed[entry["shop"], entry["item"], entry["location"]] += entry.get("delta") or 0
    committed: Counter[str] = Counter()
    physical: Counter[str] = Counter()
    rows = {(row["shop"], row["item"], row["location"]): row for row in shown}
    for name, key in keys.items():
        for listing in key.listings:
            row = rows[listing.shop, listing.item, listing.location_id]
            committed[name] += row["committed"]
            physical[name] += row["on_hand"] - pushed[listing.shop, listing.item, listing.location_id]
    own = own_movements(applied)
    found = []
    for name in keys:
        level = known.get(name, StockRecord()).level
        # What left is negative in on_hand: a shipment that was lost leaves too many units there.
        left = physical[name] + own[name] - level.on_hand
        found.append(Difference(key=name, part="committed", units=level.committed - committed[name]))
        found.append(Difference(key=name, part="shipped", units=left))
    return found


def own_movements(applied: Iterable[Outcome]) -> Counter[str]:
    """What moved on_hand beside what orders move, by key: counts, receipts, and what was changed by hand in a
    shop; and what a count had included of an order that we heard of after it.
    """
    moved: Counter[str] = Counter()
    counted: dict[str, datetime] = {}  # as of when
    for outcome in applied:
        movement = outcome.movement
        units = outcome.after.on_hand - outcome.before.on_hand
        if movement.kind is MovementKind.COUNTED and movement.as_of is not None:
            counted[movement.key] = movement.as_of
        if movement.cause.order is None:
            moved[movement.key] += units
        elif movement.key in counted and movement.occurred_at <= counted[movement.key]:
            moved[movement.key] += units - MOVES_UNITS.get(movement.kind, 0) * movement.quantity
    return moved


def _percentile(times: list[float], percent: int) -> float:
    if len(times) < 2:
        return 0.0
    return round(quantiles(times, n=100, method="inclusive")[percent - 1], 1)
