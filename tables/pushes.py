"""What we know of each listing in its shop, and the writes that bring it to its target.

``U`` is the sum ``available + committed`` of a listing. Orders placed and cancelled do not change it; our
acknowledged pushes do, and so does what the shop ships and restocks itself. So ``U`` is kept as an offset
to the running total of the latter: ``U = offset + physical_total``. What the shop shows is ``R = U - C``,
with ``C`` the units that the listing's own orders hold as far as we know, and a push is the difference to
what it should show. A difference commutes with sales that nobody has told us about yet; a number would not.

Why the order of deltas does not matter: ``inventoryAdjustQuantities`` adds (shopify.dev, same page).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from msgspec.structs import replace

from app.records import Instant, Push, PushResult, Record, Target

MAX_ENTRIES = 250
"""Of one call (shopify.dev "API limits": input arrays)."""
MAX_DELTA = 2_000_000_000
"""Shopify's bound for one adjustment, in units."""


class PushState(Record, frozen=True, kw_only=True):
    """One listing (table ``pushes``)."""

    target: Target  # the newest
    offset: int | None = None  # U - physical_total; None: not read yet, or not known any more
    intent: str = ""  # the write under way that contains this listing
    refusals: int = 0  # in a row
    held: str = ""  # why it is not written any more; the next target tries once
    alone: bool = False  # it was in a refused call that named no entry: it goes by itself
    since: Instant | None = None  # of the oldest fact that no write has carried out yet


class Entry(Record, frozen=True, kw_only=True):
    """One listing's part of an intent."""

    listing: str
    delta: int
    wanted: int
    version: int  # of the target
    occurred_at: Instant | None = None  # of the oldest fact that the entry carries out
    correlation_id: str = ""  # of the target


class Intent(Record, frozen=True, kw_only=True):
    """A write that may have been sent (table ``intents``): the same bytes go again until we know."""

    key: str
    shop: str
    variables: str  # the exact JSON of the variables
    entries: list[Entry]
    created_ms: int


def take_target(state: PushState | None, target: Target) -> PushState:
    """The state with a newer target; an older one changes nothing."""
    if state is None:
        return PushState(target=target, since=target.occurred_at)
    if target.version <= state.target.version:
        return state
    newer = replace(state, target=target, held="")
    behind = newer.intent or newer.offset is None or difference(newer)
    return replace(newer, since=(state.since or target.occurred_at) if behind else None)


def take_units(state: PushState, units: int, asked: int) -> PushState:
    """The state after a read of ``U``, asked when the physical total was ``asked``.

    If the total has moved since, nobody knows whether the read saw that: it is not used.
    """
    if state.intent or state.target.physical_total != asked:
        return state
    return replace(state, offset=units - asked)


def difference(state: PushState) -> int:
    """What has to be added to the listing's ``available``; 0 while it is not read.

    While we are below zero a listing is pushed down to 0 and never up: a backorder that a shop accepted is
    real, and its own.
    """
    if state.offset is None:
        return 0
    target = state.target
    shown = state.offset + target.physical_total - target.committed
    delta = min(0, -shown) if target.available < 0 else target.wanted - shown
    return max(-MAX_DELTA, min(MAX_DELTA, delta))


def needs_read(state: PushState) -> bool:
    """Whether the listing must be read before it can be written."""
    return state.offset is None and not state.intent and not state.held


def needs_push(state: PushState) -> bool:
    """Whether a write should take this listing along."""
    return not state.intent and not state.held and difference(state) != 0


def entries_of(states: Iterable[PushState]) -> list[Entry]:
    """The entries of the next call: what differs, at most one call's worth, a suspect by itself."""
    entries: list[Entry] = []
    for state in states:
        if not needs_push(state) or (state.alone and entries):
            continue
        entries.append(_entry(state))
        if state.alone or len(entries) == MAX_ENTRIES:
            break
    return entries


def _entry(state: PushState) -> Entry:
    target = state.target
    return Entry(
        listing=target.key,
        delta=difference(state),
        wanted=target.wanted,
        version=target.version,
        occurred_at=state.since,
        correlation_id=target.correlation_id,
    )


def begin(state: PushState, intent: Intent) -> PushState:
    """The listing is in this intent."""
    return replace(state, intent=intent.key)


def acknowledge(state: PushState, entry: Entry) -> PushState:
    """The shop has applied the entry."""
    assert state.offset is not None, "an entry is only made of a listing that was read"
    told = replace(state, offset=state.offset + entry.delta, intent="", refusals=0, alone=False)
    return replace(told, since=told.target.occurred_at if difference(told) else None)


def refuse(state: PushState, error: str, limit: int) -> PushState:
    """The shop refused this listing; after ``limit`` refusals in a row it is held."""
    refusals = state.refusals + 1
    return replace(state, intent="", refusals=refusals, held=error if refusals >= limit else "")


def release(state: PushState, *, alone: bool) -> PushState:
    """The call was refused and another entry, or nobody knows which, is to blame."""
    return replace(state, intent="", alone=alone)


def forget(state: PushState) -> PushState:
    """Nobody can tell any more whether the write was executed: read again."""
    return replace(state, intent="", offset=None)


def listing_parts(listing: str) -> tuple[str, int, int]:
    """The shop, the inventory item id and the location id of a listing's key."""
    shop, item, location_id = listing.rsplit("/", 2)
    return shop, int(item), int(location_id)


def push_of(entry: Entry, intent: Intent, result: PushResult, *, at: datetime, error: str = "") -> Push:
    """The public record of what became of an entry, as answered ``at``."""
    shop, item, location_id = listing_parts(entry.listing)
    return Push(
        shop=shop,
        item=item,
        location_id=location_id,
        delta=entry.delta,
        wanted=entry.wanted,
        intent=intent.key,
        result=result,
        error=error,
        target_version=entry.version,
        occurred_at=entry.occurred_at,
        updated_at=at,
        correlation_id=entry.correlation_id,
    )


def blamed(entries: Sequence[Entry], indexes: Iterable[int | None]) -> set[int]:
    """The entries that a refused call names; the only entry of a call is always to blame."""
    if len(entries) == 1:
        return {0}
    return {index for index in indexes if index is not None and index < len(entries)}
