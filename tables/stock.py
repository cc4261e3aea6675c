"""The stock rules: what a movement does to a key, and what must be published because of it.

Everything here is a function of (record, movement, now). Each kind is a list of changes to the parts of
a level. A movement carries the time of the fact: a physical effect (a change of ``on_hand``) at or before
the ``as_of`` of the last count is absorbed, because the counted units already include it. Commitments
always move.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec
from msgspec import Raw, Struct

from app.errors import Bug, Rejected
from app.records import (
    Alert,
    AlertKind,
    Level,
    Listing,
    Listings,
    Moved,
    Movement,
    MovementKind,
    Outcome,
    Policy,
    Result,
    State,
    StockRecord,
    Target,
    split_stock_key,
)

HISTORY_LIMIT = 64
"""Physical effects kept per key, so that a count of a while ago can be placed among them."""
ADOPTION_LIFE = timedelta(hours=1)
"""So long after the opening targets say what a listing was adopted with. A writer that is later reads: it may
have written since and forgotten.
"""
RECENT_ORDERS = 4
"""Orders kept per key to be named in an oversold alert."""

COMMUTING = frozenset(
    {
        MovementKind.COMMITTED,
        MovementKind.RELEASED,
        MovementKind.WRITTEN_OFF,
        MovementKind.SHIPPED,
        MovementKind.SOLD,
        MovementKind.RETURNED,
        MovementKind.ADJUSTED,
        MovementKind.COUNTED,
    }
)
"""Facts whose order of arrival does not change the level. ``expected`` and ``received`` do not commute:
a receipt takes from ``incoming`` only what is there. Counts do, as long as the history reaches back."""

_NOT_MOVED = Moved()
_decode_effects = msgspec.json.Decoder(list[tuple[int, int]]).decode
_decode_effect = msgspec.json.Decoder(tuple[int, int]).decode
_SIGNED = frozenset({MovementKind.ADJUSTED, MovementKind.EXPECTED})
_TOLD_BY_SHOP = frozenset({MovementKind.SHIPPED, MovementKind.RETURNED})
_PARTS = {
    State.DAMAGED: "damaged",
    State.SAFETY_STOCK: "safety_stock",
    State.QUALITY_CONTROL: "quality_control",
}


class Authority(Struct, frozen=True, kw_only=True):
    """Whose word moves stock when the same shipment or return is told twice, by source prefix."""

    default: str = "shopify:"
    by_location: dict[str, str] = {}

    def believes(self, movement: Movement) -> bool:
        """Whether this movement's source is the one to believe."""
        if movement.kind not in _TOLD_BY_SHOP:
            return True
        return movement.source.startswith(self.by_location.get(movement.location, self.default))


class Applied(Struct, frozen=True, kw_only=True):
    """The new state of a key and all that must be told about it."""

    record: StockRecord
    outcome: Outcome
    alerts: list[Alert] = []


def apply(
    record: StockRecord,
    movement: Movement,
    *,
    now: datetime,
    seen: bool = False,
    authority: Authority = Authority(),  # noqa: B008  # frozen
    low_water: int = 0,
    origin: str = "",
) -> Applied:
    """Apply a movement to a key.

    ``seen`` says that the movement's id was answered before; ``origin`` is where its record is.

    Raises:
        Rejected: when the movement itself is wrong (sign, missing reason); it can never work.
    """
    check(movement)
    refusal = "" if seen else _refusal(record, movement, now)
    if seen or refusal:
        result = Result.DUPLICATE if seen else Result.REJECTED
        return Applied(record=record, outcome=_unchanged(record, movement, result, refusal, origin))
    believed = authority.believes(movement)
    level = _EFFECTS[movement.kind](record, movement) if believed else record.level
    was, is_now = record.level.available, level.available
    if movement.policy is Policy.ASK and is_now < min(0, was):
        reason = f"insufficient: asked for {movement.quantity}, available {was}"
        return Applied(record=record, outcome=_unchanged(record, movement, Result.REJECTED, reason, origin))
    changed = _changed(record, movement, level, now=now)
    _assert_invariants(record, changed)
    opened = changed.opened_at is not None  # before its first count nobody knows what a key has
    oversold = min(was, 0) - is_now if is_now < 0 and opened and is_now < was else 0
    outcome = Outcome(
        movement=movement,
        result=Result.APPLIED if believed else Result.CORROBORATED,
        version=changed.version,
        before=record.level,
        after=level,
        oversold=oversold,
        origin=origin,
    )
    quiet = not opened or (was > 0 and is_now > low_water)
    alerts = [] if quiet else _alerts(was, changed, movement, oversold, low_water)
    return Applied(record=changed, outcome=outcome, alerts=alerts)


def set_listings(
    record: StockRecord, listings: Listings, *, now: datetime, correlation_id: str = ""
) -> StockRecord:
    """Replace the listings of a key; what their shops moved is kept. A removed one is written no more.

    When it comes back it is read: what it was adopted with is long ago then.
    """
    kept = {listing.key for listing in listings.listings}
    gone = [key for key, known in record.moved.items() if known.adopted is not None and key not in kept]
    forgotten = {key: msgspec.structs.replace(record.moved[key], adopted=None) for key in gone}
    return msgspec.structs.replace(
        record,
        listings=listings.listings,
        moved={**record.moved, **forgotten},
        version=record.version + 1,
        occurred_at=now,
        updated_at=now,
        correlation_id=correlation_id,
    )


def left_behind(record: StockRecord, listings: Listings) -> dict[str, int]:
    """The units that open orders of listings hold that the key is going to lose: they stay with it."""
    gone = {listing.key for listing in record.listings} - {listing.key for listing in listings.listings}
    held = {listing: record.moved.get(listing, _NOT_MOVED).committed for listing in sorted(gone)}
    return {listing: units for listing, units in held.items() if units}


def channel_target(available: int, listing: Listing) -> int:
    """What a channel shows: its percentage of what is available, less its buffer, at most its maximum;
    nothing at or below its threshold.
    """
    if available <= listing.threshold:
        return 0
    wanted = available * listing.percentage // 100 - listing.buffer
    if listing.maximum is not None:
        wanted = min(wanted, listing.maximum)
    return max(wanted, 0)


def targets(key: str, before: StockRecord, after: StockRecord) -> list[Target]:
    """The targets to publish after a change: listings that show, or whose shop moved, something else.

    A listing that was taken away gets a last one, which says that it is never written. When it is under
    another key now, that key's targets have a higher generation, and win (``tables.generations``).
    """
    if after.opened_at is None:
        return []
    available = after.level.available
    everything = (
        before.opened_at is None or before.level.available != available or before.listings != after.listings
    )
    place = split_stock_key(key)
    changed = [
        listing
        for listing in after.listings
        if everything or before.moved.get(listing.key) != after.moved.get(listing.key)
    ]
    return [
        _target(place, after, listing, available, after.moved.get(listing.key, _NOT_MOVED))
        for listing in [*changed, *_taken_away(before, after)]
    ]


def _taken_away(before: StockRecord, after: StockRecord) -> list[Listing]:
    """The listings that a key has no more, as ones that are off."""
    if before.listings == after.listings:
        return []
    kept = {listing.key for listing in after.listings}
    return [
        msgspec.structs.replace(listing, off=True) for listing in before.listings if listing.key not in kept
    ]


def check(movement: Movement) -> None:
    """Refuse a movement that can never work.

    Raises:
        Rejected: naming the field and its value.
    """
    kind, quantity = movement.kind, movement.quantity
    if kind is MovementKind.COUNTED:
        if quantity < 0 or movement.as_of is None:
            raise Rejected(
                f"counted {movement.key}: needs quantity >= 0 and as_of, got {quantity} and {movement.as_of}"
            )
    elif kind not in _SIGNED and quantity <= 0:
        raise Rejected(f"{kind} {movement.key}: quantity must be positive, got {quantity}")
    if kind is MovementKind.ADJUSTED and not movement.reason:
        raise Rejected(f"adjusted {movement.key}: reason is required")
    if kind is MovementKind.SET_ASIDE:
        states = (movement.from_state, movement.to_state)
        if None in states or states[0] is states[1]:
            raise Rejected(
                f"set_aside {movement.key}: needs two different states, got {states[0]} and {states[1]}"
            )


def _refusal(record: StockRecord, movement: Movement, now: datetime) -> str:
    if movement.expected_version is not None and movement.expected_version != record.version:
        return f"conflict: expected version {movement.expected_version}, the key is at {record.version}"
    if movement.valid_until is not None and movement.valid_until < now:
        return f"expired: valid until {movement.valid_until.isoformat()}"
    if movement.kind is MovementKind.COUNTED and _as_of_ms(movement) < record.history_since:
        return f"as_of_too_old: {movement.as_of} is older than the kept history"
    return ""


# --- effects ---------------------------------------------------------------------------------


def _physical(record: StockRecord, movement: Movement, delta: int) -> int:
    """The change of ``on_hand``: none when the last count already includes it."""
    return 0 if _ms(movement.occurred_at) <= record.counted_as_of else delta


def _level(level: Level, *, on_hand: int = 0, committed: int = 0, incoming: int = 0) -> Level:
    return Level(
        on_hand=level.on_hand + on_hand,
        committed=level.committed + committed,
        reserved=level.reserved,
        damaged=level.damaged,
        safety_stock=level.safety_stock,
        quality_control=level.quality_control,
        incoming=level.incoming + incoming,
    )


def _received(record: StockRecord, movement: Movement) -> Level:
    arrived = min(movement.quantity, max(record.level.incoming, 0)) if movement.shipment else 0
    return _level(record.level, on_hand=_physical(record, movement, movement.quantity), incoming=-arrived)


def _committed(record: StockRecord, movement: Movement) -> Level:
    return _level(record.level, committed=movement.quantity)


def _released(record: StockRecord, movement: Movement) -> Level:
    return _level(record.level, committed=-movement.quantity)


def _left(record: StockRecord, movement: Movement) -> Level:
    """Promised units left, or are gone: ``shipped`` and ``written_off``."""
    on_hand = _physical(record, movement, -movement.quantity)
    return _level(record.level, on_hand=on_hand, committed=-movement.quantity)


def _sold(record: StockRecord, movement: Movement) -> Level:
    return _level(record.level, on_hand=_physical(record, movement, -movement.quantity))


def _came(record: StockRecord, movement: Movement) -> Level:
    """Units came back, or a signed correction: ``returned`` and ``adjusted``."""
    return _level(record.level, on_hand=_physical(record, movement, movement.quantity))


def _expected(record: StockRecord, movement: Movement) -> Level:
    return _level(record.level, incoming=movement.quantity)


def _counted(record: StockRecord, movement: Movement) -> Level:
    as_of = _as_of_ms(movement)
    later = sum(delta for at, delta in _decode_effects(record.history) if at > as_of)
    return _level(record.level, on_hand=movement.quantity + later - record.level.on_hand)


def _set_aside(record: StockRecord, movement: Movement) -> Level:
    parts = msgspec.structs.asdict(record.level)
    for state, sign in ((movement.from_state, -1), (movement.to_state, 1)):
        if state is not None and state in _PARTS:
            parts[_PARTS[state]] += sign * movement.quantity
    return Level(**parts)


_EFFECTS: dict[MovementKind, Callable[[StockRecord, Movement], Level]] = {
    MovementKind.RECEIVED: _received,
    MovementKind.COMMITTED: _committed,
    MovementKind.RELEASED: _released,
    MovementKind.WRITTEN_OFF: _left,
    MovementKind.SHIPPED: _left,
    MovementKind.SOLD: _sold,
    MovementKind.RETURNED: _came,
    MovementKind.ADJUSTED: _came,
    MovementKind.COUNTED: _counted,
    MovementKind.EXPECTED: _expected,
    MovementKind.SET_ASIDE: _set_aside,
}

MOVES_COMMITTED = {
    MovementKind.COMMITTED: 1,
    MovementKind.RELEASED: -1,
    MovementKind.WRITTEN_OFF: -1,
    MovementKind.SHIPPED: -1,
}
"""By what sign a movement's quantity changes ``committed``."""
MOVES_UNITS = {
    MovementKind.SHIPPED: -1,
    MovementKind.WRITTEN_OFF: -1,
    MovementKind.RETURNED: 1,
    MovementKind.ADJUSTED: 1,
}
"""By what sign a movement of a listing's own shop changes ``on_hand``."""


# --- the new record --------------------------------------------------------------------------


def _changed(record: StockRecord, movement: Movement, level: Level, *, now: datetime) -> StockRecord:
    counted = movement.kind is MovementKind.COUNTED
    history, since = _history(record, movement, level)
    return StockRecord(
        level=level,
        version=record.version + 1,
        opened_at=record.opened_at or (movement.as_of if counted else None),
        history=history,
        history_since=since,
        counted_as_of=_as_of_ms(movement) if counted else record.counted_as_of,
        listings=record.listings,
        moved=_moved(record, movement),
        recent_orders=_recent_orders(record, movement),
        occurred_at=movement.occurred_at,
        updated_at=now,
        correlation_id=movement.correlation_id,
    )


def _history(record: StockRecord, movement: Movement, level: Level) -> tuple[Raw, int]:
    if movement.kind is MovementKind.COUNTED:
        as_of = _as_of_ms(movement)
        return _encoded([effect for effect in _decode_effects(record.history) if effect[0] > as_of]), as_of
    delta = level.on_hand - record.level.on_hand
    if delta == 0:
        return record.history, record.history_since
    return _with_effect(bytes(record.history), (_ms(movement.occurred_at), delta), record.history_since)


def _with_effect(history: bytes, effect: tuple[int, int], since: int) -> tuple[Raw, int]:
    """The history with one more effect, and since when it is whole. Mostly the newest comes last."""
    last = history.rfind(b"[")
    if last > 0 and (history.count(b"[") > HISTORY_LIMIT or effect < _decode_effect(history[last:-1])):
        effects = sorted([*_decode_effects(history), effect])
        dropped = len(effects) - HISTORY_LIMIT
        if dropped > 0:
            since = max(since, effects[dropped - 1][0])
        return _encoded(effects[max(dropped, 0) :]), since
    separator = b"," if last > 0 else b""
    return Raw(b"%b%b[%d,%d]]" % (history[:-1], separator, *effect)), since


def _encoded(effects: list[tuple[int, int]]) -> Raw:
    return Raw(msgspec.json.encode(effects))


def _moved(record: StockRecord, movement: Movement) -> dict[str, Moved]:
    """The totals of the listing whose shop moved the units itself.

    They move also when another source is believed about the stock. Physical effects from before the opening
    do not: what the shop had then, or has when it is read for the first time after it, includes them. A hand
    edit that is imported was found by comparing with that, so it always moves.
    """
    if movement.kind is MovementKind.COUNTED:
        return _opened(record, movement)
    listing = movement.cause.listing
    committed = MOVES_COMMITTED.get(movement.kind, 0)
    physical = MOVES_UNITS.get(movement.kind, 0)
    if not listing or not (committed or physical):
        return record.moved
    imported = movement.quantity if movement.kind is MovementKind.ADJUSTED else 0
    if not imported and record.opened_at is not None and movement.occurred_at <= record.opened_at:
        physical = 0
    known = record.moved.get(listing, _NOT_MOVED)
    moved = Moved(
        committed=known.committed + committed * movement.quantity,
        physical_total=known.physical_total + physical * movement.quantity,
        imported_total=known.imported_total + imported,
        adopted=known.adopted,
        unopened=_unopened(record, movement, physical * movement.quantity, known),
    )
    return {**record.moved, listing: moved}


def _unopened(record: StockRecord, movement: Movement, delta: int, known: Moved) -> list[tuple[int, int]]:
    """The newest physical effects that a listing's shop told before the key was opened."""
    if record.opened_at is not None or not delta:
        return known.unopened
    return sorted([*known.unopened, (_ms(movement.occurred_at), delta)])[-HISTORY_LIMIT:]


def _opened(record: StockRecord, movement: Movement) -> dict[str, Moved]:
    """The totals after a count. The one that opens the key may say what a listing's shop had (see Moved)."""
    if record.opened_at is not None:
        return record.moved
    opened = {key: msgspec.structs.replace(known, unopened=[]) for key, known in record.moved.items()}
    listing = movement.cause.listing
    if listing and movement.adopted is not None:
        known = record.moved.get(listing, _NOT_MOVED)
        adopted = _adopted(known, movement.adopted, _as_of_ms(movement))
        opened[listing] = msgspec.structs.replace(known, unopened=[], adopted=adopted)
    return opened


def _adopted(known: Moved, units: int, as_of: int) -> int | None:
    """What a shop that had ``units`` at the count had less ``physical_total``.

    That total moves after the opening by exactly what the shop moves after the count; what it has counted
    before is part of that only as far as it happened after the count. None when that cannot be told any more:
    then the writer reads the listing.
    """
    if len(known.unopened) == HISTORY_LIMIT and known.unopened[0][0] > as_of:
        return None
    later = sum(delta for at, delta in known.unopened if at > as_of)
    return units - (known.physical_total - later)


def _recent_orders(record: StockRecord, movement: Movement) -> list[str]:
    if movement.kind is not MovementKind.COMMITTED or movement.cause.order is None:
        return record.recent_orders
    order = f"{movement.cause.shop}/{movement.cause.order}"
    return [*(known for known in record.recent_orders if known != order), order][-RECENT_ORDERS:]


def _assert_invariants(before: StockRecord, after: StockRecord) -> None:
    if after.version != before.version + 1:
        raise Bug(f"version went from {before.version} to {after.version}")
    if after.counted_as_of < before.counted_as_of:
        raise Bug(f"the last count went from {before.counted_as_of} back to {after.counted_as_of}")


# --- what is told ----------------------------------------------------------------------------


def _unchanged(record: StockRecord, movement: Movement, result: Result, reason: str, origin: str) -> Outcome:
    return Outcome(
        movement=movement,
        result=result,
        version=record.version,
        before=record.level,
        after=record.level,
        reason=reason,
        origin=origin,
    )


def _alerts(was: int, after: StockRecord, movement: Movement, oversold: int, low_water: int) -> list[Alert]:
    is_now = after.level.available
    kinds = []
    if is_now <= 0 < was:
        kinds.append(AlertKind.OUT)
    if was <= 0 < is_now:
        kinds.append(AlertKind.BACK)
    if 0 < is_now <= low_water < was:
        kinds.append(AlertKind.LOW)
    if oversold:
        kinds.append(AlertKind.OVERSOLD)
    return [_alert(kind, after, movement, oversold) for kind in kinds]


def _alert(kind: AlertKind, record: StockRecord, movement: Movement, oversold: int) -> Alert:
    about = kind is AlertKind.OVERSOLD
    return Alert(
        kind=kind,
        sku=movement.sku,
        location=movement.location,
        available=record.level.available,
        version=record.version,
        units=oversold if about else 0,
        orders=record.recent_orders if about else [],
        movement=movement.id,
        occurred_at=movement.occurred_at,
        correlation_id=movement.correlation_id,
    )


def _target(
    place: tuple[str, str], record: StockRecord, listing: Listing, available: int, moved: Moved
) -> Target:
    return Target(
        shop=listing.shop,
        item=listing.item,
        location_id=listing.location_id,
        sku=place[0],
        location=place[1],
        available=available,
        wanted=channel_target(available, listing),
        committed=moved.committed,
        physical_total=moved.physical_total,
        version=record.version,
        generation=listing.generation,
        imported_total=moved.imported_total,
        adopted=moved.adopted if _just_opened(record) else None,
        off=listing.off,
        occurred_at=record.occurred_at,
        updated_at=record.updated_at,
        correlation_id=record.correlation_id,
    )


def _just_opened(record: StockRecord) -> bool:
    opened, now = record.opened_at, record.updated_at
    return opened is not None and now is not None and now - opened <= ADOPTION_LIFE


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _as_of_ms(movement: Movement) -> int:
    if movement.as_of is None:
        raise Bug(f"counted {movement.id} without as_of")
    return _ms(movement.as_of)
