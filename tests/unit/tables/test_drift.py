"""Differences get the class whose evidence is there, and only what nothing explains may be corrected."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from app.records import Drift, DriftClass, LevelRead, Target
from tables.drift import (
    MAX_HOPS,
    REMEMBERED,
    Belief,
    Verdict,
    belief_of,
    correction_of,
    drift_of,
    gone,
    judge,
    may_correct,
    may_look,
    news,
    quiet,
)
from tables.edits import Policy
from tables.pushes import Noticed, PushState

LISTING = "a.myshopify.com/5001/71"
NOW_MS = 1_800_000_000_000
NOW = datetime.fromtimestamp(NOW_MS / 1000, UTC)
SETTLE_MS, QUIET_MS = 900_000, 30_000
HOUR_MS = 3_600_000
BELIEF = Belief(
    sku="TEE", location="main", wanted=10, available=10, committed=2, physical_total=-4, version=7,
    units=12, changed_ms=NOW_MS - 2 * HOUR_MS,
)  # fmt: skip
LEVEL = LevelRead(available=10, committed=2, active=True, changed_ms=NOW_MS - 2 * HOUR_MS - 200)
"""What the shop has when everything is as believed and wanted."""


def drift(**fields: Any) -> Drift:
    told = {"shop": "a.myshopify.com", "item": 5001, "location_id": 71, "found_at": NOW, "since": NOW}
    return Drift(**{**told, "kind": DriftClass.UNEXPLAINED, "by": "sweep", "units_off": 3, **fields})


def judged(
    belief: dict[str, Any] | None, level: dict[str, Any] | None, known: Drift | None = None
) -> Verdict | None:
    return judge(
        None if belief is None else replace(BELIEF, **belief),
        None if level is None else replace(LEVEL, **level),
        known=known,
        now_ms=NOW_MS,
        settle_ms=SETTLE_MS,
    )


EDITED = drift(kind=DriftClass.MERCHANT_EDIT, units_off=5, detail="told by the writer")
LATE = {"changed_ms": NOW_MS - 60_000}
LONG_AGO = {"changed_ms": NOW_MS - HOUR_MS}
TABLE: list[tuple[str, dict[str, Any] | None, dict[str, Any] | None, Drift | None, DriftClass | None]] = [
    ("as believed and wanted", {}, {}, None, None),
    ("the listing is gone from the shop", {}, None, None, DriftClass.UNMAPPED),
    ("nobody lists a level with stock", None, {}, None, DriftClass.UNMAPPED),
    ("nobody lists an empty level", None, {"available": 0, "committed": 0}, None, None),
    ("nobody lists an inactive level", None, {"active": False}, None, None),
    ("the shop refuses the listing", {"held": "INVALID_ITEM"}, {}, None, DriftClass.UNMAPPED),
    ("a listing that is off", {"off": True}, {"available": 99}, None, None),
    ("a listing that is off and gone", {"off": True}, None, None, None),
    ("a deactivated level", {}, {"active": False}, None, DriftClass.INACTIVE),
    ("a deactivated level that should show nothing", {"wanted": 0, "units": 2},
     {"active": False, "available": 0}, None, None),
    ("an item that is not tracked", {}, {"tracked": False}, None, DriftClass.INACTIVE),
    ("an open write", {"busy": "write x is open"}, {"available": 8}, None, DriftClass.PUSH_IN_FLIGHT),
    ("not read yet", {"units": None, "busy": "to be read"}, {}, None, DriftClass.PUSH_IN_FLIGHT),
    ("an order placed", {}, {"available": 7, "committed": 5}, None, DriftClass.ORDER_IN_FLIGHT),
    ("an order cancelled", {}, {"available": 12, "committed": 0}, None, DriftClass.ORDER_IN_FLIGHT),
    ("an order placed, and something else", {}, {"available": 9, "committed": 5}, None,
     DriftClass.ORDER_IN_FLIGHT),
    ("a shipment, hours ago", {}, {"committed": 0, **LONG_AGO}, None, DriftClass.LATE_WEBHOOK),
    ("a restock a minute ago", {}, {"available": 13, **LATE}, None, DriftClass.LATE_WEBHOOK),
    ("an edit an hour ago", {}, {"available": 13, **LONG_AGO}, None, DriftClass.MERCHANT_EDIT),
    ("an edit that is known, older than what we know", {}, {"available": 15}, EDITED,
     DriftClass.MERCHANT_EDIT),
    ("an edit that the writer has reported", {"accepted": 3}, {"available": 13}, None,
     DriftClass.MERCHANT_EDIT),
    ("a reported edit, and more that nothing explains", {"accepted": 3}, {"available": 14}, None,
     DriftClass.UNEXPLAINED),
    ("a reported edit, and another an hour ago", {"accepted": 3}, {"available": 14, **LONG_AGO}, None,
     DriftClass.MERCHANT_EDIT),
    ("an edit a minute ago, found an hour ago: the listing sells on", {}, {"available": 13, **LATE},
     drift(since=NOW - timedelta(hours=1)), DriftClass.MERCHANT_EDIT),
    ("an edit a minute ago, and another difference of an hour ago", {}, {"available": 13, **LATE},
     drift(units_off=2, since=NOW - timedelta(hours=1)), DriftClass.LATE_WEBHOOK),
    ("a reported edit, and a shipment", {"accepted": 3}, {"available": 13, "committed": 0}, None,
     DriftClass.LATE_WEBHOOK),
    ("a level that was left deactivated, and is active again", {"left": True}, {}, None,
     DriftClass.MERCHANT_EDIT),
    ("a webhook that the writer looks into", {"noticed": True}, {"available": 13}, None,
     DriftClass.LATE_WEBHOOK),
    ("another difference than the known edit", {}, {"available": 16}, EDITED, DriftClass.UNEXPLAINED),
    ("nothing happened in the shop since", {}, {"available": 13}, None, DriftClass.UNEXPLAINED),
    ("nothing happened, and too few", {}, {"available": 4}, None, DriftClass.UNEXPLAINED),
    ("oversold, and the shop below zero by its own orders", {"available": -2, "wanted": 0, "units": 0},
     {"available": -2}, None, None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("belief", "level", "known", "kind"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_each_difference_has_its_class(
    belief: dict[str, Any] | None, level: dict[str, Any] | None, known: Drift | None, kind: DriftClass | None
) -> None:
    verdict = judged(belief, level, known)
    assert (verdict.kind if verdict else None) == kind


def test_the_table_has_a_row_for_every_class() -> None:
    assert {row[4] for row in TABLE} - {None} == set(DriftClass) - {DriftClass.NONE}


units = st.integers(-50, 50)
POLICIES: tuple[Policy, ...] = ("report", "import", "overrule")


@given(units, units, units, units, st.integers(-HOUR_MS, HOUR_MS), st.booleans())
def test_a_difference_is_found_exactly_when_there_is_one(
    believed: int, committed: int, available: int, actual_committed: int, later_ms: int, shop_later: bool
) -> None:
    belief = replace(BELIEF, units=believed, committed=committed, wanted=max(0, believed - committed))
    changed_ms = BELIEF.changed_ms + abs(later_ms) if shop_later else BELIEF.changed_ms - abs(later_ms)
    level = replace(LEVEL, available=available, committed=actual_committed, changed_ms=changed_ms)
    verdict = judge(belief, level, now_ms=NOW_MS, settle_ms=SETTLE_MS)
    equal = available + actual_committed == believed and actual_committed == committed
    assert (verdict is None) == equal
    if verdict is not None and verdict.kind is DriftClass.UNEXPLAINED:
        assert verdict.committed_off == 0, "open orders are never written over"
        assert level.changed_ms <= belief.changed_ms, "nobody but us has changed it"


@given(units, units, st.integers(1, 20))
def test_an_order_nobody_has_told_us_of_is_never_unexplained(stock: int, open_units: int, sold: int) -> None:
    belief = replace(BELIEF, units=stock + open_units, committed=open_units, wanted=max(0, stock))
    level = replace(LEVEL, available=stock - sold, committed=open_units + sold)
    verdict = judge(belief, level, now_ms=NOW_MS, settle_ms=0)
    assert verdict is not None
    assert verdict.kind is DriftClass.ORDER_IN_FLIGHT


def test_a_difference_that_stays_keeps_its_age_and_another_one_begins_anew() -> None:
    level = replace(LEVEL, available=13)
    verdict = judged({}, {"available": 13})
    assert verdict is not None
    first = drift_of(LISTING, BELIEF, level, verdict, None, now=NOW, by="sweep")
    assert (first.sku, first.wanted, first.believed, first.actual) == ("TEE", 10, 10, 13)
    later = NOW + timedelta(hours=1)
    again = drift_of(LISTING, BELIEF, level, verdict, first, now=later, by="sample")
    assert (again.since, again.age_s, news(first, again)) == (NOW, 3600, False)
    other = drift_of(LISTING, BELIEF, level, verdict._replace(units_off=4), again, now=later, by="sample")
    assert (other.since, news(again, other)) == (later, True)


OLD = NOW - timedelta(hours=1)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, ""),
        ({"units_off": -10}, ""),
        ({"units_off": 11}, "11 units are more than 10"),
        ({"since": NOW - timedelta(seconds=30)}, "it is 30 s old, a webhook may take 900 s"),
        ({"kind": DriftClass.MERCHANT_EDIT}, "it is merchant_edit"),
        ({"kind": DriftClass.ORDER_IN_FLIGHT}, "it is order_in_flight"),
        ({"hops": MAX_HOPS, "corrected_at": OLD}, f"{MAX_HOPS} corrections did not help"),
        ({"hops": 1, "corrected_at": NOW - timedelta(seconds=60)}, "it was corrected at"),
        ({"hops": 1, "corrected_at": OLD}, ""),
    ],
)
def test_only_what_nothing_explains_is_old_and_small_may_be_corrected(
    fields: dict[str, Any], why: str
) -> None:
    found = drift(**{"since": OLD, **fields})
    told = may_correct(found, policy="overrule", limit=10, settle_ms=SETTLE_MS)
    assert told.startswith(why)
    assert bool(told) == bool(why)


LOOK, CORRECT, NEITHER = "the writer looks", "corrected", "nothing"
YOUNG: dict[str, Any] = {"since": NOW - timedelta(seconds=30)}
EDIT: dict[str, Any] = {"kind": DriftClass.MERCHANT_EDIT}


@pytest.mark.parametrize(
    ("what", "fields", "becomes"),
    [
        # What becomes of it under report, import and overrule.
        ("unexplained: our mistake, or an edit whose webhook was lost", {}, (CORRECT, LOOK, CORRECT)),
        ("the same, of more units than are corrected", {"units_off": 11}, (NEITHER, NEITHER, NEITHER)),
        ("the same, too young to tell", YOUNG, (NEITHER, NEITHER, NEITHER)),
        ("the same, corrected in vain", {"hops": MAX_HOPS}, (NEITHER, LOOK, NEITHER)),
        ("an edit by hand", EDIT, (LOOK, LOOK, LOOK)),
        ("an edit by hand, found just now", {**EDIT, **YOUNG}, (LOOK, LOOK, LOOK)),
        ("an order on its way", {"kind": DriftClass.ORDER_IN_FLIGHT}, (NEITHER, NEITHER, NEITHER)),
        ("a late webhook", {"kind": DriftClass.LATE_WEBHOOK}, (NEITHER, NEITHER, NEITHER)),
    ],
)
def test_what_a_merchant_may_have_done_is_left_to_the_policy_of_the_shop(
    what: str, fields: dict[str, Any], becomes: tuple[str, str, str]
) -> None:
    found = drift(**{"since": OLD, **fields})
    for policy, wanted in zip(POLICIES, becomes, strict=True):
        corrects = not may_correct(found, policy=policy, limit=10, settle_ms=SETTLE_MS)
        looks = may_look(found, policy=policy, limit=10, settle_ms=SETTLE_MS)
        assert (CORRECT if corrects else LOOK if looks else NEITHER) == wanted, (what, policy)
        assert not (corrects and looks)


@given(
    st.sampled_from(POLICIES), st.sampled_from(list(DriftClass)), st.integers(0, 3 * 86_400), units,
    st.integers(0, MAX_HOPS),
)  # fmt: skip
def test_nothing_but_the_unexplained_is_written_over_unasked_and_nothing_where_edits_are_imported(
    policy: Policy, kind: DriftClass, age_s: int, units_off: int, hops: int
) -> None:
    found = drift(kind=kind, since=NOW - timedelta(seconds=age_s), units_off=units_off, hops=hops)
    may = not may_correct(found, policy=policy, limit=1_000, settle_ms=0)
    assert not may or (policy != "import" and kind is DriftClass.UNEXPLAINED)


def test_an_edit_that_was_never_told_is_found_though_its_listing_sells_on() -> None:
    known: Drift | None = None
    kinds = []
    for minute, sold in enumerate(range(1, 21)):
        # A sale a minute: its webhook comes, and Shopify's time of change is that of the newest one.
        now = NOW + timedelta(minutes=minute)
        now_ms = NOW_MS + minute * 60_000
        newer = now_ms if minute % 2 else now_ms - 5_000  # whichever clock is ahead
        belief = replace(BELIEF, committed=2 + sold, wanted=10 - sold, changed_ms=now_ms - 2_000)
        told = 0 if minute % 3 else 1  # every third one is not told yet
        level = replace(LEVEL, available=13 - sold - told, committed=2 + sold + told, changed_ms=newer)
        verdict = judge(belief, level, known=known, now_ms=now_ms, settle_ms=SETTLE_MS)
        assert verdict is not None
        assert verdict.units_off == 3
        known = drift_of(LISTING, belief, level, verdict, known, now=now, by="sample")
        assert known.since == NOW
        kinds.append((known.kind, may_look(known, policy="report", limit=10, settle_ms=SETTLE_MS)))
    assert not any(looks for _, looks in kinds[:14]), "until then a webhook may explain it"
    assert {kind for kind, _ in kinds} == {
        DriftClass.LATE_WEBHOOK,
        DriftClass.ORDER_IN_FLIGHT,
        DriftClass.MERCHANT_EDIT,
    }, "it was seen to be an edit, and stays one, whatever orders come and go"
    assert kinds[-1] == (DriftClass.MERCHANT_EDIT, True)


def test_units_that_left_with_their_order_are_not_the_same_that_are_off_without_one() -> None:
    shipped = drift(kind=DriftClass.LATE_WEBHOOK, units_off=-2, committed_off=-2, since=OLD)
    level = replace(LEVEL, available=8)
    verdict = judged({}, {"available": 8}, shipped)
    assert verdict == Verdict(DriftClass.UNEXPLAINED, -2)
    assert drift_of(LISTING, BELIEF, level, verdict, shipped, now=NOW, by="sample").since == NOW


def still(before: Belief, first: LevelRead, again: Belief | None, second: LevelRead | None) -> bool:
    return quiet(before, first, again, second, now_ms=NOW_MS, quiet_ms=QUIET_MS)


def test_a_listing_is_quiet_when_two_readings_agree_and_nothing_goes_on() -> None:
    assert still(BELIEF, LEVEL, BELIEF, LEVEL)
    busy, moved = replace(BELIEF, busy="to be written"), replace(LEVEL, available=9)
    just_now = NOW_MS - QUIET_MS + 1
    assert not still(busy, LEVEL, busy, LEVEL)
    assert not still(BELIEF, LEVEL, replace(BELIEF, version=8), LEVEL)
    assert not still(BELIEF, LEVEL, None, LEVEL)
    assert not still(BELIEF, LEVEL, BELIEF, moved)
    assert not still(BELIEF, LEVEL, BELIEF, None)
    fresh = replace(LEVEL, changed_ms=just_now)
    assert not still(BELIEF, fresh, BELIEF, fresh)
    learned = replace(BELIEF, changed_ms=just_now)
    assert not still(learned, LEVEL, learned, LEVEL)


def test_a_correction_carries_what_it_was_decided_from_and_the_same_one_has_the_same_id() -> None:
    level = replace(LEVEL, available=13)
    expires_at = NOW + timedelta(seconds=60)
    one = correction_of(drift(hops=1), BELIEF, level, expires_at=expires_at)
    assert (one.available, one.units, one.physical_total, one.target_version) == (13, 15, -4, 7)
    assert (one.action, one.hops, one.expires_at, one.key) == ("set", 1, expires_at, LISTING)
    later = expires_at + timedelta(hours=1)
    assert correction_of(drift(hops=1), BELIEF, level, expires_at=later).id == one.id
    assert correction_of(drift(hops=2), BELIEF, level, expires_at=later).id != one.id


def test_a_reported_edit_is_no_part_of_what_is_found_besides() -> None:
    verdict = judged({"accepted": 3}, {"available": 14})
    assert verdict is not None
    assert verdict.units_off == 1


def test_corrections_of_a_difference_that_is_gone_are_remembered_for_a_day() -> None:
    corrected = drift(hops=2, corrected_at=NOW)
    over = gone(corrected, now=NOW + timedelta(minutes=1), by="sample")
    assert (over.kind, over.hops, news(corrected, over)) == (DriftClass.NONE, 2, True)
    assert not news(over, gone(over, now=NOW + timedelta(minutes=2), by="sample"))
    forgotten = gone(over, now=NOW + REMEMBERED, by="sweep")
    assert (forgotten.hops, news(over, forgotten)) == (0, True)


TARGET = Target(
    shop="a.myshopify.com", item=5001, location_id=71, sku="TEE", location="main", available=10, wanted=10,
    committed=2, physical_total=-4, version=7,
)  # fmt: skip


def test_a_belief_counts_imports_under_way_and_keeps_reported_edits_apart() -> None:
    noticed = Noticed(available=12)
    state = PushState(target=TARGET, offset=16, imported=2, accepted=5, noticed=noticed)
    belief = belief_of(state, NOW_MS)
    assert (belief.units, belief.accepted, belief.noticed) == (16 - 4 + 2, 5, True)


@pytest.mark.parametrize(
    ("state", "busy"),
    [
        (PushState(target=TARGET, offset=16), ""),
        (PushState(target=TARGET), "to be read"),
        (PushState(target=TARGET, offset=15), "to be written"),
        (PushState(target=TARGET, offset=15, intent="x"), "write x is open"),
        (PushState(target=TARGET, offset=15, held="refused"), ""),
    ],
)
def test_a_belief_says_why_the_listing_will_change_by_itself(state: PushState, busy: str) -> None:
    belief = belief_of(state, NOW_MS)
    assert belief.busy == busy
    assert belief.shown == (None if state.offset is None else state.offset - 4 - 2)
