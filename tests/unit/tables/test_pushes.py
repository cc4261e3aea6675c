"""The push rules: differences that commute with what we have not heard of yet."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from msgspec.structs import replace

from agents.shopify.plan import Plan
from app.records import LevelRead, Listing, PushResult, Target
from tables import pushes
from tables.pushes import Entry, Intent, Need, PushState
from tables.stock import channel_target

LISTING = "north.myshopify.com/11/21"
BEGAN = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
LATER = datetime(2026, 11, 2, 9, 1, tzinfo=UTC)


def target(
    wanted: int = 5,
    *,
    available: int | None = None,
    committed: int = 0,
    physical: int = 0,
    version: int = 1,
    item: int = 11,
) -> Target:
    return Target(
        shop="north.myshopify.com",
        item=item,
        location_id=21,
        sku="TEE",
        location="main",
        available=wanted if available is None else available,
        wanted=wanted,
        committed=committed,
        physical_total=physical,
        version=version,
    )


def read(state: PushState, units: int) -> PushState:
    return pushes.take_read(state, LevelRead(available=units), state.target.physical_total)


@pytest.mark.parametrize(
    ("units", "told", "delta"),
    [
        (0, target(5), 5),  # the shop shows 0
        (7, target(5, committed=2), 0),  # 5 shown, 2 held by its own orders
        (7, target(5), -2),  # 2 orders that nobody told us of yet: their webhook makes it 0
        (4, target(5, physical=-3), 1),  # 3 shipped before the read
        (2, target(0, available=-1), -2),  # oversold: down to 0
        (0, target(0, available=-1, committed=3), 0),  # a backorder of -3 is the shop's own: never up
        (-3, target(0, available=0), 3),
    ],
)
def test_the_difference(units: int, told: Target, delta: int) -> None:
    assert pushes.difference(read(PushState(target=told), units)) == delta


def test_an_older_target_changes_nothing() -> None:
    state = pushes.take_target(None, target(5, version=3))
    assert pushes.take_target(state, target(9, version=3)) is state
    assert pushes.take_target(state, target(9, version=2)) is state
    assert pushes.take_target(state, target(9, version=4)).target.wanted == 9


def test_a_listing_that_is_off_and_comes_back_is_read_again() -> None:
    noticed = pushes.Noticed(available=3)
    state = replace(read(PushState(target=target(5)), 5), noticed=noticed, accepted=2)
    off = pushes.take_target(state, replace(target(7, version=2), off=True))
    assert (pushes.need_of(off, due=True), off.noticed) == (Need.NOTHING, None)
    assert pushes.take_target(off, target(5)) is off
    back = pushes.take_target(off, target(7, version=3))
    assert (pushes.need_of(back), back.accepted) == (Need.READ, 0)


def test_a_key_that_a_listing_has_left_does_not_stop_the_key_that_has_it_now() -> None:
    now = replace(target(5, version=1), sku="HAT")
    left = replace(target(7, version=9), off=True)
    state = read(pushes.take_target(None, now), 3)
    assert pushes.take_target(state, left) is state
    first = pushes.take_target(read(PushState(target=target(7)), 7), left)
    assert pushes.take_target(first, now).target == now


def test_a_late_target_of_the_key_that_a_listing_has_left_is_nothing() -> None:
    has = replace(target(5), sku="HAT", generation=2)
    late, off = (replace(target(7, version=9), off=off, generation=1) for off in (False, True))
    state = read(pushes.take_target(None, has), 3)
    assert pushes.take_target(state, late) is state
    assert pushes.take_target(state, off) is state


def test_a_key_that_leaves_the_generation_out_still_speaks_for_its_listing() -> None:
    state = read(PushState(target=replace(target(5), generation=3)), 5)
    newer = pushes.take_target(state, target(6, version=2))
    assert (newer.target.wanted, newer.offset) == (6, state.offset)


def test_a_listing_that_was_taken_away_and_is_listed_again_is_read_and_keeps_the_edits_under_way() -> None:
    state = replace(read(PushState(target=replace(target(5), generation=1)), 5), imported=2)
    again = pushes.take_target(state, replace(target(5, version=3), generation=2))
    assert (pushes.need_of(again), again.imported) == (Need.READ, 2)


@given(st.data())
def test_the_key_that_has_a_listing_wins_in_any_order_and_after_any_compaction(data: st.DataObject) -> None:
    keys = data.draw(st.lists(st.sampled_from(["A", "B", "C"]), min_size=1, max_size=5))
    told: dict[str, list[Target]] = {}

    def tell(sku: str, generation: int, *, off: bool) -> None:
        stream = told.setdefault(sku, [])
        one = replace(target(version=len(stream) + 1), sku=sku, generation=generation, off=off)
        stream.append(one)

    for generation, sku in enumerate(keys, 1):
        for _ in range(data.draw(st.integers(1, 3))):
            tell(sku, generation, off=False)
        if generation < len(keys) or data.draw(st.booleans()):
            tell(sku, generation, off=True)
    last = told[keys[-1]][-1]
    kept = {
        sku: [one for one in stream[:-1] if data.draw(st.booleans())] + stream[-1:]
        for sku, stream in told.items()
    }
    assert len({one.record_key for stream in kept.values() for one in stream}) == len(kept)
    turns = data.draw(st.permutations([sku for sku, stream in kept.items() for _ in stream]))
    streams = {sku: iter(stream) for sku, stream in kept.items()}
    state = None
    for sku in turns:
        state = pushes.take_target(state, next(streams[sku]))
    assert state is not None
    assert state.target == last


def test_a_read_is_not_used_when_something_shipped_meanwhile() -> None:
    state = PushState(target=target(5, physical=-2))
    assert pushes.take_read(state, LevelRead(available=9), asked=0).offset is None
    assert pushes.take_read(state, LevelRead(available=9), asked=-2).offset == 11


def test_a_call_has_at_most_250_entries_and_a_suspect_goes_alone() -> None:
    states = [read(PushState(target=target(5, item=item)), 0) for item in range(300)]
    suspect = pushes.release(pushes.begin(states[0], _intent()), alone=True)
    plan = Plan(entries=250)
    for state in [*states[1:120], suspect, *states[120:]]:
        plan.add(Need.PUSH, state)
    sizes = [len(batch.listings) for batch in plan.batches()]
    assert sizes == [250, 1, 49]
    assert [batch.listings for batch in plan.batches()][1] == [suspect.target.key]


def test_refusals_hold_a_listing_until_its_next_target() -> None:
    state = read(PushState(target=target(5)), 0)
    for _ in range(2):
        state = pushes.refuse(pushes.begin(state, _intent()), "INVALID_LOCATION", 3)
        assert pushes.need_of(state) is Need.PUSH
    state = pushes.refuse(pushes.begin(state, _intent()), "INVALID_LOCATION", 3)
    assert pushes.need_of(state) is Need.NOTHING
    assert state.held == "INVALID_LOCATION"
    state = pushes.take_target(state, target(6, version=2))
    assert pushes.need_of(state) is Need.PUSH
    assert pushes.refuse(state, "again", 3).held == "again"


def test_a_forgotten_write_is_read_again() -> None:
    state = pushes.forget(pushes.begin(read(PushState(target=target(5)), 0), _intent()))
    assert pushes.need_of(state) is Need.READ


def test_the_public_record_of_a_push() -> None:
    entry = Entry(listing=LISTING, delta=5, wanted=5, version=1, occurred_at=BEGAN, correlation_id="event-1")
    push = pushes.push_of(entry, "k", PushResult.REFUSED, at=LATER, error="x")
    assert (push.shop, push.item, push.location_id, push.delta, push.error) == (
        "north.myshopify.com", 11, 21, 5, "x",
    )  # fmt: skip
    assert (push.occurred_at, push.updated_at, push.correlation_id) == (BEGAN, LATER, "event-1")


def test_a_write_names_the_oldest_fact_that_it_carries_out() -> None:
    state = read(pushes.take_target(None, _told(5, 1, BEGAN, "first")), 0)
    state = pushes.take_target(state, _told(6, 2, LATER, "second"))
    [entry] = pushes.entries_of([state])
    assert (entry.occurred_at, entry.correlation_id) == (BEGAN, "second")
    state = pushes.take_target(pushes.begin(state, _intent()), _told(7, 3, LATER, "third"))
    state = pushes.acknowledge(state, entry)
    [rest] = pushes.entries_of([state])
    assert (rest.delta, rest.occurred_at, rest.correlation_id) == (1, LATER, "third")
    assert pushes.acknowledge(pushes.begin(state, _intent()), rest).since is None


def test_a_target_that_changes_nothing_shown_waits_for_no_write() -> None:
    state = read(pushes.take_target(None, _told(5, 1, BEGAN, "first")), 5)
    assert pushes.take_target(state, _told(5, 2, LATER, "second")).since is None


def _told(wanted: int, version: int, at: datetime, correlation_id: str) -> Target:
    return replace(target(wanted, version=version), occurred_at=at, correlation_id=correlation_id)


def _intent() -> Intent:
    return Intent(key="k", shop="north.myshopify.com", variables="{}", entries=[], created_ms=0)


class ShopAndUs(RuleBasedStateMachine):
    """A shop that sells and ships, us hearing of it late, another channel, and slow writes."""

    def __init__(self) -> None:
        super().__init__()
        self.shop_available = self.shop_committed = 0
        self.on_hand = 0
        self.committed = self.own_committed = self.physical = 0
        self.version = 1
        self.unheard: deque[tuple[int, int]] = deque()  # (committed, physical)
        self.under_way: Entry | None = None
        self.applied = False
        self.state = read(pushes.take_target(None, self._target()), 0)

    @rule(quantity=st.integers(1, 5))
    def the_shop_sells_what_it_shows(self, quantity: int) -> None:
        sold = min(quantity, max(0, self.shop_available))
        self.shop_available -= sold
        self.shop_committed += sold
        self.unheard.append((sold, 0))

    @rule(quantity=st.integers(1, 5))
    def the_shop_cancels(self, quantity: int) -> None:
        released = min(quantity, self.shop_committed)
        self.shop_available += released
        self.shop_committed -= released
        self.unheard.append((-released, 0))

    @rule(quantity=st.integers(1, 5))
    def the_shop_ships(self, quantity: int) -> None:
        shipped = min(quantity, self.shop_committed)
        self.shop_committed -= shipped
        self.unheard.append((-shipped, -shipped))

    @rule(quantity=st.integers(1, 3))
    def a_return_comes_back_in_the_shop(self, quantity: int) -> None:
        self.shop_available += quantity
        self.unheard.append((0, quantity))

    @rule(units=st.integers(-6, 9))
    def another_channel_moves_units(self, units: int) -> None:
        self.on_hand += units
        self._tell()

    @precondition(lambda self: self.unheard)
    @rule()
    def we_hear_of_the_oldest(self) -> None:
        committed, physical = self.unheard.popleft()
        self.committed += committed
        self.own_committed += committed
        self.on_hand += physical
        self.physical += physical
        self._tell()

    @precondition(lambda self: self.under_way is None)
    @rule()
    def we_begin_a_write(self) -> None:
        entries = pushes.entries_of([self.state])
        if entries:
            [self.under_way] = entries
            self.state = pushes.begin(self.state, _intent())
            self.applied = False

    @precondition(lambda self: self.under_way is not None and not self.applied)
    @rule()
    def the_shop_applies_it(self) -> None:
        assert self.under_way is not None
        self.shop_available += self.under_way.delta
        self.applied = True

    @precondition(lambda self: self.applied)
    @rule()
    def we_hear_that_it_did(self) -> None:
        assert self.under_way is not None
        self.state = pushes.acknowledge(self.state, self.under_way)
        self.under_way, self.applied = None, False

    def teardown(self) -> None:
        """Once all is heard and written, the shop shows exactly what it should."""
        while self.unheard:
            self.we_hear_of_the_oldest()
        for _ in range(2):
            if self.under_way is None:
                self.we_begin_a_write()
            if self.under_way is not None:
                if not self.applied:
                    self.the_shop_applies_it()
                self.we_hear_that_it_did()
        available = self.on_hand - self.committed
        if available >= 0:
            assert self.shop_available == available
        else:
            assert self.shop_available <= 0
        assert self.shop_committed == self.own_committed

    def _tell(self) -> None:
        self.version += 1
        self.state = pushes.take_target(self.state, self._target())

    def _target(self) -> Target:
        available = self.on_hand - self.committed
        listing = Listing(shop="north.myshopify.com", item=11, variant=1, location_id=21)
        return target(
            channel_target(available, listing),
            available=available,
            committed=self.own_committed,
            physical=self.physical,
            version=self.version,
        )


TestShopAndUs = ShopAndUs.TestCase
TestShopAndUs.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
