"""The difference between what we believe of a listing, what it should show, and what its shop has.

``U = available + committed`` (see ``tables.pushes``) separates what orders do from what others do: an order
placed or cancelled moves units between the two parts, everything else changes the sum. So two numbers say it
all: ``units_off``, the shop's ``U`` less ours, and ``committed_off``, the shop's ``committed`` less ours.

A difference is given the first class whose evidence is there:

``unmapped``
    Listing and level do not go together: the shop has a level that no listing of ours names, though it holds
    something; or it has no level for a listing; or it has refused to write the listing until that was held.
``inactive``
    The shop does not sell from the level (deactivated at its location), or does not track the item, while
    it should show something, or shows something else than it should.
``push_in_flight``
    The writer has an open write of the listing, has not read it yet, or has a difference still to write.
``late_webhook`` (shipped)
    ``units_off`` and ``committed_off`` are equal: units left with their order (or a shipment was taken back),
    what is available is right, and the shop has not told us yet.
``order_in_flight``
    ``committed_off`` is anything else: the shop's orders hold other units than the orders we have heard of.
    What else may be wrong cannot be told before they are known.
``merchant_edit``
    Only ``units_off`` is left. It is the hand edit that the writer has found in the listing and that stays
    (policy `report`; what differs besides is judged by itself), or the same difference was found to be one
    before; or the shop changed the level after the last thing that we know of it, now or at an earlier
    comparison that found the same units off. In that case either the change or the difference is older than a
    webhook or the reading of missed orders takes. Or the shop sells again from a level that was left
    deactivated.
``late_webhook``
    As before, but both are younger than that, or the writer is still looking into a webhook about it: a
    restock or a shipment may explain it yet.
``unexplained``
    Only ``units_off`` is left, and at every comparison we had learned of the listing since the shop last
    changed it. Our books are wrong, or it is an edit of which no webhook told us, made before something that
    we know of: a sale and our own write move the shop's time of change as well. Nothing in the shop tells the
    two apart.

So what is unexplained, and small, is written over where `hand_edits` is `overrule`, which is right about
both, and where it is `report`: an edit that nobody was told of is the rarer of the two, and a mistake that
waits for a person sells what is not there. Where it is `import` the writer is asked to look, and takes over
what the shop has, which ends both: see ``may_correct`` and ``may_look``.

What the shop says about time is Shopify's clock, what we know of is the clock of our workers. When Shopify's
runs ahead, what is unexplained looks like an edit, which is not overwritten unless the policy says so.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from app.records import Correction, Drift, DriftClass, LevelRead, listing_parts
from tables import pushes
from tables.edits import Policy
from tables.pushes import Need, PushState

CLASSES = tuple(kind for kind in DriftClass if kind is not DriftClass.NONE)
"""Those that a difference can have."""
MAX_HOPS = 3
"""Corrections of one difference. When these did not help, one more will not: somebody has to look."""

REMEMBERED = timedelta(days=1)
"""For so long the corrections of a difference count after it is gone."""


class Belief(Struct, frozen=True, kw_only=True, gc=False):
    """What the writer knows of a listing, as far as it is compared; small, for there are many."""

    sku: str
    location: str
    wanted: int
    available: int  # of our stock key; negative when oversold
    committed: int
    physical_total: int
    version: int  # of the target
    units: int | None  # U, with imports that our stock has not taken yet; None: not read yet
    accepted: int = 0  # units of hand edits that were reported and stay, outside of ``units``
    noticed: bool = False  # the writer is looking into a level webhook that nothing explains
    busy: str = ""  # why the listing will change by itself
    left: bool = False  # its level was deactivated by hand, and stays so
    held: str = ""  # why the shop refuses it
    off: bool = False  # never written: nothing to compare
    changed_ms: int  # when we last learned anything about it, epoch

    @property
    def shown(self) -> int | None:
        """The available units that the shop shows, as far as we know."""
        return None if self.units is None else self.units - self.committed


class Verdict(NamedTuple):
    """A difference and its class."""

    kind: DriftClass
    units_off: int = 0
    committed_off: int = 0
    detail: str = ""
    edited: bool = False


def belief_of(state: PushState, changed_ms: int) -> Belief:
    """What is compared of the writer's record, which it wrote at ``changed_ms``."""
    target = state.target
    return Belief(
        sku=target.sku,
        location=target.location,
        wanted=target.wanted,
        available=target.available,
        committed=target.committed,
        physical_total=target.physical_total,
        version=target.version,
        units=pushes.units(state),
        accepted=state.accepted,
        noticed=state.noticed is not None,
        busy=_busy(state),
        left=state.left,
        held=state.held,
        off=target.off,
        changed_ms=changed_ms,
    )


_BUSY = {Need.READ: "to be read", Need.PUSH: "to be written", Need.ACTIVATE: "to be activated"}


def _busy(state: PushState) -> str:
    if state.intent:
        return f"write {state.intent} is open"
    return _BUSY.get(pushes.need_of(state), "")


def judge(
    belief: Belief | None,
    level: LevelRead | None,
    *,
    known: Drift | None = None,
    now_ms: int,
    settle_ms: int,
) -> Verdict | None:
    """The difference of a listing, or None when there is none.

    Args:
        belief: what we know; None when no listing of ours names the level. It must have been the same
            before and after ``level`` was read.
        level: what the shop has; None when it has no such level.
        known: what was found of the listing before.
        now_ms: the time of the reading, epoch.
        settle_ms: how long a webhook, or the reading of missed orders, may take.
    """
    if belief is None or level is None or belief.held:
        return _unmapped(belief, level)
    if belief.off:
        return None
    inactive = _inactive(belief, level)
    if inactive is not None:
        return inactive
    if belief.units is None or belief.busy:
        return Verdict(DriftClass.PUSH_IN_FLIGHT, detail=belief.busy)
    units_off = level.units - belief.units
    committed_off = level.committed - belief.committed
    if belief.left:
        return Verdict(DriftClass.MERCHANT_EDIT, units_off, committed_off, "the level is active again")
    if not units_off and not committed_off:
        return None
    rest = units_off - belief.accepted
    if committed_off:
        shipped = rest == committed_off
        kind = DriftClass.LATE_WEBHOOK if shipped else DriftClass.ORDER_IN_FLIGHT
        return Verdict(kind, units_off, committed_off, "units left with their order" if shipped else "")
    if not rest:
        detail = f"a hand edit of {belief.accepted:+d} units was reported and stays"
        return Verdict(DriftClass.MERCHANT_EDIT, units_off, detail=detail)
    return _physical(belief, level, rest, known, now_ms - settle_ms)


def _unmapped(belief: Belief | None, level: LevelRead | None) -> Verdict | None:
    if belief is not None and belief.off:
        return None
    if belief is not None and belief.held:
        return Verdict(DriftClass.UNMAPPED, detail=f"the shop refuses it: {belief.held}")
    if belief is not None:
        return Verdict(DriftClass.UNMAPPED, detail="the shop has no such level")
    if level is None or not (level.active and level.tracked and (level.available or level.committed)):
        return None
    return Verdict(DriftClass.UNMAPPED, detail="no listing of ours names this level")


def _inactive(belief: Belief, level: LevelRead) -> Verdict | None:
    if (level.active and level.tracked) or (not belief.wanted and level.available <= 0):
        return None
    why = "the item is not tracked" if not level.tracked else "the level is deactivated"
    return Verdict(DriftClass.INACTIVE, detail=why)


def _physical(
    belief: Belief, level: LevelRead, units_off: int, known: Drift | None, settled_ms: int
) -> Verdict:
    """The class of a difference that no order makes; what is younger than ``settled_ms`` may be told yet."""
    same = known if known is not None and known.units_off == units_off else None
    if same is not None and same.kind is DriftClass.MERCHANT_EDIT:
        return Verdict(DriftClass.MERCHANT_EDIT, units_off, detail=same.detail)
    if belief.noticed:
        return Verdict(DriftClass.LATE_WEBHOOK, units_off, detail="the writer looks into a webhook about it")
    edited = same is not None and same.edited
    if level.changed_ms <= belief.changed_ms and not edited:
        return Verdict(DriftClass.UNEXPLAINED, units_off)
    at = datetime.fromtimestamp(level.changed_ms / 1000, UTC).isoformat(timespec="seconds")
    old = same is not None and same.since.timestamp() * 1000 <= settled_ms  # whatever was sold meanwhile
    settled = old or level.changed_ms <= settled_ms
    kind = DriftClass.MERCHANT_EDIT if settled else DriftClass.LATE_WEBHOOK
    return Verdict(kind, units_off, detail=f"changed in the shop at {at}", edited=True)


def drift_of(
    listing: str, belief: Belief | None, level: LevelRead | None, verdict: Verdict, known: Drift | None, *,
    now: datetime, by: str,
) -> Drift:  # fmt: skip
    """The record of a difference; one that is as it was keeps its age and its corrections."""
    shop, item, location_id = listing_parts(listing)
    same = known if known is not None and (_same(known, verdict) or _lasts(known, verdict)) else None
    return Drift(
        shop=shop,
        item=item,
        location_id=location_id,
        kind=verdict.kind,
        found_at=now,
        since=same.since if same is not None else now,
        by=by,
        sku=belief.sku if belief is not None else "",
        location=belief.location if belief is not None else "",
        wanted=belief.wanted if belief is not None else None,
        believed=belief.shown if belief is not None else None,
        actual=level.available if level is not None else None,
        units_off=verdict.units_off,
        committed_off=verdict.committed_off,
        detail=verdict.detail,
        hops=known.hops if known is not None else 0,
        corrected_at=known.corrected_at if known is not None else None,
        edited=verdict.edited or (same is not None and same.edited),
    )


def gone(known: Drift, *, now: datetime, by: str) -> Drift:
    """The record that says that a difference is there no more.

    Its corrections are remembered for a day: a difference that comes back after them is not a new one.
    """
    recent = known.corrected_at is not None and now - known.corrected_at < REMEMBERED
    return replace(
        known,
        kind=DriftClass.NONE,
        found_at=now,
        since=now,
        by=by,
        units_off=0,
        committed_off=0,
        detail="",
        hops=known.hops if recent else 0,
        edited=False,
    )


def news(known: Drift | None, found: Drift) -> bool:
    """Whether a difference that was found is worth a record: it is new, or another one than before."""
    verdict = Verdict(found.kind, found.units_off, found.committed_off)
    return known is None or not _same(known, verdict) or known.hops != found.hops


def _same(known: Drift, verdict: Verdict) -> bool:
    return (known.kind, known.units_off, known.committed_off) == verdict[:3]


def _lasts(known: Drift, verdict: Verdict) -> bool:
    """Whether the same units are off as before, whatever orders hold now: they move none of these.

    Units that were off with their order are not those that are off without one.
    """
    left = known.units_off == known.committed_off
    return not left and verdict.units_off != 0 and known.units_off == verdict.units_off


def may_correct(found: Drift, *, policy: Policy, limit: int, settle_ms: int) -> str:
    """Why a difference must not be corrected without being asked; empty when it may.

    It must be unexplained, old enough that a webhook or the reading of missed orders would have explained it,
    at most ``limit`` units, and not corrected in vain before. And the shop's ``policy`` about hand edits is
    not to import them: a merchant may have made it.
    """
    settle = timedelta(milliseconds=settle_ms)
    if found.kind is not DriftClass.UNEXPLAINED:
        return f"it is {found.kind}"
    if policy == "import":
        return f"it may be an edit by hand, and hand_edits is {policy}"
    if found.found_at - found.since < settle:
        return f"it is {found.age_s:.0f} s old, a webhook may take {settle.total_seconds():.0f} s"
    if found.corrected_at is not None and found.found_at - found.corrected_at < settle:
        return f"it was corrected at {found.corrected_at.isoformat(timespec='seconds')}"
    if abs(found.units_off) > limit:
        return f"{abs(found.units_off)} units are more than {limit}"
    if found.hops >= MAX_HOPS:
        return f"{found.hops} corrections did not help"
    return ""


def may_look(found: Drift, *, policy: Policy, limit: int, settle_ms: int) -> bool:
    """Whether the writer is asked to look at a difference for itself, and to follow the shop's ``policy``.

    That is every edit, and what may be one for all that we know, when it is old enough and at most ``limit``
    units: it may be our own mistake as well.
    """
    if found.kind is DriftClass.UNEXPLAINED:
        small_and_old = abs(found.units_off) <= limit and found.age_s * 1000 >= settle_ms
        return policy == "import" and small_and_old
    return found.kind is DriftClass.MERCHANT_EDIT


def correction_of(found: Drift, belief: Belief, level: LevelRead, *, expires_at: datetime) -> Correction:
    """What the writer is asked to do about a difference; the same one, read the same, has the same id."""
    facts = (
        f"{found.key} {belief.version} {level.available} {level.units} {found.since.isoformat()} {found.hops}"
    )
    return Correction(
        shop=found.shop,
        item=found.item,
        location_id=found.location_id,
        id=f"reconcile-{blake2b(facts.encode(), digest_size=16).hexdigest()}",
        action="set",
        available=level.available,
        units=level.units,
        physical_total=belief.physical_total,
        target_version=belief.version,
        hops=found.hops,
        expires_at=expires_at,
        reason=f"{found.kind}: {found.units_off:+d} units since {found.since.isoformat(timespec='seconds')}",
    )


def look_of(found: Drift, *, expires_at: datetime) -> Correction:
    """What the writer is asked about what may be a hand edit without a webhook: to look for itself."""
    return Correction(
        shop=found.shop,
        item=found.item,
        location_id=found.location_id,
        id=f"look-{found.key}-{found.found_at.isoformat()}",
        action="look",
        expires_at=expires_at,
        reason=f"{found.kind}: {found.units_off:+d} units since {found.since.isoformat(timespec='seconds')}",
    )


def quiet(
    before: Belief,
    first: LevelRead,
    again: Belief | None,
    second: LevelRead | None,
    *,
    now_ms: int,
    quiet_ms: int,
) -> bool:
    """Whether two readings of a listing are equal, and nothing was going on there for ``quiet_ms``."""
    still = now_ms - max(before.changed_ms, first.changed_ms) >= quiet_ms
    return still and before == again and first == second and not before.busy
