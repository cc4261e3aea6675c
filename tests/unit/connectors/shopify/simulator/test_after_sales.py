"""What becomes of an order after it was placed: quantities, webhooks, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from connectors.shopify.simulator import after_sales, shopper
from connectors.shopify.simulator.allocation import open_places
from connectors.shopify.simulator.model import NotPossible, Webhook
from connectors.shopify.simulator.shopper import Checkout, Wanted


def topics(webhooks: list[Webhook]) -> list[str]:
    return [each.topic for each in webhooks if not each.topic.startswith("inventory_levels/")]


def body(webhook: Webhook) -> Any:
    assert webhook.body is not None
    return json.loads(webhook.body)


def sell(shop: Any, quantity: int = 3, how: Checkout = shopper.WEB, **more: Any) -> Any:
    sale = shopper.sell(shop.world, shop.domain, [Wanted(sku="TEE", quantity=quantity, **more)], how=how)
    assert sale.order is not None
    return sale.order


def both(shop: Any) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    return shop.quantities(), shop.quantities(shop.store)


def test_order_routing_puts_a_line_where_all_of_it_is_and_else_spreads_it(shop: Any) -> None:
    spread = Checkout(spread=True)
    first = sell(shop, 8, spread)
    second = sell(shop, 3, spread)
    assert open_places(first, first.lines[0].id) == {shop.main: 8}
    assert open_places(second, second.lines[0].id) == {shop.store: 3}
    assert both(shop) == ((2, 8, 10), (0, 3, 3))


def test_a_line_at_two_places_ships_in_two_fulfilments(shop: Any) -> None:
    order = sell(shop, 3, places={shop.main: 2, shop.store: 1})
    assert both(shop) == ((8, 2, 10), (2, 1, 3))
    [told, *_] = shopper.fulfil(shop.world, shop.domain, order.id)
    assert [(each["location_id"], len(each["line_items"])) for each in body(told)["fulfillments"]] == [
        (shop.main, 1),
        (shop.store, 1),
    ]
    assert both(shop) == ((8, 0, 8), (2, 0, 2))


def test_goods_that_are_taken_along_were_never_open(shop: Any) -> None:
    order = sell(shop, 2, Checkout(location=shop.store, taken=True))
    assert shop.quantities(shop.store) == (1, 0, 1)
    assert (order.source, order.lines[0].open) == ("pos", 0)


def test_an_order_past_the_inventory_moves_nothing_and_looks_like_any_other(shop: Any) -> None:
    sale = shopper.sell(shop.world, shop.domain, [Wanted(sku="TEE", quantity=99)], how=Checkout(bypass=True))
    assert [each.topic for each in sale.webhooks] == ["orders/create"]
    assert shop.quantities() == (10, 0, 10)


def test_a_cancelled_fulfilment_is_promised_again_where_it_left(shop: Any) -> None:
    order = sell(shop)
    shopper.fulfil(shop.world, shop.domain, order.id, location=shop.store)
    [number] = [each.id for each in shop.state.order(order.id).fulfillments]
    hooks = after_sales.cancel_fulfillment(shop.world, shop.domain, order.id, number)
    assert topics(hooks) == ["orders/updated"]
    assert body(hooks[0])["fulfillments"][0]["status"] == "cancelled"
    assert both(shop) == ((10, 0, 10), (0, 3, 3))


def test_a_moved_allocation_tells_of_itself_and_not_of_its_order(shop: Any) -> None:
    order = sell(shop)
    hooks = after_sales.move_allocation(shop.world, shop.domain, order.id, shop.store, {order.lines[0].id: 2})
    assert topics(hooks) == ["fulfillment_orders/moved"]
    assert str(order.id) not in json.dumps(body(hooks[0]))
    assert both(shop) == ((9, 1, 10), (1, 2, 3))
    after_sales.move_allocation(shop.world, shop.domain, order.id, shop.store)
    assert both(shop) == ((10, 0, 10), (0, 3, 3))


def test_a_split_moves_nothing(shop: Any) -> None:
    order = sell(shop)
    hooks = after_sales.split_allocation(shop.world, shop.domain, order.id, {order.lines[0].id: 1})
    assert [each.topic for each in hooks] == ["fulfillment_orders/split"]
    parts = [each.parts[0].remaining for each in shop.state.order(order.id).fulfillment_orders]
    assert parts == [2, 1]
    assert shop.quantities() == (7, 3, 10)


@pytest.mark.parametrize(("restock", "quantities"), [(True, (8, 2, 10)), (False, (7, 2, 9))])
def test_units_edited_out_are_restocked_or_gone(shop: Any, restock: bool, quantities: Any) -> None:
    order = sell(shop)
    hooks = after_sales.edit_order(
        shop.world, shop.domain, order.id, change={order.lines[0].id: -1}, restock=restock
    )
    assert topics(hooks) == ["orders/edited", "orders/updated"]
    assert body(hooks[0])["order_edit"]["line_items"]["removals"] == [{"id": order.lines[0].id, "delta": 1}]
    [line] = body(hooks[1])["line_items"]
    assert (line["quantity"], line["current_quantity"], line["fulfillable_quantity"]) == (3, 2, 2)
    assert shop.quantities() == quantities


def test_an_edit_adds_lines_and_units(shop: Any) -> None:
    order = sell(shop, 1)
    add = [Wanted(sku="TEE", quantity=2, places={shop.store: 2})]
    after_sales.edit_order(shop.world, shop.domain, order.id, add=add, change={order.lines[0].id: 1})
    assert both(shop) == ((8, 2, 10), (1, 2, 3))


def test_a_return_restocks_when_it_is_disposed_of_and_its_refund_does_not(shop: Any) -> None:
    order = sell(shop)
    shopper.fulfil(shop.world, shop.domain, order.id)
    given = after_sales.open_return(shop.world, shop.domain, order.id, {order.lines[0].id: 2})
    about = (shop.world, shop.domain, order.id, given.return_id)
    assert topics(given.webhooks) == ["returns/approve"]
    assert body(given.webhooks[0])["order"]["id"] == order.id
    disposed = after_sales.dispose(*about, location=shop.store, quantity=1)
    assert topics(disposed) == ["reverse_fulfillment_orders/dispose"]
    assert str(order.id) not in json.dumps(body(disposed[0]))
    processed = after_sales.process_return(*about, "NOT_RESTOCKED", exchange=[Wanted(sku="TEE", quantity=1)])
    assert topics(processed) == ["returns/process"]
    refunded = after_sales.refund_return(*about, "return")
    assert topics(refunded) == ["orders/updated", "refunds/create"]
    assert body(refunded[1])["return"]["id"] == given.return_id
    assert both(shop) == ((6, 1, 7), (4, 0, 4))
    [old, new] = body(refunded[0])["line_items"]
    assert (old["current_quantity"], new["quantity"]) == (1, 1)


def test_a_deleted_order_is_gone_with_what_it_still_held(shop: Any) -> None:
    order = sell(shop)
    hooks = after_sales.delete(shop.world, shop.domain, order.id)
    assert (topics(hooks), body(hooks[0])) == (["orders/delete"], {"id": order.id})
    assert shop.quantities() == (7, 0, 7)
    assert order.id not in shop.state.orders


@pytest.mark.parametrize(
    "act",
    [
        lambda s, o: after_sales.cancel_fulfillment(s.world, s.domain, o.id, 1),
        lambda s, o: after_sales.move_allocation(s.world, s.domain, o.id, 99),
        lambda s, o: after_sales.move_allocation(s.world, s.domain, o.id, 72, {o.lines[0].id: 4}),
        lambda s, o: after_sales.split_allocation(s.world, s.domain, o.id, {o.lines[0].id: 4}),
        lambda s, o: after_sales.edit_order(s.world, s.domain, o.id),
        lambda s, o: after_sales.edit_order(
            s.world, s.domain, o.id, change={o.lines[0].id: 1}, add=[Wanted(sku="NONE", quantity=1)]
        ),
        lambda s, o: after_sales.edit_order(s.world, s.domain, o.id, change={o.lines[0].id: -4}),
        lambda s, o: after_sales.open_return(s.world, s.domain, o.id, {o.lines[0].id: 1}),
        lambda s, o: after_sales.dispose(s.world, s.domain, o.id, 1),
        lambda s, o: after_sales.delete(s.world, s.domain, 1),
        lambda s, o: shopper.sell(s.world, s.domain, [Wanted(sku="TEE", quantity=3, places={71: 1, 72: 1})]),
    ],
)
def test_the_impossible_is_refused_and_changes_nothing(shop: Any, act: Any) -> None:
    order = sell(shop)
    before, log = dict(shop.state.levels), len(shop.world.log)
    with pytest.raises(NotPossible):
        act(shop, order)
    assert (shop.state.levels, len(shop.world.log)) == (before, log)
    assert shop.state.order(order.id) == order
