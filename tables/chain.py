"""The chain of events of one stock key, and whether it adds up.

Nothing here reads anything: what the topics hold goes in, the checks come out. A check that fails means that
a record is missing, doubled or wrong; a write that merely waits is no failure.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from itertools import pairwise
from typing import Any

import msgspec
from msgspec import Struct

from app.records import (
    Alert,
    AlertKind,
    Instant,
    Level,
    Outcome,
    Push,
    PushResult,
    Result,
    StockRecord,
    Target,
)
from tables import pushes
from tables.pushes import PushState
from tables.stock import MOVES_COMMITTED, channel_target

SUM = "the sum of the ledger is the level"
NAMED = 5
"""Problems of a check that are named; the others are counted."""


class Kind(StrEnum):
    """What an event is; events of the same instant are shown in this order."""

    WEBHOOK = "webhook"  # what a shop told
    MOVEMENT = "movement"  # what became of a movement
    ALERT = "alert"  # what was told about the level
    TARGET = "target"  # what a listing should show from then on
    PUSH = "push"  # what became of a write to a shop
    DRIFT = "drift"  # a difference that was found
    DEAD_LETTER = "dead_letter"  # a record about the key that could not be used


_ORDER = {kind: place for place, kind in enumerate(Kind)}


class Event(Struct, frozen=True, kw_only=True):
    """One record about the key, or about a listing of it."""

    at: Instant  # when its record was written
    kind: Kind
    origin: str  # "{topic}/{partition}/{offset}"
    correlation_id: str
    listing: str = ""  # "{shop}/{item}/{location_id}", of targets, pushes and differences
    available: int | None = None  # units of the key after it, of movements, alerts and targets
    record: Any  # the topic's record, as app.records has it


class Check(Struct, frozen=True, kw_only=True):
    """Something that must hold, and what does not."""

    name: str
    ok: bool
    detail: str


class Shown(Struct, frozen=True, kw_only=True):
    """What the writer knows of a listing."""

    listing: str
    wanted: int
    missing: int | None  # units that the next write would add; None: the listing is not read yet
    unwritten: str = ""  # why a difference is not written, or not yet


class Explanation(Struct, frozen=True, kw_only=True):
    """All that is known of a key: its level, its listings, what led there, and whether it adds up."""

    sku: str
    location: str
    since: Instant | None
    level: StockRecord | None
    available: int | None
    listings: list[Shown]
    events: list[Event]
    checks: list[Check]

    @property
    def adds_up(self) -> bool:
        """Whether every check holds."""
        return all(check.ok for check in self.checks)


def shown(state: PushState, paused: str = "") -> Shown:
    """What the writer's record of a listing says; ``paused`` is why nothing is sent to its shop."""
    missing = pushes.difference(state) if state.offset is not None else None
    reasons = (
        (state.target.off, "its channel rule is off, or it is listed no more"),
        (bool(state.held), f"the shop refused it: {state.held}"),
        (bool(state.intent), f"write {state.intent} is under way"),
        (bool(paused) and missing != 0, f"its shop is paused: {paused}"),
        (state.doubt is not None, "nobody knows whether a write was carried out: it is read again"),
        (missing is None, "it is not read yet"),
        (state.inactive and missing != 0, "its level is not active in the shop"),
        (missing != 0, "it is not its turn, or its shop does not answer"),
    )
    unwritten = next((reason for holds, reason in reasons if holds), "")
    return Shown(listing=state.target.key, wanted=state.target.wanted, missing=missing, unwritten=unwritten)


def in_order(events: Iterable[Event]) -> list[Event]:
    """The events by time; those of one transaction, which share it, from cause to effect."""
    return sorted(events, key=lambda one: (one.at, _ORDER[one.kind], _offset(one)))


def check_all(
    record: StockRecord, events: Sequence[Event], *, whole: bool, alerts_from: datetime
) -> list[Check]:
    """Check a key's events against its level.

    ``whole`` says that its ledger was read from the start; from ``alerts_from`` on every alert is still kept.
    """
    ledger = sorted((one for one in events if one.kind is Kind.MOVEMENT), key=_offset)
    outcomes: list[Outcome] = [one.record for one in ledger]
    changed = [one for one in outcomes if one.result in (Result.APPLIED, Result.CORROBORATED)]
    checks = [
        _sum_is_the_level(record, outcomes, whole=whole),
        _check("each movement begins where the one before it ended", _breaks(outcomes)),
        _check("versions only rise", _falling(changed, record)),
        _check("no movement was applied twice", _repeated(changed)),
        _check("no write was acknowledged twice", _doubled_writes(_records(events, Kind.PUSH))),
        _check("the newest target of each listing is what it should show", _wrong_targets(record, events)),
        _check("every oversold unit was told", _untold(ledger, _records(events, Kind.ALERT), alerts_from)),
    ]
    if whole:
        checks.append(
            _check("what the shops moved themselves is in the ledger", _wrong_totals(record, changed))
        )
    return checks


def _sum_is_the_level(record: StockRecord, outcomes: Sequence[Outcome], *, whole: bool) -> Check:
    begin = Level() if whole or not outcomes else outcomes[0].before
    total = Counter(msgspec.structs.asdict(begin))
    for outcome in outcomes:
        before = msgspec.structs.asdict(outcome.before)
        for part, units in msgspec.structs.asdict(outcome.after).items():
            total[part] += units - before[part]
    level = msgspec.structs.asdict(record.level)
    if not whole and not outcomes:
        return Check(name=SUM, ok=True, detail="no movement in this time")
    wrong = [
        f"{part}: ledger {total[part]}, level {level[part]}" for part in level if total[part] != level[part]
    ]
    return _check(SUM, wrong, f"{len(outcomes)} outcomes, available {record.level.available}")


def _breaks(outcomes: Sequence[Outcome]) -> list[str]:
    """Where a level appears from nowhere, or an outcome that changes nothing changes something."""
    wrong = []
    for earlier, later in pairwise(outcomes):
        if later.before != earlier.after:
            wrong.append(f"{later.movement.id} begins at {later.before}, before it was {earlier.after}")
    for outcome in outcomes:
        if outcome.result is not Result.APPLIED and outcome.before != outcome.after:
            wrong.append(f"{outcome.movement.id} is {outcome.result} and changed {outcome.before}")
    return wrong


def _falling(changed: Sequence[Outcome], record: StockRecord) -> list[str]:
    versions = [*((one.version, one.movement.id) for one in changed), (record.version, "the level")]
    return [
        f"{name} has version {version}, after {before}"
        for (before, _), (version, name) in pairwise(versions)
        if version < before or (version == before and name != "the level")
    ]


def _repeated(changed: Iterable[Outcome]) -> list[str]:
    times = Counter(outcome.movement.id for outcome in changed)
    return [f"{movement}: {count} times" for movement, count in times.items() if count > 1]


def _doubled_writes(pushes: Iterable[Push]) -> list[str]:
    times = Counter(
        (_listing(push), push.intent) for push in pushes if push.result is PushResult.ACKNOWLEDGED
    )
    return [
        f"{listing}: intent {intent} {count} times" for (listing, intent), count in times.items() if count > 1
    ]


def _wrong_targets(record: StockRecord, events: Iterable[Event]) -> list[str]:
    """Targets that differ from the channel rule. One that was compacted away, or is older than asked for, is
    not there to be checked.
    """
    newest: dict[str, Target] = {}
    for target in sorted(_records(events, Kind.TARGET), key=lambda one: one.version):
        newest[target.key] = target
    wrong = []
    for listing in record.listings if record.opened_at is not None else []:
        should, target = channel_target(record.level.available, listing), newest.get(listing.key)
        if target is not None and (target.wanted, target.available) != (should, record.level.available):
            wrong.append(
                f"{listing.key}: target {target.wanted} of {target.available} (version {target.version}), "
                f"should be {should} of {record.level.available}"
            )
    return wrong


def _untold(ledger: Iterable[Event], alerts: Iterable[Alert], alerts_from: datetime) -> list[str]:
    """Oversold units without an alert."""
    told: Counter[str] = Counter()
    for alert in alerts:
        told[alert.movement] += alert.units if alert.kind is AlertKind.OVERSOLD else 0
    oversold = {
        one.record.movement.id: one.record.oversold
        for one in ledger
        if one.record.oversold and one.at >= alerts_from
    }
    return [
        f"{movement}: {units} units, told {told[movement]}"
        for movement, units in oversold.items()
        if units > told[movement]
    ]


def _wrong_totals(record: StockRecord, changed: Iterable[Outcome]) -> list[str]:
    """Listings whose own orders hold another number of units than the ledger says."""
    committed: dict[str, int] = defaultdict(int)
    for outcome in changed:
        movement = outcome.movement
        if movement.cause.listing:
            committed[movement.cause.listing] += MOVES_COMMITTED.get(movement.kind, 0) * movement.quantity
    known = {listing: moved.committed for listing, moved in record.moved.items()}
    return [
        f"{listing}: ledger {committed.get(listing, 0)} committed, level {known.get(listing, 0)}"
        for listing in sorted({*committed, *known})
        if committed.get(listing, 0) != known.get(listing, 0)
    ]


def _check(name: str, problems: Sequence[str], detail: str = "") -> Check:
    named = "; ".join(problems[:NAMED])
    if len(problems) > NAMED:
        named += f"; and {len(problems) - NAMED} more"
    return Check(name=name, ok=not problems, detail=named or detail)


def _records(events: Iterable[Event], kind: Kind) -> list[Any]:
    return [event.record for event in events if event.kind is kind]


def _listing(push: Push) -> str:
    return f"{push.shop}/{push.item}/{push.location_id}"


def _offset(event: Event) -> int:
    return int(event.origin.rpartition("/")[2])
