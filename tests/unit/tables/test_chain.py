"""The chain of a key: what adds up, and each way in which it may not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from app.records import (
    Alert,
    Cause,
    Level,
    Listing,
    Listings,
    Movement,
    MovementKind,
    Outcome,
    Policy,
    Push,
    PushResult,
    StockRecord,
    Target,
)
from tables import stock
from tables.chain import Check, Event, Kind, check_all, in_order, shown
from tables.pushes import PushState

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
LISTING = Listing(shop="north.myshopify.com", item=11, variant=31, location_id=21, buffer=1)
LISTINGS = Listings(sku="TEE", location="main", listings=[LISTING])


class Story:
    """A key as the adjuster and the writer would have told it."""

    def __init__(self) -> None:
        self.record = stock.set_listings(StockRecord(), LISTINGS, now=NOW)
        self.events: list[Event] = []

    def move(self, movement_id: str, kind: MovementKind, quantity: int, **more: Any) -> None:
        movement = Movement(
            id=movement_id, kind=kind, sku="TEE", location="main", quantity=quantity, source="test",
            occurred_at=NOW, correlation_id=f"event-{movement_id}", **more,
        )  # fmt: skip
        seen = any(one.record.movement.id == movement_id for one in self.of(Kind.MOVEMENT))
        applied = stock.apply(self.record, movement, now=NOW, seen=seen)
        told = stock.targets("TEE@main", self.record, applied.record)
        self.record = applied.record
        self.tell(Kind.MOVEMENT, applied.outcome)
        for alert in applied.alerts:
            self.tell(Kind.ALERT, alert)
        for target in told:
            self.tell(Kind.TARGET, target)

    def tell(self, kind: Kind, record: Any) -> None:
        offset = len(self.events)
        at = NOW + timedelta(seconds=offset)
        listing = LISTING.key if kind in (Kind.TARGET, Kind.PUSH) else ""
        self.events.append(
            Event(at=at, kind=kind, origin=f"t/0/{offset}", correlation_id="", listing=listing, record=record)
        )

    def of(self, kind: Kind) -> list[Event]:
        return [event for event in self.events if event.kind is kind]

    def change(self, kind: Kind, place: int, how: Callable[[Any], Any]) -> None:
        event = self.of(kind)[place]
        self.events[self.events.index(event)] = replace(event, record=how(event.record))

    def wrong(self, *, whole: bool = True) -> list[Check]:
        checks = check_all(self.record, self.events, whole=whole, alerts_from=NOW)
        return [check for check in checks if not check.ok]


@pytest.fixture
def story() -> Story:
    told = Story()
    told.move("count", MovementKind.COUNTED, 5, as_of=NOW - timedelta(hours=1))
    told.move("sale", MovementKind.COMMITTED, 4, cause=Cause(shop=LISTING.shop, order=7, listing=LISTING.key))
    told.move("sale", MovementKind.COMMITTED, 4, cause=Cause(shop=LISTING.shop, order=7, listing=LISTING.key))
    told.move("ask", MovementKind.COMMITTED, 9, policy=Policy.ASK)
    told.move("till", MovementKind.SOLD, 3)
    told.tell(Kind.PUSH, push())
    return told


def push(**more: Any) -> Push:
    fields: dict[str, Any] = {"delta": -3, "wanted": 0, "intent": "i-1", "result": PushResult.ACKNOWLEDGED}
    return Push(shop=LISTING.shop, item=11, location_id=21, **{**fields, **more})


def test_a_true_story_adds_up(story: Story) -> None:
    assert story.wrong() == []
    assert [one.record.result for one in story.of(Kind.MOVEMENT)] == [
        "applied", "applied", "duplicate", "rejected", "applied",
    ]  # fmt: skip
    assert story.record.level.available == -2


def _older(outcome: Outcome) -> Outcome:
    return replace(outcome, version=1)


def _other_level(outcome: Outcome) -> Outcome:
    return replace(outcome, before=Level(on_hand=50), after=Level(on_hand=47))


def _changes(outcome: Outcome) -> Outcome:
    return replace(outcome, before=Level(on_hand=1))


def _less(alert: Alert) -> Alert:
    return replace(alert, units=1)


def _more(target: Target) -> Target:
    return replace(target, wanted=3)


@pytest.mark.parametrize(
    ("kind", "place", "how", "check"),
    [
        (Kind.MOVEMENT, 4, _older, "versions only rise"),
        (Kind.MOVEMENT, 4, _other_level, "each movement begins where the one before it ended"),
        (Kind.MOVEMENT, 3, _changes, "each movement begins where the one before it ended"),
        (Kind.ALERT, -1, _less, "every oversold unit was told"),
        (Kind.TARGET, -1, _more, "the newest target of each listing is what it should show"),
    ],
)
def test_a_changed_record_is_named(
    story: Story, kind: Kind, place: int, how: Callable[[Any], Any], check: str
) -> None:
    story.change(kind, place, how)
    assert check in [one.name for one in story.wrong()]


def test_a_lost_movement_is_missing_in_the_sum_and_in_the_chain(story: Story) -> None:
    story.events.remove(story.of(Kind.MOVEMENT)[1])
    wrong = {check.name: check.detail for check in story.wrong()}
    assert wrong["the sum of the ledger is the level"] == "committed: ledger 0, level 4"
    assert "each movement begins where the one before it ended" in wrong
    assert wrong["what the shops moved themselves is in the ledger"] == (
        f"{LISTING.key}: ledger 0 committed, level 4"
    )


def test_a_movement_that_was_applied_twice_is_named(story: Story) -> None:
    again = story.of(Kind.MOVEMENT)[4].record
    story.tell(Kind.MOVEMENT, again)
    wrong = {check.name: check.detail for check in story.wrong()}
    assert wrong["no movement was applied twice"] == "till: 2 times"


def test_a_write_that_was_acknowledged_twice_is_named(story: Story) -> None:
    story.tell(Kind.PUSH, push(result=PushResult.SPLIT))
    assert story.wrong() == []
    story.tell(Kind.PUSH, push())
    [check] = story.wrong()
    assert check.detail == f"{LISTING.key}: intent i-1 2 times"


def test_a_part_of_the_chain_adds_up_from_where_it_begins(story: Story) -> None:
    story.events = story.events[-4:]
    assert story.wrong(whole=False) == []
    assert story.wrong(whole=True) != []


def test_only_the_first_problems_are_named(story: Story) -> None:
    for number in range(7):
        story.tell(Kind.PUSH, push(intent=f"i-{number}"))
        story.tell(Kind.PUSH, push(intent=f"i-{number}"))
    [check] = story.wrong()
    assert check.detail.endswith("; and 2 more")


def test_events_of_one_instant_go_from_cause_to_effect(story: Story) -> None:
    same = [replace(event, at=NOW) for event in reversed(story.events)]
    kinds = [event.kind for event in in_order(same)]
    assert kinds == sorted(kinds, key=list(Kind).index)


@pytest.mark.parametrize(
    ("changes", "paused", "missing", "unwritten"),
    [
        ({}, "", None, "it is not read yet"),
        ({"offset": 3}, "", 0, ""),
        ({"offset": 3}, "HTTP 402", 0, ""),
        ({"offset": 1}, "", 2, "it is not its turn, or its shop does not answer"),
        ({"offset": 1}, "HTTP 402", 2, "its shop is paused: HTTP 402"),
        ({"offset": 1, "inactive": True}, "", 2, "its level is not active in the shop"),
        ({"offset": 1, "intent": "i-2"}, "", 2, "write i-2 is under way"),
        ({"offset": 1, "held": "INVALID_LOCATION"}, "", 2, "the shop refused it: INVALID_LOCATION"),
    ],
)
def test_why_a_listing_is_not_written(
    changes: dict[str, Any], paused: str, missing: int | None, unwritten: str
) -> None:
    target = Target(
        shop=LISTING.shop, item=11, location_id=21, sku="TEE", location="main", available=4, wanted=3,
        committed=0, physical_total=0, version=1,
    )  # fmt: skip
    told = shown(PushState(target=target, **changes), paused)
    assert (told.listing, told.wanted, told.missing, told.unwritten) == (LISTING.key, 3, missing, unwritten)


def test_a_listing_whose_rule_is_off_says_so() -> None:
    target = Target(
        shop=LISTING.shop, item=11, location_id=21, sku="TEE", location="main", available=4, wanted=0,
        committed=0, physical_total=0, version=1, off=True,
    )  # fmt: skip
    unwritten = shown(PushState(target=target, offset=2)).unwritten
    assert unwritten == "its channel rule is off, or it is listed no more"
