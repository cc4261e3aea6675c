"""What we know of each listing in its shop, and the writes that bring it to its target.

``U`` is the sum ``available + committed`` of a listing. Orders placed and cancelled do not change it; our
acknowledged pushes do, and so does what the shop ships and restocks itself. So ``U`` is kept as an offset
to the running total of the latter: ``U = offset + physical_total``. What the shop shows is ``R = U - C``,
with ``C`` the units that the listing's own orders hold as far as we know, and a push is the difference to
what it should show. A difference commutes with sales that nobody has told us about yet; a number would not.

Why the order of deltas does not matter: ``inventoryAdjustQuantities`` adds (shopify.dev, same page).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Literal

from msgspec.structs import replace

from app.records import Correction, Instant, LevelRead, Push, PushResult, Record, Target, listing_parts
from tables.stock import ADOPTION_LIFE

MAX_ENTRIES = 250
"""Of one call (shopify.dev "API limits": input arrays)."""
MAX_DELTA = 2_000_000_000
"""Shopify's bound for one adjustment, in units."""
MAX_HOPS = 3
"""Corrections that may follow from each other: a listing that is wrong after so many needs a person."""


class Noticed(Record, frozen=True, kw_only=True):
    """A level that neither our acknowledged pushes nor the orders we processed explain: ``tables.edits``."""

    available: int | None  # as the webhook has it; None: the level was connected or disconnected
    updated_at: Instant | None = None  # of that level
    since_ms: int = 0  # when we were told, epoch ms
    looks: int = 0  # reads so far
    read: LevelRead | None = None  # the first of two that must be equal
    read_ms: int = 0
    version: int = 0  # of the target at that read


class Entry(Record, frozen=True, kw_only=True):
    """One listing's part of an intent."""

    listing: str
    delta: int
    wanted: int
    version: int  # of the target
    offset: int | None = None  # an absolute write: what the belief becomes; None: it moves by the delta
    occurred_at: Instant | None = None  # of the oldest fact that the entry carries out
    correlation_id: str = ""  # of the target


class Doubt(Record, frozen=True, kw_only=True):
    """A write of which nobody can tell any more whether it was carried out: a read decides."""

    entry: Entry
    intent: str
    offset: int  # of the belief without it


class PushState(Record, frozen=True, kw_only=True):
    """One listing (table ``pushes``)."""

    target: Target  # the newest
    offset: int | None = None  # U - physical_total; None: not read yet, or not known any more
    intent: str = ""  # the write under way that contains this listing
    refusals: int = 0  # in a row
    held: str = ""  # why it is not written any more; the next target tries once
    alone: bool = False  # it was in a refused call that named no entry: it goes by itself
    inactive: bool = False  # as of the last read: what is written is not sold
    left: bool = False  # inactive by hand, and the shop's policy leaves it so
    imported: int = 0  # units of hand edits that we have sent to the stock, since ever
    accepted: int = 0  # units of hand edits that were only reported and stay
    noticed: Noticed | None = None
    doubt: Doubt | None = None
    shadowed: int | None = None  # shadow mode: the difference that was told last
    corrected: str = ""  # the last correction that was taken
    since: Instant | None = None  # of the oldest fact that no write has carried out yet


class Intent(Record, frozen=True, kw_only=True):
    """A write that may have been sent (table ``intents``): the same bytes go again until we know."""

    key: str
    shop: str
    variables: str  # the exact JSON of the variables
    entries: list[Entry]
    created_ms: int
    kind: Literal["adjust", "set"] = "adjust"


class Need(StrEnum):
    """What must be done about a listing next."""

    NOTHING = "nothing"
    READ = "read"
    ACTIVATE = "activate"
    PUSH = "push"
    TELL = "tell"  # shadow mode: say what would be written


# --- targets and reads -------------------------------------------------------------------------


def take_target(state: PushState | None, target: Target) -> PushState:
    """The state with a newer target; an older one changes nothing.

    A new listing whose stock was adopted is known as of that count, and all others are read first. One that
    now shows another stock key has other totals, and one that was off, or taken away and listed again, was
    not followed: what is known of it is read again. The key that a listing has left may speak after the one
    that has it now; its generation is lower then. Without generations only what it says last, that it is off,
    is known for what it is. A key alone needs none: it speaks in the order of its versions, and while workers
    of an older release run they leave its generations out.
    """
    if state is None:
        return _first(target)
    known = state.target
    if (target.sku, target.location) != (known.sku, known.location):
        late = target.generation < known.generation or (target.off and target.generation == known.generation)
        return state if late else _anew(state, target, target.imported_total)
    listed_again = target.generation > known.generation
    if target.version <= known.version and not listed_again:
        return state
    if listed_again or (known.off and not target.off):
        return _anew(state, target, state.imported)
    newer = replace(state, target=target, held="", noticed=None if target.off else state.noticed)
    behind = newer.intent or newer.offset is None or difference(newer)
    return replace(newer, since=(state.since or target.occurred_at) if behind else None)


def fresh(target: Target, now_ms: int) -> Target:
    """The target, without what it was adopted with when that is long ago: see ``tables.stock``."""
    told = target.updated_at
    late = told is None or now_ms - told.timestamp() * 1000 > ADOPTION_LIFE.total_seconds() * 1000
    return replace(target, adopted=None) if late and target.adopted is not None else target


def _first(target: Target) -> PushState:
    state = PushState(
        target=target, offset=target.adopted, imported=target.imported_total, since=target.occurred_at
    )
    return state if state.offset is None or difference(state) else replace(state, since=None)


def _anew(state: PushState, target: Target, imported: int) -> PushState:
    """A listing of which nothing is known but the write under way, and the hand edits sent to its key."""
    return PushState(target=target, intent=state.intent, imported=imported, since=target.occurred_at)


def take_read(state: PushState, read: LevelRead, asked: int) -> PushState:
    """The state after a first read of a listing, asked when the physical total was ``asked``.

    If the total has moved since, nobody knows whether the read saw that: it is not used.
    """
    if state.intent or state.offset is not None or state.target.physical_total != asked:
        return state
    offset = read.units - asked - _pending_imports(state)
    left = state.left and not read.active
    taken = replace(state, offset=offset, inactive=not read.active, left=left, accepted=0, doubt=None)
    return replace(taken, since=taken.since if difference(taken) else None)


def pending_result(state: PushState, read: LevelRead) -> PushResult:
    """What a read says about a write in doubt: carried out, not carried out, or anybody's guess."""
    assert state.doubt is not None, "asked only of a listing in doubt"
    before = state.doubt.offset + state.target.physical_total + _pending_imports(state) + state.accepted
    if read.units == before:
        return PushResult.NOT_EXECUTED
    if read.units == before + state.doubt.entry.delta:
        return PushResult.ACKNOWLEDGED
    return PushResult.EXPIRED


def units(state: PushState) -> int | None:
    """``available + committed`` that we count as ours of what the shop has; None while it is not read."""
    if state.offset is None:
        return None
    return state.offset + state.target.physical_total + _pending_imports(state)


def expected_units(state: PushState) -> int:
    """``available + committed`` that the shop should have, hand edits that were only reported included."""
    known = units(state)
    assert known is not None, "asked only of a listing that was read"
    return known + state.accepted


def shown(state: PushState) -> int:
    """What the shop shows of a listing that was read, for all that we count as ours."""
    assert state.offset is not None, "asked only of a listing that was read"
    return state.offset + state.target.physical_total - state.target.committed


def difference(state: PushState) -> int:
    """What has to be added to the listing's ``available``; 0 while it is not read.

    While we are below zero a listing is pushed down to 0 and never up: a backorder that a shop accepted is
    real, and its own.
    """
    return 0 if state.offset is None else _change(state.target, shown(state))


def _change(target: Target, shows: int) -> int:
    delta = min(0, -shows) if target.available < 0 else target.wanted - shows
    return max(-MAX_DELTA, min(MAX_DELTA, delta))


def _pending_imports(state: PushState) -> int:
    """Units that the shop has and that the stock has not taken yet."""
    return state.imported - state.target.imported_total


# --- what comes next ---------------------------------------------------------------------------


def need_of(state: PushState, *, shadow: bool = False, due: bool = False) -> Need:
    """What must be done about a listing; ``due`` says that its unexplained level is to be read now."""
    if state.intent or state.held or state.target.off:
        return Need.NOTHING
    if state.offset is None or (due and state.noticed is not None):
        return Need.READ
    if shadow:
        return Need.TELL if difference(state) != (state.shadowed or 0) else Need.NOTHING
    if state.inactive:
        # It sells nothing: there is no need to show 0.
        return Need.ACTIVATE if state.target.wanted > 0 and not state.left else Need.NOTHING
    return Need.PUSH if difference(state) else Need.NOTHING


def crosses_zero(state: PushState) -> bool:
    """Whether a write would let the listing sell again, or stop it: such a write goes before all others."""
    if state.offset is None:
        return False
    shows = shown(state)
    return (shows > 0) != (shows + _change(state.target, shows) > 0)


def entries_of(states: Iterable[PushState]) -> list[Entry]:
    """The entries of a write: what has to be added to each listing that differs."""
    return [entry_of(state) for state in states if difference(state)]


def entry_of(state: PushState, offset: int | None = None) -> Entry:
    """What has to be added to a listing; ``offset`` is what the belief becomes by an absolute write."""
    target = state.target
    return Entry(
        listing=target.key,
        delta=difference(state),
        wanted=target.wanted,
        version=target.version,
        offset=offset,
        occurred_at=state.since or target.occurred_at,
        correlation_id=target.correlation_id,
    )


# --- what became of a write --------------------------------------------------------------------


def begin(state: PushState, intent: Intent) -> PushState:
    """The listing is in this intent."""
    return replace(state, intent=intent.key, shadowed=None)


def acknowledge(state: PushState, entry: Entry) -> PushState:
    """The shop has applied the entry. A listing that shows another stock key since then stays unread."""
    offset = state.offset
    if offset is not None:
        offset = offset + entry.delta if entry.offset is None else entry.offset
    told = replace(state, offset=offset, intent="", refusals=0, alone=False)
    return replace(told, since=told.target.occurred_at if offset is None or difference(told) else None)


def refuse(state: PushState, error: str, limit: int) -> PushState:
    """The shop refused this listing; after ``limit`` refusals in a row it is held."""
    refusals = state.refusals + 1
    return replace(state, intent="", refusals=refusals, held=error if refusals >= limit else "")


def release(state: PushState, *, alone: bool) -> PushState:
    """Nothing of the call was carried out, and this entry is not known to be the reason."""
    return replace(state, intent="", alone=alone)


def forget(state: PushState) -> PushState:
    """What we believe of the listing may be wrong: read again."""
    return replace(state, intent="", offset=None)


def doubt(state: PushState, entry: Entry, intent: Intent) -> PushState:
    """Nobody can tell whether the entry was carried out: read, decide, and write under a new key."""
    if state.offset is None:
        return forget(state)
    return replace(forget(state), doubt=Doubt(entry=entry, intent=intent.key, offset=state.offset))


# --- corrections -------------------------------------------------------------------------------


def objection(state: PushState | None, correction: Correction, now_ms: int) -> str:
    """Why a correction is not carried out; empty when it is."""
    if state is None:
        return "the listing is not known"
    if correction.expires_at.timestamp() * 1000 < now_ms:
        return f"it expired at {correction.expires_at.isoformat()}"
    if correction.hops > MAX_HOPS:
        return f"it follows from {correction.hops} corrections, {MAX_HOPS} are allowed"
    if correction.id == state.corrected:
        return "it was taken before"
    if state.intent:
        return f"a write is under way: {state.intent}"
    if state.held or state.target.off:
        return f"the listing is not written: {state.held or 'its channel is off'}"
    known = (state.target.version, state.target.physical_total)
    told = (correction.target_version, correction.physical_total)
    if correction.action == "set" and known != told:
        return f"decided at target version and physical total {told}, now they are {known}"
    return ""


def correct(state: PushState, correction: Correction, now_ms: int) -> PushState:
    """The state after a correction to which there is no objection: the read that it tells is the belief."""
    if correction.action == "look":
        noticed = state.noticed or Noticed(available=None, since_ms=now_ms)
        return replace(state, noticed=noticed, corrected=correction.id)
    offset = None
    if correction.action == "set":
        offset = correction.units - state.target.physical_total - _pending_imports(state)
    return replace(
        state, offset=offset, accepted=0, doubt=None, noticed=None, corrected=correction.id, shadowed=None
    )


def correcting_entry(state: PushState) -> Entry | None:
    """The absolute write of a corrected listing; None when it shows what it should after all."""
    assert state.offset is not None, "asked only of a listing that was read"
    delta = difference(state)
    return entry_of(state, offset=state.offset + delta) if delta else None


def push_of(entry: Entry, intent: str, result: PushResult, *, at: datetime, error: str = "") -> Push:
    """The public record of what became of an entry, as answered ``at``."""
    shop, item, location_id = listing_parts(entry.listing)
    return Push(
        shop=shop,
        item=item,
        location_id=location_id,
        delta=entry.delta,
        wanted=entry.wanted,
        intent=intent,
        result=result,
        error=error,
        target_version=entry.version,
        occurred_at=entry.occurred_at,
        updated_at=at,
        correlation_id=entry.correlation_id,
    )
