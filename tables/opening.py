"""The opening balance: what a key begins with, and what each of its listings will show because of it.

A key moves nothing outward before it is opened. Adopting takes what a shop has as a count: ``on_hand`` as of
an instant at which nothing moved physically, seen by two equal reads around it. Units that open orders hold
are no part of that: each order tells them itself, whenever it was placed, and what it does afterwards moves
like anything else (``tables.stock``: a physical effect at or before the count is in it).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum

from app.records import (
    Cause,
    ItemLevel,
    Listing,
    Listings,
    Movement,
    MovementKind,
    Order,
    Record,
    State,
    StockRecord,
    split_stock_key,
    stock_key,
)
from tables.listings import Directory
from tables.orders import evaluate, take_order
from tables.stock import channel_target

HOLDING = {
    MovementKind.COMMITTED: 1,
    MovementKind.RELEASED: -1,
    MovementKind.SHIPPED: -1,
    MovementKind.WRITTEN_OFF: -1,
}
"""What movements of an order do to the units that it holds."""
ASIDE = (State.DAMAGED, State.SAFETY_STOCK, State.QUALITY_CONTROL)
"""Parts of ``on_hand`` that a shop keeps from sale, and we as well; ``reserved`` units are not counted."""


class Action(StrEnum):
    """What opening does with a key, or why it does nothing."""

    ADOPT = "adopt"  # it begins with what the shop has
    PUBLISH = "publish"  # it has stock of ours, and a new listing will show it
    OPEN = "open"  # it has stock of ours already: nothing is adopted
    BUSY = "busy"  # the shop moved units between the two reads: try again
    CONFLICT = "conflict"  # shops that list it have different stock: one has to be named
    ABSENT = "absent"  # the shop to adopt from does not list it, or sells nothing there
    UNOPENED = "unopened"  # nothing to publish: it was neither counted nor adopted


class Reading(Record, frozen=True, kw_only=True):
    """What a shop has, by listing: before and after the instant of the count."""

    shop: str
    before: dict[str, ItemLevel]
    after: dict[str, ItemLevel]

    def quiet(self, listing: str) -> bool:
        """Whether nothing moved physically at a listing; orders placed or cancelled move nothing."""
        before, after = self.before.get(listing), self.after.get(listing)
        return before is not None and after is not None and _physical(before) == _physical(after)


class KeyPlan(Record, frozen=True, kw_only=True):
    """What opening does with one key, in units."""

    key: str
    action: Action
    listing: str = ""  # whose stock is adopted
    level: ItemLevel | None = None  # of that listing
    held: int = 0  # by the open orders of all shops that list the key, as far as they were read or told
    held_here: int = 0  # by those of the listing's shop; its `committed` should say the same
    available: int = 0  # afterwards
    detail: str = ""

    @property
    def counted(self) -> int:
        """The ``on_hand`` that the key begins with."""
        return 0 if self.level is None else self.level.on_hand - self.level.reserved


class ListingPlan(Record, frozen=True, kw_only=True):
    """What a listing shows, and will show."""

    key: str
    listing: str
    shows: int | None  # None: not read
    will_show: int


class Plan(Record, frozen=True, kw_only=True):
    """All that opening would do."""

    keys: list[KeyPlan]
    listings: list[ListingPlan]

    @property
    def counts(self) -> dict[str, int]:
        """How many keys each action has."""
        return dict(Counter(str(one.action) for one in self.keys))


def held_units(
    shop: str, orders: Iterable[Order], directory: Directory, default_location_id: int
) -> Counter[str]:
    """The units that a shop's orders hold, by listing."""
    held: Counter[str] = Counter()
    for order in orders:
        record = take_order(None, shop, order, read=True)
        told = evaluate(record, directory, default_location_id=default_location_id, correlation_id="")
        for movement in told.movements:
            held[movement.cause.listing] += HOLDING.get(movement.kind, 0) * movement.quantity
    return held


def plan_adoption(
    keys: Iterable[Listings],
    opened: Mapping[str, StockRecord],
    readings: Mapping[str, Reading],
    held: Mapping[str, int],
    *,
    source: str = "",
) -> Plan:
    """What adopting the shops' stock would do; ``source`` is the shop to adopt from, for keys of several."""
    plans: list[KeyPlan] = []
    shown: list[ListingPlan] = []
    for one in keys:
        key = stock_key(one.sku, one.location)
        plan = _adopted(key, one.listings, opened.get(key), readings, held, source)
        plans.append(plan)
        if plan.action is Action.ADOPT:
            shown += _shown(key, one.listings, plan.available, readings)
    return Plan(keys=plans, listings=shown)


def plan_publishing(
    added: Mapping[str, Sequence[Listing]],
    opened: Mapping[str, StockRecord],
    readings: Mapping[str, Reading],
    held: Mapping[str, int],
) -> Plan:
    """What writing our stock to the listings added to each key would do."""
    plans: list[KeyPlan] = []
    shown: list[ListingPlan] = []
    for key, listings in sorted(added.items()):
        record = opened.get(key)
        if record is None or record.opened_at is None:
            detail = "it has no stock of ours: count it, or adopt the shop's"
            plans.append(KeyPlan(key=key, action=Action.UNOPENED, detail=detail))
            continue
        units = sum(held.get(listing.key, 0) for listing in listings)
        available = record.level.available - units
        plans.append(KeyPlan(key=key, action=Action.PUBLISH, held=units, available=available))
        shown += _shown(key, listings, available, readings)
    return Plan(keys=plans, listings=shown)


def adoption(plan: Plan, as_of: Mapping[str, datetime]) -> Iterator[Movement]:
    """The movements that open the keys of a plan; a key is adopted once, whatever is sent twice.

    ``as_of`` is the instant of each shop's count, by the shop's own clock.
    """
    for one in plan.keys:
        if one.action is Action.ADOPT:
            yield from _opened(one, as_of[one.listing.partition("/")[0]])


def _opened(plan: KeyPlan, at: datetime) -> Iterator[Movement]:
    assert plan.level is not None, "a plan that adopts has a level"
    adopted = plan.level.available + plan.level.committed
    yield _opening(plan, MovementKind.COUNTED, max(plan.counted, 0), "", at, as_of=at, adopted=adopted)
    if plan.counted < 0:  # sold below zero: nobody can count that
        after = at + timedelta(milliseconds=1)
        reason = f"the shop had {plan.counted} on hand when it was adopted"
        yield _opening(plan, MovementKind.ADJUSTED, plan.counted, "/below-zero", after, reason=reason)
    for state in ASIDE:
        units = getattr(plan.level, state)
        if units > 0:
            yield _opening(
                plan,
                MovementKind.SET_ASIDE,
                units,
                f"/{state}",
                at,
                from_state=State.AVAILABLE,
                to_state=state,
            )


def _adopted(
    key: str,
    listings: Sequence[Listing],
    record: StockRecord | None,
    readings: Mapping[str, Reading],
    held: Mapping[str, int],
    source: str,
) -> KeyPlan:
    if record is not None and record.opened_at is not None:
        return KeyPlan(key=key, action=Action.OPEN, available=record.level.available)
    found = {
        listing.key: readings[listing.shop].after[listing.key]
        for listing in listings
        if listing.shop == (source or listing.shop)
        and listing.shop in readings
        and listing.key in readings[listing.shop].after
    }
    active = {listing: level for listing, level in found.items() if level.active}
    if not active:
        return KeyPlan(key=key, action=Action.ABSENT, detail="no listing to adopt from has an active level")
    if len({level.on_hand for level in active.values()}) > 1:
        values = ", ".join(f"{listing} has {level.on_hand}" for listing, level in sorted(active.items()))
        return KeyPlan(key=key, action=Action.CONFLICT, detail=f"{values} on hand: name a shop with --from")
    name, level = min(active.items())
    if not readings[name.partition("/")[0]].quiet(name):
        return KeyPlan(key=key, action=Action.BUSY, listing=name, detail="units moved while it was read")
    known = {} if record is None else {one: moved.committed for one, moved in record.moved.items()}
    return _adopt(key, name, level, listings, {**known, **held})


def _adopt(
    key: str, name: str, level: ItemLevel, listings: Sequence[Listing], held: Mapping[str, int]
) -> KeyPlan:
    all_held = sum(held.get(listing.key, 0) for listing in listings)
    here = held.get(name, 0)
    aside = sum(max(0, getattr(level, state)) for state in ASIDE)
    notes = []
    if level.committed != here:
        notes.append(f"the shop holds {level.committed} units for orders, its open orders explain {here}")
    if all_held != here:
        notes.append(f"open orders of other listings hold {all_held - here}")
    if level.reserved:
        notes.append(f"{level.reserved} reserved units are left out")
    counted = level.on_hand - level.reserved
    return KeyPlan(
        key=key,
        action=Action.ADOPT,
        listing=name,
        level=level,
        held=all_held,
        held_here=here,
        available=counted - all_held - aside,
        detail="; ".join(notes),
    )


def _shown(
    key: str, listings: Iterable[Listing], available: int, readings: Mapping[str, Reading]
) -> Iterator[ListingPlan]:
    """What listings will show: below zero the writer takes a listing down to zero, and never up."""
    for listing in listings:
        reading = readings.get(listing.shop)
        level = reading.after.get(listing.key) if reading is not None else None
        shows = level.available if level is not None else None
        wanted = channel_target(available, listing)
        if listing.off:
            wanted = shows if shows is not None else 0
        elif available < 0 and shows is not None:
            wanted = min(shows, 0)
        yield ListingPlan(key=key, listing=listing.key, shows=shows, will_show=wanted)


def _opening(
    plan: KeyPlan,
    kind: MovementKind,
    quantity: int,
    part: str,
    at: datetime,
    *,
    as_of: datetime | None = None,
    adopted: int | None = None,
    reason: str = "",
    from_state: State | None = None,
    to_state: State | None = None,
) -> Movement:
    sku, location = split_stock_key(plan.key)
    shop = plan.listing.partition("/")[0]
    return Movement(
        id=f"opening:{plan.listing}{part}",
        kind=kind,
        sku=sku,
        location=location,
        quantity=quantity,
        source=f"shopify:{shop}",
        occurred_at=at,
        correlation_id=f"opening:{plan.listing}",
        cause=Cause(shop=shop, document="opening", listing=plan.listing if adopted is not None else ""),
        reason=reason,
        as_of=as_of,
        adopted=adopted,
        from_state=from_state,
        to_state=to_state,
    )


def _physical(level: ItemLevel) -> tuple[int, int, int, int, int]:
    return level.on_hand, level.reserved, level.damaged, level.safety_stock, level.quality_control
