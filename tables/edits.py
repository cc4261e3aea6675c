"""Levels that a shop tells us: which are explained by what we know, and which a merchant has changed by hand.

A level webhook says that something changed, and has the value of the moment it was sent. It is *explained*
when it is exactly what our acknowledged pushes and the orders we processed make of the listing; a value that
merely comes soon after a push proves nothing. An unexplained one may be a write or an order that we have not
heard of yet, so it is noticed and looked at again with whatever we hear next. When it stays, the listing is
read. Orders on their way show in the read's ``committed``. What remains, the same in two reads of a quiet
listing far enough apart, is taken for a hand edit. What a shop ships or restocks moves ``available +
committed`` as well, and nothing in a read tells it from an edit. So the pause must be longer than such
webhooks take, and before an edit is followed everything that the shop did up to the first of the two reads
must have been heard (``agents.hearing``), however long a service was down: only what is still different then
is an edit.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from app.records import (
    Cause,
    Drift,
    DriftClass,
    LevelChange,
    LevelRead,
    Movement,
    MovementKind,
    Record,
)
from tables.pushes import Noticed, PushState, expected_units, shown

Policy = Literal["import", "overrule", "report"]
"""Of a shop: see ``app.shops.HandEdits``."""

FIRST_LOOK_S = 5.0
"""Before an unexplained level is read: by then most webhooks of the same event are here."""
MAX_LOOKS = 8
"""Reads of a listing that does not come to rest; then it is left to ``reconcile``."""


class Edit(Record, frozen=True, kw_only=True):
    """A confirmed hand edit."""

    units: int  # by which the shop has more, or fewer, than all we know of explains
    read: LevelRead
    since_ms: int  # when we were first told, epoch ms


class Looked(Struct, frozen=True, kw_only=True):
    """What a read of a noticed listing has brought."""

    state: PushState
    edit: Edit | None = None
    unheard: datetime | None = None  # an edit, unless something that the shop did up to then explains it
    deactivated: bool = False  # the shop sold from the level when it was read last, and does not now
    again_s: float | None = None  # when to read it again


def explains(state: PushState, available: int | None) -> bool:
    """Whether a level is what our acknowledged pushes and the orders we processed make of the listing."""
    if state.offset is None:
        return True  # it is read anyway
    if state.left:
        return False  # it may be active again, which only a read tells
    return available is not None and available == expected_units(state) - state.target.committed


def take_level(state: PushState, change: LevelChange, now_ms: int) -> PushState:
    """Take a level that the shop tells; ``state`` itself when there is nothing to remember."""
    known = state.noticed
    older = (
        known is not None
        and known.updated_at is not None
        and change.updated_at is not None
        and change.updated_at < known.updated_at
    )
    if older or state.target.off:
        return state
    if explains(state, change.available):
        return state if known is None else replace(state, noticed=None)
    since_ms = now_ms if known is None else known.since_ms
    told = Noticed(available=change.available, updated_at=change.updated_at, since_ms=since_ms)
    return replace(state, noticed=told)


def explained_now(state: PushState) -> PushState:
    """The state without a noticed level that what we have just heard explains."""
    noticed = state.noticed
    if noticed is None or state.intent or not explains(state, noticed.available):
        return state
    return replace(state, noticed=None)


def look(
    state: PushState,
    read: LevelRead,
    version: int,
    *,
    now_ms: int,
    confirm_s: float,
    heard: datetime | None = None,
) -> Looked:
    """Judge a read of a noticed listing, asked when its target had ``version``.

    ``heard``: what the shop did up to then had all been taken before the listing was read.
    Of a level that is inactive the units say nothing: they are judged, or read anew, when it is active again.
    """
    noticed = state.noticed
    assert noticed is not None, "only noticed listings are looked at"
    if not read.active:
        found = replace(state, inactive=True, noticed=None)
        return Looked(state=found, deactivated=not state.inactive)
    state = replace(state, inactive=False, left=False)
    off = read.units - expected_units(state)
    if off == 0:
        return Looked(state=replace(state, noticed=None))
    looks = noticed.looks + 1
    quiet = not state.intent and state.target.version == version and read.committed == state.target.committed
    if not quiet:
        if looks >= MAX_LOOKS:
            return Looked(state=replace(state, noticed=None))
        return _again(state, replace(noticed, looks=looks, read=None), FIRST_LOOK_S * 2**looks)
    same = noticed.read == read and noticed.version == version
    if not same:
        first = replace(noticed, looks=looks, read=read, read_ms=now_ms, version=version)
        return _again(state, first, confirm_s)
    left_s = confirm_s - (now_ms - noticed.read_ms) / 1000
    if left_s > 0:
        return _again(state, noticed, left_s)
    first_read = datetime.fromtimestamp(noticed.read_ms / 1000, UTC)
    if heard is None or heard < first_read:
        return Looked(state=state, unheard=first_read)
    return Looked(
        state=replace(state, noticed=None), edit=Edit(units=off, read=read, since_ms=noticed.since_ms)
    )


def _again(state: PushState, noticed: Noticed, again_s: float) -> Looked:
    return Looked(state=replace(state, noticed=noticed), again_s=again_s)


def follow(state: PushState, edit: Edit, policy: Policy) -> PushState:
    """The state after an edit, by the shop's policy.

    ``import``: our stock takes it, and then the listing's totals; ``report``: it stays a difference that we
    know; ``overrule``: it is part of what the shop shows, so that the next push takes it back.
    """
    assert state.offset is not None, "an edit is only found in a listing that was read"
    if policy == "import":
        return replace(state, imported=state.imported + edit.units)
    if policy == "report":
        return replace(state, accepted=state.accepted + edit.units)
    return replace(state, offset=state.offset + edit.units)


def deactivated_of(state: PushState, read: LevelRead, policy: Policy, now: datetime) -> Drift:
    """The public record of a level that somebody has deactivated."""
    detail = f"somebody deactivated the level, and hand_edits: {policy} leaves it so"
    return _drift(state, read, DriftClass.INACTIVE, now, now, detail)


def import_of(state: PushState, edit: Edit, now: datetime) -> Movement:
    """The movement that takes an edit into our stock; ``state`` is that after ``follow``.

    Its id names the listing's running total and the level's own time of change: no other edit has both.
    """
    target = state.target
    return Movement(
        id=f"hand-edit:{target.key}:{state.imported}:{edit.read.updated_at}",
        kind=MovementKind.ADJUSTED,
        sku=target.sku,
        location=target.location,
        quantity=edit.units,
        source=f"shopify:{target.shop}",
        occurred_at=_since(edit, now),
        cause=Cause(shop=target.shop, listing=target.key, document="hand edit"),
        reason=f"changed by hand in the admin of {target.shop}",
    )


def drift_of(state: PushState, edit: Edit, now: datetime) -> Drift:
    """The public record of an edit; ``state`` is that before ``follow``."""
    detail = "unexplained by our pushes and orders in two equal reads of a quiet listing"
    found = _drift(state, edit.read, DriftClass.MERCHANT_EDIT, now, _since(edit, now), detail)
    return replace(found, units_off=edit.units)


def _drift(
    state: PushState, read: LevelRead, kind: DriftClass, now: datetime, since: datetime, detail: str
) -> Drift:
    target = state.target
    return Drift(
        shop=target.shop,
        item=target.item,
        location_id=target.location_id,
        kind=kind,
        found_at=now,
        since=since,
        by="writer",
        sku=target.sku,
        location=target.location,
        wanted=target.wanted,
        believed=shown(state),
        actual=read.available,
        detail=detail,
    )


def _since(edit: Edit, now: datetime) -> datetime:
    return min(now, datetime.fromtimestamp(edit.since_ms / 1000, UTC))
