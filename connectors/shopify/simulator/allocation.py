"""Which location each open unit of an order is to leave from: its fulfilment orders.

Every function returns a new order; quantities of levels are the caller's part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from connectors.shopify.simulator.model import (
    FulfillmentOrder,
    FulfillmentOrderPart,
    NotPossible,
    Order,
)
from connectors.shopify.simulator.world import ShopState, World

Places = dict[int, int]
"""Units by location id."""


def routed(shop: ShopState, item_id: int, quantity: int) -> Places:
    """Where Shopify's order routing might put a line: all of it at one place, else wherever units are.

    The default location comes first; what nobody has stays there.
    """
    default = shop.config.default_location_id
    order = sorted(shop.locations, key=lambda location_id: (location_id != default, location_id))
    for location_id in order:
        if shop.available(item_id, location_id) >= quantity:
            return {location_id: quantity}
    places: Places = {}
    for location_id in order:
        here = min(max(0, shop.available(item_id, location_id)), quantity - sum(places.values()))
        places |= {location_id: here} if here else {}
    missing = quantity - sum(places.values())
    return {**places, default: places.get(default, 0) + missing} if missing else places


def allocated(world: World, order: Order, lines: Sequence[tuple[int, Mapping[int, int]]]) -> Order:
    """The order with fulfilment orders for more units: line ids with their places, one order a location."""
    now, by_location = world.clock(), dict[int, list[FulfillmentOrderPart]]()
    for line_id, places in lines:
        for location_id, units in places.items():
            part = FulfillmentOrderPart(id=world.new_id(), line_id=line_id, total=units, remaining=units)
            by_location.setdefault(location_id, []).append(part)
    made = [
        FulfillmentOrder(
            id=world.new_id(), location_id=location_id, created_at=now, updated_at=now, parts=tuple(parts)
        )
        for location_id, parts in by_location.items()
    ]
    return replace(order, fulfillment_orders=(*order.fulfillment_orders, *made))


def open_places(order: Order, line_id: int) -> Places:
    """Where the open units of a line are allocated."""
    places: Places = {}
    for each in order.fulfillment_orders:
        units = sum(part.remaining for part in each.parts if part.line_id == line_id)
        if units:
            places[each.location_id] = places.get(each.location_id, 0) + units
    return places


def taken(
    world: World,
    order: Order,
    line_id: int,
    quantity: int,
    *,
    first: int | None = None,
    shipped: bool = False,
) -> tuple[Order, Places]:
    """Take open units of a line out of its fulfilment orders, those at location ``first`` before others.

    Shipped units stay part of the total (``totalQuantity``); others were never to be shipped.

    Raises:
        NotPossible: when there are not so many.
    """
    left, places, after = quantity, Places(), {each.id: each for each in order.fulfillment_orders}
    for each in sorted(order.fulfillment_orders, key=lambda known: known.location_id != first):
        parts = []
        for part in each.parts:
            units = min(left, part.remaining) if part.line_id == line_id else 0
            left -= units
            if units:
                places[each.location_id] = places.get(each.location_id, 0) + units
            total = part.total if shipped else part.total - units
            parts.append(replace(part, remaining=part.remaining - units, total=total))
        after[each.id] = _saved(world, each, parts)
    if left:
        raise NotPossible(
            f"line {line_id} of order {order.id}: {quantity} wanted, {quantity - left} are open"
        )
    return replace(order, fulfillment_orders=tuple(after.values())), places


def closed(world: World, order: Order) -> Order:
    """All fulfilment orders cancelled: nothing remains, the totals stay."""
    now = world.clock()
    ended = [
        replace(
            each,
            status="CANCELLED" if each.status == "OPEN" else each.status,
            updated_at=now,
            parts=tuple(replace(part, remaining=0) for part in each.parts),
        )
        for each in order.fulfillment_orders
    ]
    return replace(order, fulfillment_orders=tuple(ended))


def _saved(world: World, known: FulfillmentOrder, parts: list[FulfillmentOrderPart]) -> FulfillmentOrder:
    if tuple(parts) == known.parts:
        return known
    status = known.status if any(part.remaining for part in parts) else "CLOSED"
    return replace(known, parts=tuple(parts), status=status, updated_at=world.clock())
