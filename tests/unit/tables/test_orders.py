"""The order rules: whatever is told twice, late or out of order, an order moves what the shop moved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.records import (
    Fulfillment,
    FulfillmentLine,
    Listing,
    Listings,
    Movement,
    MovementKind,
    Order,
    OrderLine,
    Refund,
    RefundLine,
)
from connectors.shopify.simulator import shopper
from connectors.shopify.simulator.bodies import order_body
from connectors.shopify.simulator.model import NotPossible, ShopConfig, Webhook
from connectors.shopify.simulator.world import World
from tables.listings import ListingDirectory, sku_ref, variant_ref
from tables.order_record import OrderRecord
from tables.orders import (
    Evaluation,
    evaluate,
    take_missing,
    take_notice,
    take_order,
    take_refund,
    waiting_refs,
)

SHOP = "north.myshopify.com"
MAIN, STORE = 71, 72
BEGAN = datetime(2026, 11, 24, 9, tzinfo=UTC)
COMMITTED = {"committed": 1, "released": -1, "written_off": -1, "shipped": -1}
PHYSICAL = {"written_off": -1, "shipped": -1, "returned": 1}


def directory(*skus: str) -> ListingDirectory:
    made = ListingDirectory()
    for number, sku in enumerate(skus, 1):
        for location_id, location in ((MAIN, "main"), (STORE, "store")):
            listing = Listing(shop=SHOP, item=5000 + number, variant=9000 + number, location_id=location_id)
            made.put(f"{sku}@{location}", Listings(sku=sku, location=location, listings=[listing]))
    return made


class Told:
    """An order's record as webhooks come in, and the movements that were emitted."""

    def __init__(self, listed: ListingDirectory, *, routed: bool = False) -> None:
        self._routed = routed
        self.record: OrderRecord | None = None
        self.movements: list[Movement] = []
        self.unmapped: list[str] = []
        self._listed = listed

    def order(self, order: Order, *, read: bool = False) -> None:
        self.settle(take_order(self.record, SHOP, order, read=read))

    def refund(self, refund: Refund) -> None:
        self.settle(take_refund(self.record, SHOP, refund))

    def settle(self, record: OrderRecord) -> None:
        """Evaluate twice: the second time there is nothing left to move."""
        done = self._evaluated(record)
        again = self._evaluated(done.record)
        assert again.movements == []
        assert again.record == done.record
        self.record = done.record
        self.movements += done.movements
        self.unmapped += done.unmapped

    def _evaluated(self, record: OrderRecord) -> Evaluation:
        return evaluate(
            record, self._listed, default_location_id=MAIN, correlation_id="c", routed=self._routed
        )

    def again(self) -> None:
        assert self.record is not None
        self.settle(self.record)

    @property
    def wanted(self) -> str:
        assert self.record is not None
        return self.record.read_wanted

    def net(self, effects: dict[str, int]) -> Counter[str]:
        moved: Counter[str] = Counter()
        for movement in self.movements:
            moved[movement.key] += effects.get(movement.kind, 0) * movement.quantity
        return Counter({key: units for key, units in moved.items() if units})

    def kinds(self) -> list[tuple[str, int, str]]:
        return [(str(one.kind), one.quantity, one.location) for one in self.movements]


def at(seconds: int) -> datetime:
    return BEGAN + timedelta(seconds=seconds)


def an_order(seconds: int = 0, *, quantity: int = 3, open_units: int | None = None, **more: Any) -> Order:
    line = OrderLine(
        id=1,
        quantity=quantity,
        current_quantity=more.pop("current", None),
        fulfillable_quantity=quantity if open_units is None else open_units,
        variant_id=9001,
        sku="TEE",
        variant_inventory_management=more.pop("managed", "shopify"),
    )
    return Order(id=100, created_at=at(0), updated_at=at(seconds), line_items=[line], **more)


def a_fulfillment(
    number: int = 7, *, units: int = 3, location: int | None = MAIN, status: str = "success"
) -> Any:
    return Fulfillment(
        id=number,
        created_at=at(5),
        updated_at=at(5),
        status=status,
        location_id=location,
        line_items=[FulfillmentLine(id=1, quantity=units)],
    )


def a_refund(kind: str, units: int = 3, *, location: int | None = MAIN, number: int = 50) -> Refund:
    line = RefundLine(id=number + 1, line_item_id=1, quantity=units, restock_type=kind, location_id=location)
    return Refund(id=number, order_id=100, created_at=at(9), refund_line_items=[line])


@pytest.fixture
def told() -> Told:
    return Told(directory("TEE", "CAP"))


def test_create_twice_commits_once(told: Told) -> None:
    told.order(an_order())
    told.order(an_order())
    assert told.kinds() == [("committed", 3, "main")]
    [movement] = told.movements
    assert movement.id == f"shopify:{SHOP}/100/committed/1/0-3"
    assert movement.cause.listing == f"{SHOP}/5001/{MAIN}"


def test_a_till_order_is_at_its_own_location(told: Told) -> None:
    told.order(an_order(location_id=STORE))
    assert told.kinds() == [("committed", 3, "store")]


def test_untracked_lines_move_nothing(told: Told) -> None:
    told.order(an_order(managed=None))
    assert told.movements == []


def test_shipping_from_elsewhere_moves_the_promise_first(told: Told) -> None:
    told.order(an_order())
    told.order(an_order(5, open_units=1, fulfillments=[a_fulfillment(units=2, location=STORE)]))
    assert Counter(told.kinds()) == Counter(
        [
            ("committed", 3, "main"),
            ("committed", 2, "store"),
            ("released", 2, "main"),
            ("shipped", 2, "store"),
        ]
    )


def test_a_cancelled_fulfillment_comes_back(told: Told) -> None:
    told.order(an_order(5, open_units=0, fulfillments=[a_fulfillment()]))
    back = msgspec.structs.replace(a_fulfillment(status="cancelled"), updated_at=at(8))
    told.order(an_order(8, fulfillments=[back]))
    assert (told.net(COMMITTED), told.net(PHYSICAL)) == (Counter({"TEE@main": 3}), Counter())


def test_a_cancel_and_its_refund_count_the_units_once(told: Told) -> None:
    cancelled = an_order(9, open_units=0, current=0, cancelled_at=at(9), refunds=[a_refund("cancel")])
    told.order(cancelled)
    told.order(an_order())
    told.refund(a_refund("cancel"))
    assert told.kinds() == [("committed", 3, "main"), ("released", 3, "main")]
    assert told.wanted == ""


def test_a_cancel_without_refund_lines_is_read_and_then_written_off(told: Told) -> None:
    cancelled = an_order(9, open_units=0, current=0, cancelled_at=at(9))
    told.order(an_order())
    told.order(cancelled)
    assert told.wanted == "cancelled"
    told.order(cancelled, read=True)
    assert told.kinds() == [("committed", 3, "main"), ("written_off", 3, "main")]
    assert told.wanted == ""


def test_a_late_refund_explains_what_was_written_off(told: Told) -> None:
    cancelled = an_order(9, open_units=0, current=0, cancelled_at=at(9))
    told.order(cancelled)
    told.order(cancelled, read=True)
    told.refund(a_refund("cancel"))
    assert (told.net(COMMITTED), told.net(PHYSICAL)) == (Counter(), Counter())


def test_a_refund_before_its_order_waits_for_a_read(told: Told) -> None:
    told.refund(a_refund("cancel", 1))
    assert (told.movements, told.wanted) == ([], "no snapshot")
    told.order(an_order(9, open_units=2, current=2, refunds=[a_refund("cancel", 1)]), read=True)
    assert told.net(COMMITTED) == Counter({"TEE@main": 2})
    assert told.wanted == ""


def test_a_return_goes_to_its_location(told: Told) -> None:
    shipped = an_order(5, open_units=0, fulfillments=[a_fulfillment()])
    told.order(shipped)
    told.refund(a_refund("return", 2, location=STORE))
    assert told.net(PHYSICAL) == Counter({"TEE@main": -3, "TEE@store": 2})


@pytest.mark.parametrize(("open_units", "committed", "gone"), [(0, 0, 3), (2, 2, 1)])
def test_no_restock_writes_off_what_was_open(told: Told, open_units: int, committed: int, gone: int) -> None:
    told.order(an_order())
    after = an_order(9, open_units=open_units, current=open_units, refunds=[a_refund("no_restock", gone)])
    told.order(after)
    assert told.net(COMMITTED) == Counter({"TEE@main": committed} if committed else {})
    assert told.net(PHYSICAL) == Counter({"TEE@main": -gone})


def test_no_restock_of_shipped_units_moves_nothing(told: Told) -> None:
    told.order(an_order(5, open_units=0, fulfillments=[a_fulfillment()]))
    told.order(
        an_order(
            9, open_units=0, current=1, fulfillments=[a_fulfillment()], refunds=[a_refund("no_restock", 2)]
        )
    )
    assert told.net(PHYSICAL) == Counter({"TEE@main": -3})


def test_edits_up_and_down(told: Told) -> None:
    told.order(an_order())
    told.order(an_order(5, quantity=5, current=5))
    told.order(an_order(9, quantity=5, current=1, open_units=1))
    assert told.net(COMMITTED) == Counter({"TEE@main": 1})
    assert told.net(PHYSICAL) == Counter()


def test_an_edit_asks_for_a_read_unless_the_order_is_newer(told: Told) -> None:
    told.order(an_order(5))
    told.settle(take_notice(told.record, SHOP, 100, at=at(4)))
    assert told.wanted == ""
    told.settle(take_notice(told.record, SHOP, 100, at=at(6)))
    assert told.wanted == "noticed"
    told.order(an_order(6, quantity=4))
    assert told.wanted == "noticed", "it may be from before the change, in the same second"
    told.order(an_order(7, quantity=4))
    assert told.wanted == ""


def test_equal_instants_are_united(told: Told) -> None:
    first, second = a_fulfillment(7, units=1), a_fulfillment(8, units=2)
    told.order(an_order(5, open_units=2, fulfillments=[first]))
    told.order(an_order(5, open_units=0, fulfillments=[second]))
    assert told.net(PHYSICAL) == Counter({"TEE@main": -3})


def test_an_unmapped_line_waits_and_the_rest_goes_on() -> None:
    listed = directory("TEE")
    told = Told(listed)
    order = an_order()
    other = msgspec.structs.replace(order.line_items[0], id=2, variant_id=9999, sku="NEW")
    told.order(msgspec.structs.replace(order, line_items=[order.line_items[0], other]))
    assert told.kinds() == [("committed", 3, "main")]
    assert told.unmapped == ["2@71"]
    assert told.record is not None
    assert waiting_refs(told.record) == sorted([sku_ref(SHOP, "NEW"), variant_ref(SHOP, 9999)])
    listing = Listing(shop=SHOP, item=1, variant=9999, location_id=MAIN)
    listed.put("NEW@main", Listings(sku="NEW", location="main", listings=[listing]))
    told.again()
    assert told.net(COMMITTED) == Counter({"TEE@main": 3, "NEW@main": 3})
    assert waiting_refs(told.record) == []


def test_a_missing_order_is_not_asked_for_again(told: Told) -> None:
    told.refund(a_refund("cancel"))
    assert told.record is not None
    told.settle(take_missing(told.record))
    assert (told.wanted, told.movements) == ("", [])


# --- any history of a shop, told in any order ------------------------------------------------


class History:
    """An order in the simulator, what happens to it, and the webhooks that tell."""

    def __init__(self, seed: int) -> None:
        self.now = BEGAN.timestamp()
        self.world = World(clock=lambda: self.now, monotonic=lambda: self.now, random=Random(seed))
        self.world.add_shop(
            ShopConfig(
                domain=SHOP, access_token="t", webhook_secret="s", webhook_url="", default_location_id=MAIN
            )
        )
        self.world.add_location(SHOP, STORE, "Store")
        self.items = [
            self.world.add_item(
                SHOP, sku, item_id=5000 + n, variant_id=9000 + n, available={MAIN: 50, STORE: 50}
            )
            for n, sku in enumerate(("TEE", "CAP"), 1)
        ]
        self.webhooks: list[Webhook] = []

    def act(self, random: Random) -> None:
        """Sell, and then some more or less sensible things."""
        wanted = [shopper.Wanted(item=item.id, quantity=random.randint(1, 4)) for item in self.items]
        sale = shopper.sell(self.world, SHOP, wanted, random.choice((None, STORE)))
        self.webhooks += sale.webhooks
        assert sale.order is not None
        self.order_id = sale.order.id
        for _ in range(random.randint(0, 5)):
            self.now += random.choice((0, 0, 1, 60))  # equal instants are normal
            try:
                self.webhooks += self._one(random)
            except NotPossible:
                continue

    def _one(self, random: Random) -> Iterable[Webhook]:
        order = self.world.shop(SHOP).order(self.order_id)
        line = random.choice(order.lines)
        what = random.choice(("fulfil", "fulfil", "cancel", "refund", "refund"))
        if what == "fulfil":
            some = {line.id: random.randint(1, 2)} if random.random() < 0.7 else None
            return shopper.fulfil(self.world, SHOP, order.id, some, random.choice((None, MAIN, STORE)))
        if what == "cancel":
            restock, refund = random.random() < 0.5, random.random() < 0.5
            return shopper.cancel(self.world, SHOP, order.id, restock=restock, refund=refund)
        kind: Any = random.choice(("cancel", "return", "no_restock"))
        return shopper.refund(self.world, SHOP, order.id, {line.id: random.randint(1, 2)}, kind)

    def read(self) -> Order:
        shop = self.world.shop(SHOP)
        return msgspec.json.decode(order_body(shop, shop.order(self.order_id)), type=Order)

    def truth(self) -> tuple[Counter[str], Counter[str]]:
        """(committed, change of on_hand) by stock key."""
        committed: Counter[str] = Counter()
        physical: Counter[str] = Counter()
        names = {MAIN: "main", STORE: "store"}
        for (item_id, location_id), level in self.world.shop(SHOP).levels.items():
            sku = next(item.sku for item in self.items if item.id == item_id)
            key = f"{sku}@{names[location_id]}"
            committed[key] += level.committed
            physical[key] += level.on_hand - 50
        return +committed, Counter({key: units for key, units in physical.items() if units})


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 1 << 30), data=st.data())
def test_any_history_told_in_any_order_moves_what_the_shop_moved(seed: int, data: st.DataObject) -> None:
    history = History(seed)
    history.act(Random(seed))
    tellings = [one for one in history.webhooks if one.topic.startswith(("orders/", "refunds/"))]
    numbers = list(range(len(tellings)))
    repeated = data.draw(st.lists(st.sampled_from(numbers), max_size=4))
    told = Told(directory("TEE", "CAP"))
    for number in data.draw(st.permutations([*numbers, *repeated])):
        webhook = tellings[number]
        assert webhook.body is not None
        if webhook.topic == "refunds/create":
            told.refund(msgspec.json.decode(webhook.body, type=Refund))
        else:
            told.order(msgspec.json.decode(webhook.body, type=Order))
    if told.wanted:
        told.order(history.read(), read=True)
    assert told.wanted == ""
    assert (told.net(COMMITTED), told.net(PHYSICAL)) == history.truth()
    ids = [movement.id for movement in told.movements]
    assert len(ids) == len(set(ids))
    assert all(movement.quantity > 0 for movement in told.movements)
    assert {movement.kind for movement in told.movements} <= set(MovementKind)
