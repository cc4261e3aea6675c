"""Levels that shops tell: explained by what we know, or looked at until somebody must have changed them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from app.records import LevelChange, LevelRead, Target
from tables import edits, pushes
from tables.edits import MAX_LOOKS
from tables.pushes import PushState

BEGAN = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
CONFIRM_S = 10.0


def state(shows: int = 10, *, committed: int = 0, version: int = 1) -> PushState:
    target = Target(
        shop="north.myshopify.com", item=11, location_id=21, sku="TEE", location="main", available=shows,
        wanted=shows, committed=committed, physical_total=0, version=version,
    )  # fmt: skip
    return pushes.take_read(PushState(target=target), LevelRead(available=shows, committed=committed), 0)


def change(available: int | None, seconds: int = 0) -> LevelChange:
    return LevelChange(
        inventory_item_id=11,
        location_id=21,
        available=available,
        updated_at=BEGAN + timedelta(seconds=seconds),
    )


def looked(
    known: PushState, read: LevelRead, now_s: float, version: int = 1, *, heard_s: float | None = 1e6
) -> edits.Looked:
    heard = None if heard_s is None else datetime.fromtimestamp(heard_s, UTC)
    return edits.look(known, read, version, now_ms=int(now_s * 1000), confirm_s=CONFIRM_S, heard=heard)


def test_what_we_know_explains_a_level_and_nothing_is_remembered() -> None:
    known = state(7, committed=3)
    assert edits.take_level(known, change(7), 0) is known


def test_an_order_that_we_hear_of_later_explains_it() -> None:
    known = edits.take_level(state(), change(8), 0)
    assert known.noticed is not None
    heard = replace(known, target=replace(known.target, committed=2, wanted=8, available=8, version=2))
    assert edits.explained_now(heard).noticed is None


def test_a_write_under_way_is_waited_for() -> None:
    known = replace(edits.take_level(state(), change(8), 0), intent="k")
    assert edits.explained_now(known) is known
    entry = pushes.Entry(listing=known.target.key, delta=-2, wanted=8, version=1)
    assert edits.explained_now(pushes.acknowledge(known, entry)).noticed is None


def test_an_older_webhook_that_comes_later_neither_raises_nor_settles_anything() -> None:
    known = edits.take_level(state(), change(8, seconds=9), 0)
    assert edits.take_level(known, change(10, seconds=3), 1) is known
    assert edits.take_level(known, change(3, seconds=3), 1) is known
    assert edits.take_level(known, change(10, seconds=12), 1).noticed is None


def test_two_equal_reads_far_enough_apart_confirm_an_edit() -> None:
    known = edits.take_level(state(), change(8), 0)
    read = LevelRead(available=8, updated_at="t")
    first = looked(known, read, 5)
    assert (first.edit, first.again_s) == (None, CONFIRM_S)
    early = looked(first.state, read, 9)
    assert (early.edit, early.again_s) == (None, 6.0)
    second = looked(early.state, read, 15)
    assert second.edit is not None
    assert (second.edit.units, second.state.noticed) == (-2, None)


def test_two_equal_reads_are_no_edit_before_all_is_heard_that_the_shop_did_up_to_the_first() -> None:
    known = edits.take_level(state(), change(8), 0)
    read = LevelRead(available=8, updated_at="t")
    first = looked(known, read, 5)
    for heard_s in (None, 4):
        second = looked(first.state, read, 15, heard_s=heard_s)
        assert (second.edit, second.unheard) == (None, datetime.fromtimestamp(5, UTC))
        assert second.state.noticed is not None
    assert looked(second.state, read, 16, heard_s=5).edit is not None
    shipped = replace(second.state.target, physical_total=-2, available=8, wanted=8, version=2)
    after = looked(pushes.take_target(second.state, shipped), read, 16, version=2)
    assert (after.edit, after.state.noticed, after.again_s) == (None, None, None)


@pytest.mark.parametrize(
    ("read", "version"),
    [
        (LevelRead(available=7, updated_at="t"), 1),  # it has changed again
        (LevelRead(available=8, updated_at="later"), 1),  # it has changed there and back
        (LevelRead(available=8, committed=3, updated_at="t"), 1),  # an order is on its way
        (LevelRead(available=8, updated_at="t"), 0),  # we have heard something while it was read
    ],
)
def test_a_listing_that_was_not_quiet_is_looked_at_again(read: LevelRead, version: int) -> None:
    known = edits.take_level(state(), change(8), 0)
    first = looked(known, LevelRead(available=8, updated_at="t"), 5)
    second = looked(first.state, read, 30, version)
    assert second.edit is None
    assert second.again_s is not None


def test_a_listing_that_does_not_come_to_rest_is_left_to_reconcile() -> None:
    known = edits.take_level(state(), change(8), 0)
    for look in range(MAX_LOOKS):
        known = looked(known, LevelRead(committed=look + 1), 100.0 * look).state
    assert known.noticed is None


def test_a_level_that_was_disconnected_is_read_and_known_to_sell_nothing() -> None:
    known = edits.take_level(state(), change(None), 0)
    after = looked(known, LevelRead(available=10, active=False), 5)
    assert (after.state.noticed, after.state.inactive, after.deactivated) == (None, True, True)
    again = looked(edits.take_level(after.state, change(None), 0), LevelRead(active=False), 5)
    assert not again.deactivated, "it is found once"
    assert again.edit is None, "what an inactive level holds is no edit"


def test_a_level_that_was_left_inactive_is_read_when_the_shop_tells_of_it() -> None:
    known = replace(state(), inactive=True, left=True)
    assert pushes.need_of(replace(known, target=replace(known.target, wanted=12))) is pushes.Need.NOTHING
    told = edits.take_level(known, change(10), 0)
    assert edits.explained_now(told).noticed is not None
    after = looked(told, LevelRead(available=10), 5).state
    assert (after.noticed, after.inactive, after.left) == (None, False, False)


def test_an_edit_that_is_only_reported_stays_explained_and_changes_no_write() -> None:
    edit = edits.Edit(units=-2, read=LevelRead(available=8), since_ms=0)
    known = edits.follow(state(), edit, "report")
    assert edits.explains(known, 8)
    assert pushes.difference(known) == 0


def test_an_imported_edit_is_on_its_way_until_the_stock_has_taken_it() -> None:
    edit = edits.Edit(units=-2, read=LevelRead(available=8), since_ms=0)
    known = edits.follow(state(), edit, "import")
    assert edits.explains(known, 8)
    assert pushes.difference(known) == 0
    shipped = replace(known.target, committed=0, physical_total=-1, available=9, wanted=9, version=2)
    known = pushes.take_target(known, shipped)  # something else comes first
    assert (edits.explains(known, 7), pushes.difference(known)) == (True, 0)
    taken = replace(shipped, physical_total=-3, imported_total=-2, available=7, wanted=7, version=3)
    known = pushes.take_target(known, taken)
    assert (edits.explains(known, 7), pushes.difference(known)) == (True, 0)


def test_an_overruled_edit_is_taken_back_by_the_next_write() -> None:
    edit = edits.Edit(units=-2, read=LevelRead(available=8), since_ms=0)
    assert pushes.difference(edits.follow(state(), edit, "overrule")) == 2


def test_two_edits_of_one_listing_never_share_an_id() -> None:
    now = BEGAN
    ids = set()
    known = state()
    for number, units in enumerate((2, -2, 2)):
        edit = edits.Edit(units=units, read=LevelRead(updated_at=str(number)), since_ms=0)
        known = edits.follow(known, edit, "import")
        ids.add(edits.import_of(known, edit, now).id)
    assert len(ids) == 3
