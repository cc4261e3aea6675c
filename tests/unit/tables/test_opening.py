"""The opening balance: plans, and orders that were open at that moment and end afterwards.

The shop is the simulator's world; what it tells of its orders goes through the rules of orders and stock, and
at the end our key must have what the shop has.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.records import (
    Cause,
    ItemLevel,
    Level,
    Listing,
    Listings,
    Moved,
    Movement,
    MovementKind,
    Order,
    StockRecord,
    listing_key,
)
from connectors.shopify.simulator import shopper
from connectors.shopify.simulator.bodies import order_body
from connectors.shopify.simulator.model import ShopConfig
from connectors.shopify.simulator.shopper import Wanted
from connectors.shopify.simulator.world import World
from tables import pushes, stock
from tables.listings import ListingDirectory
from tables.opening import (
    Action,
    Reading,
    adoption,
    held_units,
    plan_adoption,
    plan_publishing,
)
from tables.orders import OrderRecord, evaluate, take_order
from tables.pushes import Need, PushState
from tables.stock import ADOPTION_LIFE, HISTORY_LIMIT

SHOP, OTHER, MAIN, TEE, VARIANT = "a.myshopify.com", "b.myshopify.com", 71, 5001, 9001
LISTING = Listing(shop=SHOP, item=TEE, variant=VARIANT, location_id=MAIN)
KEY = Listings(sku="TEE", location="main", listings=[LISTING])
START, MINUTE_S = 1_790_000_000.0, 60.0


class Pipeline:
    """A simulated shop with one item, and our rules for its one stock key."""

    def __init__(self, units: int = 20) -> None:
        self.now = START
        self.world = World(clock=lambda: self.now, monotonic=lambda: self.now, random=Random(1))
        self.world.add_shop(
            ShopConfig(
                domain=SHOP,
                access_token="example-token",
                webhook_secret="example-secret",
                webhook_url="http://127.0.0.1:9/none",
                default_location_id=MAIN,
            )
        )
        self.world.add_item(SHOP, "TEE", item_id=TEE, variant_id=VARIANT, available={MAIN: units})
        self.shop = self.world.shop(SHOP)
        self.directory = ListingDirectory()
        self.directory.put("TEE@main", KEY)
        self.orders: dict[int, OrderRecord] = {}
        self.record = StockRecord(listings=[LISTING])
        self.listing: PushState | None = None  # what the writer knows, which never reads

    def later(self) -> None:
        """A minute goes by."""
        self.now += MINUTE_S

    def sell(self, quantity: int) -> int:
        """A web order; its id."""
        sale = shopper.sell(self.world, SHOP, [Wanted(item=TEE, quantity=quantity)])
        assert sale.order is not None
        self.later()
        return sale.order.id

    def read(self, order_id: int) -> Order:
        """The order as a read of it would have it."""
        return msgspec.json.decode(order_body(self.shop, self.shop.order(order_id)), type=Order)

    def reading(self) -> Reading:
        """The shop's levels, twice the same."""
        level = self.shop.levels[TEE, MAIN]
        seen = ItemLevel(location_id=MAIN, active=True, available=level.available, committed=level.committed)
        return Reading(shop=SHOP, before={LISTING.key: seen}, after={LISTING.key: seen})

    def open(self) -> None:
        """Adopt the shop's stock: all its open orders are told, and the counts are applied."""
        reading, at = self.reading(), self.now
        told = [
            self.read(order.id) for order in self.shop.orders.values() if any(x.open for x in order.lines)
        ]
        self.later()
        held = held_units(SHOP, told, self.directory, MAIN)
        plan = plan_adoption([KEY], {}, {SHOP: reading}, held)
        assert [one.action for one in plan.keys] == [Action.ADOPT]
        for order in told:
            self.tell(order)
        for movement in adoption(plan, {SHOP: datetime.fromtimestamp(at, UTC)}):
            self.apply(movement)
        assert self.record.level.available == plan.keys[0].available == reading.after[LISTING.key].available

    def tell(self, order: Order) -> None:
        """Give a snapshot of an order to our rules, as the orders and the stock service would."""
        record = take_order(self.orders.get(order.id), SHOP, order, read=True)
        told = evaluate(record, self.directory, default_location_id=MAIN, correlation_id="")
        self.orders[order.id] = told.record
        for movement in told.movements:
            self.apply(movement)

    def apply(self, movement: Movement) -> None:
        before, now = self.record, datetime.fromtimestamp(self.now, UTC)
        self.record = stock.apply(self.record, movement, now=now).record
        for target in stock.targets("TEE@main", before, self.record):
            self.listing = pushes.take_target(self.listing, target)

    def agrees(self) -> None:
        """Our level is the shop's, and the writer believes of the listing what the shop has."""
        level = self.shop.levels[TEE, MAIN]
        ours = self.record.level
        assert (ours.available, ours.committed, ours.on_hand) == (
            level.available,
            level.committed,
            level.on_hand,
        )
        assert self.listing is not None
        assert pushes.need_of(self.listing) is Need.NOTHING, "it is neither read nor written"
        assert pushes.shown(self.listing) == level.available


def fulfil(shop: Pipeline, order: int) -> None:
    shopper.fulfil(shop.world, SHOP, order)


def fulfil_a_part(shop: Pipeline, order: int) -> None:
    line = shop.shop.order(order).lines[0].id
    shopper.fulfil(shop.world, SHOP, order, {line: 1})


def cancel(shop: Pipeline, order: int) -> None:
    shopper.cancel(shop.world, SHOP, order, restock=True)


def cancel_without_restock(shop: Pipeline, order: int) -> None:
    shopper.cancel(shop.world, SHOP, order, restock=False)


def refund_unfulfilled(shop: Pipeline, order: int) -> None:
    line = shop.shop.order(order).lines[0].id
    shopper.refund(shop.world, SHOP, order, {line: 1}, "cancel", MAIN)


def refund_unfulfilled_without_restock(shop: Pipeline, order: int) -> None:
    line = shop.shop.order(order).lines[0].id
    shopper.refund(shop.world, SHOP, order, {line: 1}, "no_restock", None)


def fulfil_and_return(shop: Pipeline, order: int) -> None:
    fulfil(shop, order)
    shop.later()
    line = shop.shop.order(order).lines[0].id
    shopper.refund(shop.world, SHOP, order, {line: 2}, "return", MAIN)


ENDS: list[Callable[[Pipeline, int], None]] = [
    fulfil,
    fulfil_a_part,
    cancel,
    cancel_without_restock,
    refund_unfulfilled,
    refund_unfulfilled_without_restock,
    fulfil_and_return,
]


@pytest.mark.parametrize("end", ENDS)
def test_an_order_open_at_the_opening_ends_right(end: Callable[[Pipeline, int], None]) -> None:
    shop = Pipeline()
    order = shop.sell(3)
    shop.open()
    shop.agrees()
    shop.later()
    end(shop, order)
    shop.tell(shop.read(order))
    shop.agrees()


# Shopify cancels no order of which something was fulfilled.
@pytest.mark.parametrize("end", [end for end in ENDS if end not in (cancel, cancel_without_restock)])
def test_an_order_partly_shipped_before_the_opening_ends_right(
    end: Callable[[Pipeline, int], None],
) -> None:
    shop = Pipeline()
    order = shop.sell(5)
    fulfil_a_part(shop, order)
    shop.later()
    shop.open()
    shop.agrees()
    shop.later()
    end(shop, order)
    shop.tell(shop.read(order))
    shop.agrees()


def test_orders_that_ended_before_the_opening_move_nothing_when_they_are_told_later() -> None:
    shop = Pipeline()
    shipped, cancelled = shop.sell(2), shop.sell(4)
    fulfil(shop, shipped)
    cancel(shop, cancelled)
    shop.later()
    shop.open()
    for order in (shipped, cancelled):
        shop.tell(shop.read(order))
        shop.agrees()
    line = shop.shop.order(shipped).lines[0].id
    shopper.refund(shop.world, SHOP, shipped, {line: 1}, "return", MAIN)
    shop.tell(shop.read(shipped))
    shop.agrees()


def test_telling_an_open_order_twice_and_opening_twice_changes_nothing() -> None:
    shop = Pipeline()
    order = shop.sell(3)
    shop.open()
    shop.tell(shop.read(order))
    shop.agrees()
    again = plan_adoption([KEY], {"TEE@main": shop.record}, {SHOP: shop.reading()}, {})
    assert [one.action for one in again.keys] == [Action.OPEN]
    assert list(adoption(again, {})) == []


# --- what the writer begins with ---------------------------------------------------------------


def test_what_ships_while_a_key_is_adopted_is_subtracted_once_whenever_it_is_told() -> None:
    for told_before_the_count in (False, True):
        shop = Pipeline()
        first, second = shop.sell(3), shop.sell(2)
        readings, at = {SHOP: shop.reading()}, shop.now
        for order in (first, second):
            shop.tell(shop.read(order))
        shop.later()
        fulfil(shop, first)
        fulfil(shop, second)
        plan = plan_adoption([KEY], {}, readings, {LISTING.key: 5})
        if told_before_the_count:
            shop.tell(shop.read(first))
        for movement in adoption(plan, {SHOP: datetime.fromtimestamp(at, UTC)}):
            shop.apply(movement)
        shop.tell(shop.read(first))
        shop.tell(shop.read(second))
        shop.agrees()


AS_OF_S = 100
moments = st.integers(0, 2 * AS_OF_S)


@given(
    st.lists(st.tuples(moments, st.sampled_from([MovementKind.WRITTEN_OFF, MovementKind.RETURNED]))),
    st.integers(0, 20),
    st.data(),
)
def test_the_belief_after_all_is_told_is_what_the_shop_has_in_any_order(
    effects: list[tuple[int, MovementKind]], units: int, data: st.DataObject
) -> None:
    signs = {MovementKind.WRITTEN_OFF: -1, MovementKind.RETURNED: 1}
    has = units + sum(signs[kind] for at_s, kind in effects if at_s > AS_OF_S)
    told = [
        _movement(kind, at_s, id=f"effect-{number}", cause=Cause(shop=SHOP, listing=LISTING.key))
        for number, (at_s, kind) in enumerate(effects)
    ]
    # Movements come in any order; the writer hears of each change, or of several at once.
    plan = plan_adoption([KEY], {}, {SHOP: reading(SHOP, level(units))}, {})
    opening = list(adoption(plan, {SHOP: AT + timedelta(seconds=AS_OF_S)}))
    first = data.draw(st.integers(0, len(told)))
    told = data.draw(st.permutations(told))
    record, heard, state = StockRecord(listings=[LISTING]), StockRecord(listings=[LISTING]), None
    for movement in [*told[:first], *opening, *told[first:]]:
        record = stock.apply(record, movement, now=AT).record
        if data.draw(st.booleans()):
            heard, state = record, _heard(heard, record, state)
    state = _heard(heard, record, state)
    assert state is not None
    assert pushes.expected_units(state) == has


def _movement(kind: MovementKind, at_s: int, **fields: Any) -> Movement:
    at = AT + timedelta(seconds=at_s)
    return Movement(
        kind=kind, sku="TEE", location="main", quantity=1, source=f"shopify:{SHOP}", occurred_at=at, **fields
    )


def _heard(before: StockRecord, after: StockRecord, state: PushState | None) -> PushState | None:
    for target in stock.targets("TEE@main", before, after):
        state = pushes.take_target(state, target)
    return state


def test_a_listing_that_was_taken_away_and_comes_back_is_read() -> None:
    shop = Pipeline()
    shop.open()
    without = stock.set_listings(
        shop.record, msgspec.structs.replace(KEY, listings=[]), now=datetime.fromtimestamp(shop.now, UTC)
    )
    back = stock.set_listings(without, KEY, now=datetime.fromtimestamp(shop.now, UTC))
    [target] = stock.targets("TEE@main", without, back)
    assert target.adopted is None
    followed = _heard(without, back, _heard(shop.record, without, shop.listing))
    for state in (pushes.take_target(None, target), followed):
        assert state is not None
        assert pushes.need_of(state) is Need.READ


def test_a_listing_whose_shop_told_more_before_the_opening_than_is_kept_is_read() -> None:
    for first_s, is_read in ((AS_OF_S, False), (AS_OF_S + 1, True)):
        record = StockRecord(listings=[LISTING])
        for number in range(HISTORY_LIMIT):
            cause = Cause(shop=SHOP, listing=LISTING.key)
            told = _movement(MovementKind.RETURNED, first_s + number, id=f"{number}", cause=cause)
            record = stock.apply(record, told, now=AT).record
        plan = plan_adoption([KEY], {}, {SHOP: reading(SHOP, level(5))}, {})
        [count] = adoption(plan, {SHOP: AT + timedelta(seconds=AS_OF_S)})
        opened = stock.apply(record, count, now=AT).record
        state = _heard(record, opened, None)
        assert state is not None
        assert (state.offset is None) == is_read
        assert not opened.moved[LISTING.key].unopened, "nobody needs it any more"


def test_targets_say_what_was_adopted_only_while_it_is_new() -> None:
    shop = Pipeline()
    shop.open()
    opened = shop.record.opened_at
    assert opened is not None
    for late in (False, True):
        now = opened + ADOPTION_LIFE + timedelta(milliseconds=late)
        more = _movement(MovementKind.RECEIVED, 0, id="more")
        [target] = stock.targets("TEE@main", shop.record, stock.apply(shop.record, more, now=now).record)
        assert target.adopted == (None if late else 20)


def test_a_later_count_of_a_key_that_is_open_adopts_nothing() -> None:
    shop = Pipeline()
    shop.open()
    count = _movement(MovementKind.COUNTED, 0, id="again", cause=Cause(shop=SHOP, listing=LISTING.key))
    later = datetime.fromtimestamp(shop.now, UTC) + timedelta(days=1)
    known = shop.record.moved[LISTING.key].adopted
    shop.apply(msgspec.structs.replace(count, quantity=3, as_of=later, adopted=99))
    assert (shop.record.level.on_hand, shop.record.moved[LISTING.key].adopted) == (3, known)


# --- plans -----------------------------------------------------------------------------------


def reading(shop: str, before: ItemLevel, after: ItemLevel | None = None) -> Reading:
    key = listing_key(shop, TEE, MAIN)
    return Reading(shop=shop, before={key: before}, after={key: after or before})


def level(available: int, **parts: int) -> ItemLevel:
    return ItemLevel(location_id=MAIN, active=True, available=available, **parts)


BOTH = msgspec.structs.replace(KEY, listings=[LISTING, msgspec.structs.replace(LISTING, shop=OTHER)])
AT = datetime(2026, 11, 2, 9, 15, tzinfo=UTC)


def test_shops_that_disagree_are_a_conflict_that_names_both_values() -> None:
    readings = {SHOP: reading(SHOP, level(5)), OTHER: reading(OTHER, level(7))}
    [one] = plan_adoption([BOTH], {}, readings, {}).keys
    assert one.action is Action.CONFLICT
    assert one.detail == (
        "a.myshopify.com/5001/71 has 5, b.myshopify.com/5001/71 has 7 on hand: name a shop with --from"
    )


def test_one_shop_is_adopted_and_the_others_are_published() -> None:
    readings = {SHOP: reading(SHOP, level(5)), OTHER: reading(OTHER, level(7))}
    plan = plan_adoption([BOTH], {}, readings, {}, source=OTHER)
    assert [(one.action, one.available) for one in plan.keys] == [(Action.ADOPT, 7)]
    assert [(one.listing, one.shows, one.will_show) for one in plan.listings] == [
        ("a.myshopify.com/5001/71", 5, 7),
        ("b.myshopify.com/5001/71", 7, 7),
    ]


def test_units_that_moved_between_the_reads_make_a_key_busy_and_orders_do_not() -> None:
    moved = {SHOP: reading(SHOP, level(5, committed=2), level(5, committed=1))}
    assert plan_adoption([KEY], {}, moved, {}).counts == {"busy": 1}
    sold = {SHOP: reading(SHOP, level(5, committed=2), level(3, committed=4))}
    assert plan_adoption([KEY], {}, sold, {}).counts == {"adopt": 1}


def test_what_orders_do_not_explain_is_named() -> None:
    readings = {SHOP: reading(SHOP, level(5, committed=4, reserved=2))}
    [one] = plan_adoption([KEY], {}, readings, {LISTING.key: 3}).keys
    assert (one.counted, one.held, one.available) == (9, 3, 6)
    assert one.detail == (
        "the shop holds 4 units for orders, its open orders explain 3; 2 reserved units are left out"
    )


def test_orders_of_a_shop_that_was_not_read_count_as_far_as_they_were_told() -> None:
    record = StockRecord(moved={listing_key(OTHER, TEE, MAIN): Moved(committed=2)})
    [one] = plan_adoption([BOTH], {"TEE@main": record}, {SHOP: reading(SHOP, level(5))}, {}).keys
    assert (one.held, one.available, one.detail) == (2, 3, "open orders of other listings hold 2")


def test_units_set_aside_stay_set_aside_and_below_zero_is_taken_over() -> None:
    readings = {SHOP: reading(SHOP, level(5, damaged=2, safety_stock=1))}
    plan = plan_adoption([KEY], {}, readings, {})
    assert _opened(plan.keys[0].available, list(adoption(plan, {SHOP: AT}))) == Level(
        on_hand=8, damaged=2, safety_stock=1
    )
    below = plan_adoption([KEY], {}, {SHOP: reading(SHOP, level(-4))}, {})
    assert _opened(-4, list(adoption(below, {SHOP: AT}))) == Level(on_hand=-4)
    assert [one.will_show for one in below.listings] == [-4]


def _opened(available: int, movements: list[Movement]) -> Level:
    record = StockRecord()
    for movement in movements:
        record = stock.apply(record, movement, now=AT).record
    assert record.opened_at == AT
    assert record.level.available == available
    return record.level


def test_a_shop_that_does_not_list_the_key_or_sells_nothing_there_is_not_adopted() -> None:
    inactive = msgspec.structs.replace(level(5), active=False)
    assert plan_adoption([KEY], {}, {SHOP: reading(SHOP, inactive)}, {}).counts == {"absent": 1}
    elsewhere = {OTHER: reading(OTHER, level(5))}
    assert plan_adoption([KEY], {}, elsewhere, {}, source=OTHER).counts == {"absent": 1}


def test_publishing_shows_what_each_new_listing_would_change() -> None:
    opened = StockRecord(level=Level(on_hand=10, committed=1), opened_at=AT)
    ruled = msgspec.structs.replace(LISTING, buffer=2)
    off = msgspec.structs.replace(LISTING, item=5002, off=True)
    plan = plan_publishing(
        {"TEE@main": [ruled, off], "CAP@main": [LISTING]},
        {"TEE@main": opened},
        {SHOP: reading(SHOP, level(3, committed=2))},
        {LISTING.key: 2},
    )
    assert plan.counts == {"unopened": 1, "publish": 1}
    assert [(one.shows, one.will_show) for one in plan.listings] == [(3, 5), (None, 0)]
