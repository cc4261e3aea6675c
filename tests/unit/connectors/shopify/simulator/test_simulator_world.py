"""What shoppers do to a shop: quantities, webhooks and the log."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.records import LevelChange, Order, Refund
from connectors.shopify.simulator import shopper
from connectors.shopify.simulator.bodies import body_at_send
from connectors.shopify.simulator.model import LogKind, NotPossible, Webhook
from connectors.shopify.simulator.shopper import Wanted


def sell(shop: Any, quantity: int = 2, **options: Any) -> Any:
    sale = shopper.sell(shop.world, shop.domain, [Wanted(sku="TEE", quantity=quantity)], **options)
    assert sale.order is not None
    return sale


def topics(webhooks: list[Webhook]) -> list[str]:
    return [each.topic for each in webhooks]


def order_in(webhook: Webhook) -> Order:
    assert webhook.body is not None
    return msgspec.json.decode(webhook.body, type=Order)


def test_an_order_commits_units_at_the_default_location_and_does_not_say_where(shop: Any) -> None:
    sale = sell(shop)
    assert shop.quantities() == (8, 2, 10)
    assert topics(sale.webhooks) == ["orders/create", "inventory_levels/update"]
    body = order_in(sale.webhooks[0])
    assert (body.location_id, body.source_name) == (None, "web")
    assert [(line.quantity, line.fulfillable_quantity, line.sku) for line in body.line_items] == [
        (2, 2, "TEE")
    ]
    assert len({each.event_id for each in sale.webhooks}) == 1
    assert len({each.id for each in sale.webhooks}) == 2


def test_a_sold_out_item_refuses_the_whole_order_and_says_so_in_the_log(shop: Any) -> None:
    lines = [Wanted(sku="TEE", quantity=6), Wanted(sku="WRAP", quantity=1), Wanted(sku="TEE", quantity=5)]
    sale = shopper.sell(shop.world, shop.domain, lines)
    assert (sale.order, sale.webhooks) == (None, [])
    assert shop.quantities() == (10, 0, 10)
    (entry,) = shop.world.log
    assert (entry.kind, entry.quantity, entry.available) == (LogKind.REFUSED, 11, 10)


def test_a_continue_item_is_sold_below_zero(shop: Any) -> None:
    item = shop.world.add_item(shop.domain, "MUG", policy="CONTINUE", available={shop.main: 1})
    shopper.sell(shop.world, shop.domain, [Wanted(item=item.id, quantity=3)])
    level = shop.state.levels[item.id, shop.main]
    assert (level.available, level.committed, level.on_hand) == (-2, 3, 1)


def test_an_untracked_line_moves_nothing_and_is_marked(shop: Any) -> None:
    sale = shopper.sell(shop.world, shop.domain, [Wanted(variant=shop.wrap.variant_id, quantity=1)])
    assert topics(sale.webhooks) == ["orders/create"]
    assert order_in(sale.webhooks[0]).line_items[0].variant_inventory_management is None
    assert shop.state.levels[shop.wrap.id, shop.main].committed == 0


def test_a_tills_order_names_its_location(shop: Any) -> None:
    sale = sell(shop, location=shop.store)
    assert shop.quantities(shop.store) == (1, 2, 3)
    assert (order_in(sale.webhooks[0]).location_id, order_in(sale.webhooks[0]).source_name) == (
        shop.store,
        "pos",
    )


def test_fulfilment_takes_committed_units_off_the_shelf(shop: Any) -> None:
    order = sell(shop).order
    webhooks = shopper.fulfil(shop.world, shop.domain, order.id, {order.lines[0].id: 1})
    assert shop.quantities() == (8, 1, 9)
    assert topics(webhooks) == ["orders/updated", "inventory_levels/update"]
    webhooks = shopper.fulfil(shop.world, shop.domain, order.id)
    assert shop.quantities() == (8, 0, 8)
    assert topics(webhooks) == ["orders/updated", "orders/fulfilled", "inventory_levels/update"]
    fulfillments = order_in(webhooks[0]).fulfillments
    assert [(f.location_id, f.status, f.line_items[0].quantity) for f in fulfillments] == [
        (shop.main, "success", 1),
        (shop.main, "success", 1),
    ]


def test_fulfilment_from_another_location_gives_the_allocation_back(shop: Any) -> None:
    order = sell(shop).order
    webhooks = shopper.fulfil(shop.world, shop.domain, order.id, location=shop.store)
    assert shop.quantities() == (10, 0, 10)
    assert shop.quantities(shop.store) == (1, 0, 1)
    assert topics(webhooks).count("inventory_levels/update") == 2


@pytest.mark.parametrize(
    ("restock", "quantities", "kind", "place"),
    [(True, (10, 0, 10), "cancel", 71), (False, (8, 0, 8), "no_restock", None)],
)
def test_a_cancelled_order_tells_in_its_refund_whether_it_was_restocked(
    shop: Any, restock: bool, quantities: tuple[int, int, int], kind: str, place: int | None
) -> None:
    order = sell(shop).order
    webhooks = shopper.cancel(shop.world, shop.domain, order.id, restock=restock)
    assert shop.quantities() == quantities
    assert topics(webhooks) == [
        "orders/cancelled",
        "orders/updated",
        "refunds/create",
        "inventory_levels/update",
    ]
    body = order_in(webhooks[0])
    assert body.cancelled_at is not None
    assert (body.line_items[0].current_quantity, body.line_items[0].fulfillable_quantity) == (0, 0)
    refund = msgspec.json.decode(webhooks[2].body or b"", type=Refund)
    assert refund == body.refunds[0]
    part = refund.refund_line_items[0]
    assert (part.quantity, part.restock_type, part.location_id) == (2, kind, place)


def test_a_cancel_has_no_refund_lines_only_when_nothing_goes_back(shop: Any) -> None:
    order = sell(shop).order
    webhooks = shopper.cancel(shop.world, shop.domain, order.id, restock=False, refund=False)
    assert "refunds/create" not in topics(webhooks)
    assert order_in(webhooks[0]).refunds == []
    order = sell(shop).order
    webhooks = shopper.cancel(shop.world, shop.domain, order.id, restock=True, refund=False)
    assert order_in(webhooks[0]).refunds[0].refund_line_items[0].restock_type == "cancel"


def test_a_return_comes_back_where_the_merchant_says(shop: Any) -> None:
    order = sell(shop).order
    shopper.fulfil(shop.world, shop.domain, order.id)
    lines = {order.lines[0].id: 1}
    webhooks = shopper.refund(shop.world, shop.domain, order.id, lines, "return", shop.store)
    assert shop.quantities() == (8, 0, 8)
    assert shop.quantities(shop.store) == (4, 0, 4)
    refund = msgspec.json.decode(webhooks[1].body or b"", type=Refund)
    assert (refund.refund_line_items[0].restock_type, refund.refund_line_items[0].location_id) == (
        "return",
        shop.store,
    )


def test_a_refund_without_restock_moves_open_units_only(shop: Any) -> None:
    order = sell(shop, 3).order
    line = order.lines[0].id
    shopper.fulfil(shop.world, shop.domain, order.id, {line: 2})
    webhooks = shopper.refund(shop.world, shop.domain, order.id, {line: 2}, "no_restock")
    assert shop.quantities() == (7, 0, 7)
    assert topics(webhooks) == ["orders/updated", "refunds/create", "inventory_levels/update"]
    webhooks = shopper.refund(shop.world, shop.domain, order.id, {line: 1}, "no_restock")
    assert shop.quantities() == (7, 0, 7)
    assert topics(webhooks) == ["orders/updated", "refunds/create"]


@pytest.mark.parametrize(
    "act",
    [
        lambda s, o: shopper.fulfil(s.world, s.domain, o.id, {o.lines[0].id: 3}),
        lambda s, o: shopper.refund(s.world, s.domain, o.id, {o.lines[0].id: 1}, "return"),
        lambda s, o: shopper.refund(s.world, s.domain, o.id, {o.lines[0].id: 3}, "cancel"),
        lambda s, o: shopper.fulfil(s.world, s.domain, o.id, {1: 1}),
        lambda s, o: shopper.fulfil(s.world, s.domain, 99),
        lambda s, o: shopper.edit_stock(s.world, s.domain, 5001, 99, delta=1),
        lambda s, o: shopper.sell(s.world, s.domain, [Wanted(sku="NONE", quantity=1)]),
        lambda s, o: shopper.sell(s.world, s.domain, [Wanted(sku="TEE", quantity=0)]),
    ],
)
def test_the_impossible_is_refused_and_changes_nothing(shop: Any, act: Any) -> None:
    order = sell(shop).order
    before, log = dict(shop.state.levels), len(shop.world.log)
    with pytest.raises(NotPossible):
        act(shop, order)
    assert (shop.state.levels, len(shop.world.log)) == (before, log)
    assert shop.state.order(order.id) == order


def test_a_cancelled_order_cannot_be_cancelled_or_fulfilled_again(shop: Any) -> None:
    order = sell(shop).order
    shopper.cancel(shop.world, shop.domain, order.id, restock=True)
    with pytest.raises(NotPossible, match="is cancelled"):
        shopper.cancel(shop.world, shop.domain, order.id, restock=True)
    with pytest.raises(NotPossible, match="is cancelled"):
        shopper.fulfil(shop.world, shop.domain, order.id)


def test_a_level_webhook_shows_the_value_of_when_it_is_sent(shop: Any, clock: Any) -> None:
    first = shopper.edit_stock(shop.world, shop.domain, shop.tee.id, shop.main, delta=-4)[0]
    clock.now += 5
    shopper.edit_stock(shop.world, shop.domain, shop.tee.id, shop.main, available=1)
    body = body_at_send(shop.state, first)
    change = msgspec.json.decode(body, type=LevelChange)
    assert (change.inventory_item_id, change.location_id, change.available) == (shop.tee.id, shop.main, 1)
    assert json.loads(body)["updated_at"].endswith("+01:00")
    assert "." not in json.loads(body)["updated_at"]


def test_made_ids_do_not_survive_a_float(shop: Any) -> None:
    assert sell(shop).order.id > 2**53


ACTS = st.lists(
    st.tuples(st.sampled_from(["sell", "cancel", "lose", "fulfil", "return", "edit"]), st.integers(1, 4)),
    max_size=25,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(acts=ACTS)
def test_committed_is_the_open_units_and_the_log_explains_available(
    acts: list[tuple[str, int]], make_shop: Any, clock: Any
) -> None:
    shop = make_shop(clock)
    world, domain = shop.world, shop.domain
    for act, number in acts:
        orders = list(shop.state.orders.values())
        order = orders[number % len(orders)] if orders else None
        try:
            if act == "sell":
                shopper.sell(world, domain, [Wanted(sku="TEE", quantity=number)])
            elif act == "edit":
                shopper.edit_stock(world, domain, shop.tee.id, shop.main, delta=number)
            elif order is not None and act in ("cancel", "lose"):
                shopper.cancel(world, domain, order.id, restock=act == "cancel")
            elif order is not None and act == "fulfil":
                shopper.fulfil(world, domain, order.id, {order.lines[0].id: number})
            elif order is not None:
                shopper.refund(world, domain, order.id, {order.lines[0].id: number}, "return")
        except NotPossible:
            continue
    lines = [line for order in shop.state.orders.values() for line in order.lines]
    assert shop.level().committed == sum(line.open for line in lines)
    moved = sum(e.delta or 0 for e in world.log if (e.item, e.location) == (shop.tee.id, shop.main))
    assert shop.level().available == 10 + moved
    assert shop.level().available >= 0
    assert [entry.seq for entry in world.log] == list(range(1, len(world.log) + 1))
