"""The stock rules: one row per effect, and any order of arrival of the facts that commute."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from app.errors import Rejected
from app.records import (
    AlertKind,
    Cause,
    Level,
    Listing,
    Listings,
    Moved,
    Movement,
    MovementKind,
    Policy,
    Result,
    State,
    StockRecord,
)
from tables import stock

OPENED = datetime(2026, 11, 1, tzinfo=UTC)
NOW = datetime(2026, 11, 2, tzinfo=UTC)
SHOP = "demo.myshopify.com"
LISTING = Listing(shop=SHOP, item=1, variant=2, location_id=3)


def movement(kind: MovementKind, quantity: int = 1, **fields: Any) -> Movement:
    base = {
        "id": "m1", "sku": "TEE", "location": "main", "source": f"shopify:{SHOP}", "occurred_at": NOW,
        "reason": "shrinkage", "as_of": OPENED,
    }  # fmt: skip
    return Movement(kind=kind, quantity=quantity, **{**base, **fields})


def apply(record: StockRecord, told: Movement, **options: Any) -> stock.Applied:
    return stock.apply(record, told, now=NOW, **options)


def opened(on_hand: int, **parts: int) -> StockRecord:
    as_of = int(OPENED.timestamp() * 1000)
    return StockRecord(
        level=Level(on_hand=on_hand, **parts),
        opened_at=OPENED,
        counted_as_of=as_of,
        history_since=as_of,
        listings=[LISTING],
    )


@pytest.mark.parametrize(
    ("kind", "quantity", "fields", "expected"),
    [
        (MovementKind.RECEIVED, 4, {}, Level(on_hand=14, committed=3, incoming=2)),
        (MovementKind.RECEIVED, 4, {"shipment": "PO-1"}, Level(on_hand=14, committed=3, incoming=0)),
        (MovementKind.COMMITTED, 4, {}, Level(on_hand=10, committed=7, incoming=2)),
        (MovementKind.RELEASED, 2, {}, Level(on_hand=10, committed=1, incoming=2)),
        (MovementKind.WRITTEN_OFF, 2, {}, Level(on_hand=8, committed=1, incoming=2)),
        (MovementKind.SHIPPED, 2, {}, Level(on_hand=8, committed=1, incoming=2)),
        (MovementKind.SOLD, 2, {}, Level(on_hand=8, committed=3, incoming=2)),
        (MovementKind.RETURNED, 2, {}, Level(on_hand=12, committed=3, incoming=2)),
        (MovementKind.ADJUSTED, -2, {}, Level(on_hand=8, committed=3, incoming=2)),
        (MovementKind.EXPECTED, -3, {}, Level(on_hand=10, committed=3, incoming=-1)),
        (MovementKind.COUNTED, 6, {"as_of": NOW}, Level(on_hand=6, committed=3, incoming=2)),
        (
            MovementKind.SET_ASIDE,
            2,
            {"from_state": State.AVAILABLE, "to_state": State.DAMAGED},
            Level(on_hand=10, committed=3, damaged=2, incoming=2),
        ),
    ],
)
def test_each_kind_moves_its_parts(kind: MovementKind, quantity: int, fields: Any, expected: Level) -> None:
    applied = apply(opened(10, committed=3, incoming=2), movement(kind, quantity, **fields))
    assert applied.record.level == expected
    assert applied.outcome.result is Result.APPLIED
    assert (applied.outcome.after, applied.record.version) == (expected, 1)


@pytest.mark.parametrize(
    ("kind", "quantity", "fields", "named"),
    [
        (MovementKind.SOLD, -1, {}, "quantity must be positive, got -1"),
        (MovementKind.COMMITTED, 0, {}, "quantity must be positive, got 0"),
        (MovementKind.ADJUSTED, 1, {"reason": ""}, "reason"),
        (MovementKind.COUNTED, 1, {"as_of": None}, "as_of"),
        (MovementKind.COUNTED, -1, {}, "quantity >= 0"),
        (MovementKind.SET_ASIDE, 1, {"from_state": State.DAMAGED}, "two different states"),
    ],
)
def test_a_movement_that_can_never_work_is_refused_by_name(
    kind: MovementKind, quantity: int, fields: Any, named: str
) -> None:
    with pytest.raises(Rejected, match=named):
        apply(opened(10), movement(kind, quantity, **fields))


def test_a_seen_movement_changes_nothing() -> None:
    record = opened(10)
    applied = apply(record, movement(MovementKind.SOLD), seen=True)
    assert applied.outcome.result is Result.DUPLICATE
    assert applied.record is record


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"quantity": 11}, "insufficient"),
        ({"expected_version": 7}, "conflict: expected version 7, the key is at 0"),
        ({"valid_until": OPENED}, "expired"),
    ],
)
def test_an_ask_that_is_not_allowed_is_rejected_with_the_reason(fields: Any, reason: str) -> None:
    asked = {"quantity": 1, "policy": Policy.ASK, **fields}
    applied = apply(opened(10), movement(MovementKind.COMMITTED, **asked))
    assert applied.outcome.result is Result.REJECTED
    assert reason in applied.outcome.reason
    assert applied.record == opened(10)


def test_a_count_older_than_the_history_is_rejected() -> None:
    applied = apply(opened(10), movement(MovementKind.COUNTED, 3, as_of=OPENED - timedelta(seconds=1)))
    assert (applied.outcome.result, applied.record.level.on_hand) == (Result.REJECTED, 10)
    assert "as_of_too_old" in applied.outcome.reason


def test_an_old_order_that_shipped_before_the_count_nets_to_nothing() -> None:
    before = OPENED - timedelta(days=1)
    cause = Cause(shop=SHOP, order=1, listing=LISTING.key)
    record = apply(opened(10), movement(MovementKind.COMMITTED, 2, occurred_at=before, cause=cause)).record
    record = apply(record, movement(MovementKind.SHIPPED, 2, occurred_at=before, cause=cause)).record
    assert record.level == Level(on_hand=10)
    assert record.moved[LISTING.key] == Moved(committed=0, physical_total=0)


def test_a_fact_that_takes_more_than_there_is_applies_and_alerts_with_both_orders() -> None:
    record = opened(1)
    first = movement(MovementKind.COMMITTED, 1, cause=Cause(shop="a", order=1))
    second = movement(MovementKind.COMMITTED, 2, cause=Cause(shop="b", order=2))
    applied = apply(apply(record, first).record, second)
    assert applied.outcome.oversold == 2
    alert = next(alert for alert in applied.alerts if alert.kind is AlertKind.OVERSOLD)
    assert (alert.units, alert.orders, alert.available) == (2, ["a/1", "b/2"], -2)


@pytest.mark.parametrize(
    ("before", "kind", "quantity", "kinds"),
    [
        (2, MovementKind.SOLD, 2, [AlertKind.OUT]),
        (0, MovementKind.RECEIVED, 1, [AlertKind.BACK]),
        (5, MovementKind.SOLD, 2, [AlertKind.LOW]),
        (3, MovementKind.SOLD, 1, []),
    ],
)
def test_crossing_a_threshold_alerts_once(
    before: int, kind: MovementKind, quantity: int, kinds: list[AlertKind]
) -> None:
    told = movement(kind, quantity, source="pos:till")
    assert [alert.kind for alert in apply(opened(before), told, low_water=3).alerts] == kinds


def test_nothing_is_published_before_a_key_is_opened() -> None:
    record = StockRecord(listings=[LISTING])
    quiet = apply(record, movement(MovementKind.RECEIVED, 5))
    assert (stock.targets("TEE@main", record, quiet.record), quiet.alerts) == ([], [])
    loud = apply(quiet.record, movement(MovementKind.COUNTED, 5, as_of=NOW))
    assert [target.wanted for target in stock.targets("TEE@main", quiet.record, loud.record)] == [5]


def test_another_source_than_the_authority_only_corroborates() -> None:
    applied = apply(opened(10, committed=2), movement(MovementKind.SHIPPED, 2, source="wms:acme"))
    assert applied.outcome.result is Result.CORROBORATED
    assert applied.record.level == Level(on_hand=10, committed=2)


def test_totals_of_the_selling_listing_follow_its_own_orders() -> None:
    cause = Cause(shop=SHOP, order=1, listing=LISTING.key)
    before = record = opened(10)
    for kind in (MovementKind.COMMITTED, MovementKind.SHIPPED, MovementKind.RETURNED):
        before, record = record, apply(record, movement(kind, 2, cause=cause)).record
    assert record.moved[LISTING.key] == Moved(committed=0, physical_total=0)
    targets = stock.targets("TEE@main", before, record)
    assert [(t.committed, t.physical_total, t.wanted) for t in targets] == [(0, 0, 10)]


def test_new_listings_of_an_opened_key_get_a_target() -> None:
    other = Listing(shop="b", item=9, variant=9, location_id=9, buffer=4)
    listings = Listings(sku="TEE", location="main", listings=[LISTING, other])
    record = stock.set_listings(opened(10), listings, now=NOW)
    assert [target.wanted for target in stock.targets("TEE@main", opened(10), record)] == [10, 6]
    assert record.version == 1


@pytest.mark.parametrize(
    ("available", "rule", "wanted"),
    [
        (10, {}, 10),
        (10, {"buffer": 3}, 7),
        (2, {"buffer": 3}, 0),
        (10, {"maximum": 4}, 4),
        (10, {"percentage": 25}, 2),
        (-3, {}, 0),
        (3, {"threshold": 3}, 0),
        (4, {"threshold": 3}, 4),
        (4, {"threshold": 3, "buffer": 1, "maximum": 2}, 2),
        (9, {"percentage": 50, "buffer": 1}, 3),
    ],
)
def test_a_channel_shows_what_its_rule_says(available: int, rule: dict[str, int], wanted: int) -> None:
    listing = Listing(shop="a", item=1, variant=1, location_id=1, **rule)  # type: ignore[arg-type]  # table
    assert stock.channel_target(available, listing) == wanted


def test_a_changed_rule_publishes_the_listing_again() -> None:
    record = opened(10)
    listing = Listing(shop=SHOP, item=1, variant=2, location_id=3, off=True, threshold=10)
    changed = stock.set_listings(record, Listings(sku="TEE", location="main", listings=[listing]), now=NOW)
    [target] = stock.targets("TEE@main", record, changed)
    assert (target.wanted, target.off, target.version) == (0, True, 1)


def test_a_listing_that_is_taken_away_is_told_to_be_off() -> None:
    other = Listing(shop="b", item=9, variant=9, location_id=9, generation=7)
    both = Listings(sku="TEE", location="main", listings=[LISTING, other])
    known = stock.set_listings(opened(10), both, now=NOW)
    fewer = stock.set_listings(known, replace(both, listings=[other]), now=NOW)
    told = {one.key: one.off for one in stock.targets("TEE@main", known, fewer)}
    assert told == {LISTING.key: True, other.key: False}
    none = stock.set_listings(fewer, replace(both, listings=[]), now=NOW)
    [last] = stock.targets("TEE@main", fewer, none)
    assert (last.key, last.off, last.generation) == (other.key, True, 7)
    assert stock.targets("TEE@main", none, none) == []


def test_orders_that_hold_units_of_a_listing_that_goes_are_told() -> None:
    other = Listing(shop="b", item=9, variant=9, location_id=9)
    both = Listings(sku="TEE", location="main", listings=[LISTING, other])
    held = movement(MovementKind.COMMITTED, 3, cause=Cause(listing=LISTING.key))
    record = apply(stock.set_listings(opened(10), both, now=NOW), held).record
    assert stock.left_behind(record, replace(both, listings=[other])) == {LISTING.key: 3}
    assert stock.left_behind(record, replace(both, listings=[LISTING])) == {}


def test_an_imported_hand_edit_moves_the_totals_of_its_listing_whenever_it_happened() -> None:
    cause = Cause(listing=LISTING.key)
    edit = movement(MovementKind.ADJUSTED, -2, cause=cause, occurred_at=OPENED - timedelta(days=1))
    moved = apply(opened(10), edit).record.moved
    assert moved[LISTING.key] == Moved(physical_total=-2, imported_total=-2)
    assert not apply(opened(10), movement(MovementKind.ADJUSTED, -2)).record.moved


@st.composite
def facts(draw: st.DrawFn) -> list[Movement]:
    """Facts of commuting kinds with times of their own, and one count somewhere among them."""
    kinds = sorted(stock.COMMUTING - {MovementKind.COUNTED})
    rows = draw(
        st.lists(st.tuples(st.sampled_from(kinds), st.integers(1, 9), st.integers(0, 40)), max_size=25)
    )
    told = [
        movement(kind, quantity, id=f"m{n}", occurred_at=OPENED + timedelta(minutes=minute))
        for n, (kind, quantity, minute) in enumerate(rows)
    ]
    as_of = OPENED + timedelta(minutes=draw(st.integers(0, 40)))
    return [*told, movement(MovementKind.COUNTED, draw(st.integers(0, 50)), id="count", as_of=as_of)]


def replay(told: list[Movement]) -> tuple[StockRecord, list[stock.Applied]]:
    record, seen, all_applied = StockRecord(), set[str](), []
    for one in told:
        applied = apply(record, one, seen=one.id in seen)
        seen.add(one.id)
        record = applied.record
        all_applied.append(applied)
    return record, all_applied


@given(facts(), st.data())
def test_any_order_of_arrival_with_duplicates_gives_the_same_level(
    told: list[Movement], data: st.DataObject
) -> None:
    straight, _ = replay(told)
    repeated = told + data.draw(st.lists(st.sampled_from(told), max_size=10))
    shuffled, applied = replay(data.draw(st.permutations(repeated)))
    assert shuffled.level == straight.level
    assert shuffled.version == len(told)
    ledger = sum(one.outcome.after.on_hand - one.outcome.before.on_hand for one in applied)
    assert ledger == shuffled.level.on_hand
