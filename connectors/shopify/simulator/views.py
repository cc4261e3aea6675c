"""What a query can see: the shop's records as the objects of the schema.

An object is a mapping of field to value, or to a function of ``(info, **arguments)`` where a field has
arguments or leads on to another object.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import Error as BadBase64
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from graphql import GraphQLError

from connectors.shopify.simulator.model import (
    STATES,
    Disposed,
    Fulfillment,
    FulfillmentOrder,
    FulfillmentOrderPart,
    Item,
    Level,
    Line,
    Location,
    Order,
    Part,
    Refund,
    RefundedPart,
    Return,
    ReturnedPart,
    gid,
    level_gid,
)
from connectors.shopify.simulator.world import ShopState

View = dict[str, Any]
GID = re.compile(r"^gid://shopify/(\w+)/(\d+)(?:\?.*)?$")
MAX_IDS = 250
"""Entries of any input array, and the largest page (facts 4)."""


def number_of(kind: str, value: str) -> int | None:
    """The number in a GID of that kind; None for anything else."""
    match = GID.match(value)
    return int(match[2]) if match and match[1] == kind else None


def utc_time(instant: float) -> str:
    """A GraphQL DateTime."""
    return _utc_second(int(instant // 1))


@lru_cache(maxsize=10_000)  # the objects of a large shop were made in the same few seconds
def _utc_second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def invalid(message: str, code: str = "INVALID_FIELD_ARGUMENTS") -> GraphQLError:
    """A top-level error of the request itself."""
    return GraphQLError(message, extensions={"code": code})


def query_root(shop: ShopState) -> View:
    """The fields of QueryRoot."""
    return {
        "inventoryItem": lambda info, id: item_by(shop, number_of("InventoryItem", id)),  # noqa: A006
        "inventoryLevel": lambda info, id: level_by(shop, id),  # noqa: A006
        "location": lambda info, id=None: location_by(  # noqa: A006
            shop, shop.config.default_location_id if id is None else number_of("Location", id)
        ),
        "order": lambda info, id: order_by(shop, number_of("Order", id)),  # noqa: A006
        "productVariant": lambda info, id: variant_by(shop, number_of("ProductVariant", id)),  # noqa: A006
        "shop": {
            "__typename": "Shop",
            "id": gid("Shop", shop.config.default_location_id),
            "name": shop.config.domain.removesuffix(".myshopify.com"),
            "myshopifyDomain": shop.config.domain,
            "ianaTimezone": "Europe/Berlin",
        },
    }


def too_many(size: int) -> GraphQLError:
    """The refusal of an input array of more than 250 entries."""
    return invalid(
        f"The input array size of {size} is greater than the maximum allowed of {MAX_IDS}.",
        "MAX_INPUT_SIZE_EXCEEDED",
    )


def node_by(shop: ShopState, value: str) -> View | None:
    """The object with this GID."""
    return (
        level_by(shop, value)
        or item_by(shop, number_of("InventoryItem", value))
        or order_by(shop, number_of("Order", value))
        or location_by(shop, number_of("Location", value))
        or variant_by(shop, number_of("ProductVariant", value))
        or _part_by(shop, value)
    )


def _part_by(shop: ShopState, value: str) -> View | None:
    """What belongs to an order and has this GID."""
    match = GID.match(value)
    if match is None or match[1] not in _PARTS_OF_ORDERS:
        return None
    parts, key, view = _PARTS_OF_ORDERS[match[1]]
    for order in shop.orders.values():
        for each in getattr(order, parts):
            if getattr(each, key) == int(match[2]):
                return view(shop, order, each)
    return None


def item_by(shop: ShopState, item_id: int | None) -> View | None:
    """The inventory item with this id."""
    return item_view(shop, shop.items[item_id]) if item_id in shop.items else None


def variant_by(shop: ShopState, variant_id: int | None) -> View | None:
    """The variant with this id."""
    item_id = shop.item_of_variant.get(variant_id or 0)
    return None if item_id is None else variant_view(shop, shop.items[item_id])


def location_by(shop: ShopState, location_id: int | None) -> View | None:
    """The location with this id."""
    return location_view(shop, shop.locations[location_id]) if location_id in shop.locations else None


def order_by(shop: ShopState, order_id: int | None) -> View | None:
    """The order with this id."""
    return order_view(shop, shop.orders[order_id]) if order_id in shop.orders else None


def level_by(shop: ShopState, value: str) -> View | None:
    """The level with this GID, also an inactive one; the whole GID has to be right."""
    key = shop.level_of_id.get(number_of("InventoryLevel", value) or 0)
    return level_view(shop, shop.levels[key]) if key and level_gid(shop.levels[key]) == value else None


def location_view(shop: ShopState, location: Location) -> View:
    """A location; all of them sell online."""

    def levels(info: object, **args: Any) -> View:
        mine = (each for (_, place), each in shop.levels.items() if place == location.id)
        shown = [each for each in mine if each.active or args.get("includeInactive")]
        return page([level_view(shop, each) for each in shown], args)

    return {
        **_node("Location", location.id),
        "name": location.name,
        "isActive": location.active,
        "fulfillsOnlineOrders": True,
        "isFulfillmentService": False,
        "shipsInventory": True,
        "hasActiveInventory": True,
        "activatable": False,
        "inventoryLevels": levels,
        "createdAt": utc_time(location.created_at),
        "updatedAt": utc_time(location.created_at),
    }


def item_view(shop: ShopState, item: Item) -> View:
    """An inventory item."""

    def level(info: object, **args: Any) -> View | None:
        found = shop.levels.get((item.id, number_of("Location", args["locationId"]) or 0))
        shown = found is not None and (found.active or args.get("includeInactive"))
        return level_view(shop, found) if found is not None and shown else None

    def levels(info: object, **args: Any) -> View:
        shown = [each for each in shop.levels_of(item.id) if each.active or args.get("includeInactive")]
        return page([level_view(shop, each) for each in shown], args)

    return {
        **_node("InventoryItem", item.id),
        "sku": item.sku,
        "tracked": item.tracked,
        "requiresShipping": True,
        "duplicateSkuCount": lambda info: len(shop.items_of_sku[item.sku]) - 1,
        "inventoryLevel": level,
        "inventoryLevels": levels,
        "variant": lambda info: variant_view(shop, item),
        "variants": lambda info, **args: page([variant_view(shop, item)], args),
        "createdAt": utc_time(item.created_at),
        "updatedAt": utc_time(item.created_at),
    }


def variant_view(shop: ShopState, item: Item) -> View:
    """The variant of an item."""

    def total(info: object) -> int:
        return sum(shop.available(item.id, location_id) for location_id in shop.locations)

    created = utc_time(item.created_at)
    return {
        **_node("ProductVariant", item.variant_id),
        "sku": item.sku,
        "title": item.sku,
        "displayName": item.sku,
        "product": {
            **_node("Product", item.product_id),
            "title": item.sku,
            "status": "ACTIVE",
            "createdAt": created,
            "updatedAt": created,
        },
        "createdAt": created,
        "updatedAt": created,
        "inventoryItem": lambda info: item_view(shop, item),
        "inventoryPolicy": item.policy,
        "inventoryQuantity": total,
    }


def level_view(shop: ShopState, level: Level) -> View:
    """A level. ``quantities`` has a time for ``available`` only, as captured (facts 3)."""

    def quantity(name: str) -> View:
        if name not in (*STATES, "on_hand"):
            raise invalid(f"The quantity name '{name}' is invalid.")
        kept = utc_time(level.updated_at) if name == "available" else None
        return {
            "__typename": "InventoryQuantity",
            "id": f"{level_gid(level).replace('InventoryLevel', 'InventoryQuantity')}&name={name}",
            "name": name,
            "quantity": level.quantity(name),
            "updatedAt": kept,
        }

    return {
        "__typename": "InventoryLevel",
        "id": level_gid(level),
        "isActive": level.active,
        "item": lambda info: item_by(shop, level.item_id),
        "location": lambda info: location_by(shop, level.location_id),
        "quantities": lambda info, names: [quantity(name) for name in names],
        "canDeactivate": True,
        "createdAt": utc_time(level.created_at),
        "updatedAt": utc_time(level.updated_at),
    }


def order_view(shop: ShopState, order: Order) -> View:
    """An order as it is now."""
    created, updated = utc_time(order.created_at), utc_time(order.updated_at)
    cancelled = None if order.cancelled_at is None else utc_time(order.cancelled_at)
    shipped, open_units = (sum(getattr(each, name) for each in order.lines) for name in ("fulfilled", "open"))
    status = ("PARTIALLY_FULFILLED" if open_units else "FULFILLED") if shipped else "UNFULFILLED"
    return {
        **_node("Order", order.id),
        "name": f"#{order.number}",
        "test": order.test,
        "sourceName": order.source,
        "createdAt": created,
        "processedAt": created,
        "updatedAt": updated,
        "cancelledAt": cancelled,
        "cancelReason": "CUSTOMER" if cancelled else None,
        "closedAt": cancelled,
        "displayFulfillmentStatus": status,
        "currentSubtotalLineItemsQuantity": sum(
            each.current for each in order.lines if not each.item.gift_card
        ),
        "fulfillmentsCount": {"count": len(order.fulfillments), "precision": "EXACT"},
        "retailLocation": lambda info: location_by(shop, order.location_id),
        "lineItems": lambda info, **args: page([_line(shop, each) for each in order.lines], args),
        "fulfillments": lambda info, **args: [
            _fulfillment(shop, order, each) for each in order.fulfillments[: args.get("first")]
        ],
        "refunds": lambda info, **args: [
            _refund(shop, order, each) for each in order.refunds[: args.get("first")]
        ],
        "fulfillmentOrders": lambda info, **args: page(
            [_fulfillment_order(shop, order, each) for each in order.fulfillment_orders], args
        ),
        "returns": lambda info, **args: page([_return(shop, order, each) for each in order.returns], args),
    }


def page(nodes: Sequence[View], args: dict[str, Any]) -> View:
    """A connection over the nodes; one of ``first`` and ``last`` is required, as in Shopify."""
    first, last = args.get("first"), args.get("last")
    if (first is None) == (last is None):
        raise invalid("you must provide one of first or last", "BAD_REQUEST")
    size = int(last if first is None else first)  # type: ignore[arg-type]  # one of them is there
    if not 0 <= size <= MAX_IDS:
        raise invalid(f"a page has 0 to {MAX_IDS} nodes, not {size}", "BAD_REQUEST")
    ordered = list(enumerate(reversed(nodes) if args.get("reverse") else nodes))
    begin = _position(args["after"]) + 1 if args.get("after") else 0
    end = min(_position(args["before"]), len(ordered)) if args.get("before") else len(ordered)
    shown = ordered[begin:end]
    shown = shown[:size] if last is None else shown[max(0, len(shown) - size) :]
    edges = [{"cursor": _cursor(index), "node": node} for index, node in shown]
    return {
        "edges": edges,
        "nodes": [edge["node"] for edge in edges],
        "pageInfo": {
            "hasNextPage": bool(shown) and shown[-1][0] + 1 < len(ordered),
            "hasPreviousPage": bool(shown) and shown[0][0] > 0,
            "startCursor": edges[0]["cursor"] if edges else None,
            "endCursor": edges[-1]["cursor"] if edges else None,
        },
    }


def _node(kind: str, number: int) -> View:
    return {"__typename": kind, "id": gid(kind, number), "legacyResourceId": str(number)}


def _line(shop: ShopState, line: Line) -> View:
    return {
        "__typename": "LineItem",
        "id": gid("LineItem", line.id),
        "sku": line.item.sku,
        "name": line.item.sku,
        "title": line.item.sku,
        "quantity": line.quantity,
        "currentQuantity": line.current,
        "refundableQuantity": line.current,
        "unfulfilledQuantity": line.open,
        "restockable": True,
        "variant": lambda info: variant_view(shop, line.item),
    }


def _fulfillment(shop: ShopState, order: Order, fulfillment: Fulfillment) -> View:
    def part_view(part: Part) -> View:
        return {
            "id": gid("FulfillmentLineItem", part.id),
            "lineItem": lambda info: _line(shop, order.line(part.line_id)),
            "quantity": part.quantity,
        }

    return {
        **_node("Fulfillment", fulfillment.id),
        "name": f"#{order.number}-F{order.fulfillments.index(fulfillment) + 1}",
        "status": fulfillment.status.upper(),
        "location": lambda info: location_by(shop, fulfillment.location_id),
        "createdAt": utc_time(fulfillment.created_at),
        "updatedAt": utc_time(fulfillment.updated_at),
        "totalQuantity": sum(part.quantity for part in fulfillment.parts),
        "fulfillmentLineItems": lambda info, **args: page(
            [part_view(each) for each in fulfillment.parts], args
        ),
    }


def _refund(shop: ShopState, order: Order, refund: Refund) -> View:
    at = utc_time(refund.created_at)

    def part_view(part: RefundedPart) -> View:
        return {
            "id": gid("RefundLineItem", part.id),
            "lineItem": lambda info: _line(shop, order.line(part.line_id)),
            "location": lambda info: location_by(shop, part.location_id),
            "quantity": part.quantity,
            "restockType": part.restock_type.upper(),
            "restocked": part.restock_type != "no_restock",
        }

    return {
        **_node("Refund", refund.id),
        "note": "",
        "order": lambda info: order_view(shop, order),
        "return": lambda info: next(
            (_return(shop, order, each) for each in order.returns if each.id == refund.return_id), None
        ),
        "createdAt": at,
        "updatedAt": at,
        "refundLineItems": lambda info, **args: page([part_view(each) for each in refund.parts], args),
    }


def _fulfillment_order(shop: ShopState, order: Order, each: FulfillmentOrder) -> View:
    def part_view(part: FulfillmentOrderPart) -> View:
        item = order.line(part.line_id).item
        return {
            "id": gid("FulfillmentOrderLineItem", part.id),
            "lineItem": lambda info: _line(shop, order.line(part.line_id)),
            "inventoryItemId": gid("InventoryItem", item.id),
            "sku": item.sku,
            "totalQuantity": part.total,
            "remainingQuantity": part.remaining,
        }

    return {
        "__typename": "FulfillmentOrder",
        "id": gid("FulfillmentOrder", each.id),
        "status": each.status,
        "order": lambda info: order_view(shop, order),
        "orderId": gid("Order", order.id),
        "orderName": f"#{order.number}",
        "assignedLocation": {
            "name": shop.locations[each.location_id].name,
            "location": lambda info: location_by(shop, each.location_id),
        },
        "lineItems": lambda info, **args: page([part_view(part) for part in each.parts], args),
        "createdAt": utc_time(each.created_at),
        "updatedAt": utc_time(each.updated_at),
    }


def _return(shop: ShopState, order: Order, each: Return) -> View:
    return {
        "__typename": "Return",
        "id": gid("Return", each.id),
        "name": f"#{order.number}-R{order.returns.index(each) + 1}",
        "status": "CLOSED" if each.processed else "OPEN",
        "order": lambda info: order_view(shop, order),
        "totalQuantity": sum(part.quantity for part in each.parts),
        "createdAt": utc_time(each.created_at),
        "reverseFulfillmentOrders": lambda info, **args: page([_reverse(shop, order, each)], args),
    }


def _reverse(shop: ShopState, order: Order, each: Return) -> View:
    """The reverse fulfilment order of a return."""

    def disposed_view(one: Disposed) -> View:
        return {
            "id": gid("ReverseFulfillmentOrderDisposition", one.id),
            "type": one.type,
            "quantity": one.quantity,
            "location": lambda info: location_by(shop, one.location_id),
            "createdAt": utc_time(one.created_at),
        }

    def part_view(part: ReturnedPart) -> View:
        line = {"lineItem": lambda info: _line(shop, order.line(part.line_id))}
        return {
            "id": gid("ReverseFulfillmentOrderLineItem", part.id),
            "totalQuantity": part.quantity,
            "fulfillmentLineItem": {"id": gid("FulfillmentLineItem", part.id), **line},
            "dispositions": [disposed_view(one) for one in part.disposed],
        }

    return {
        "__typename": "ReverseFulfillmentOrder",
        "id": gid("ReverseFulfillmentOrder", each.reverse_id),
        "status": "OPEN" if any(part.undecided for part in each.parts) else "CLOSED",
        "order": lambda info: order_view(shop, order),
        "lineItems": lambda info, **args: page([part_view(part) for part in each.parts], args),
    }


_PARTS_OF_ORDERS: dict[str, tuple[str, str, Callable[[ShopState, Order, Any], View]]] = {
    "Fulfillment": ("fulfillments", "id", _fulfillment),
    "Refund": ("refunds", "id", _refund),
    "FulfillmentOrder": ("fulfillment_orders", "id", _fulfillment_order),
    "Return": ("returns", "id", _return),
    "ReverseFulfillmentOrder": ("returns", "reverse_id", _reverse),
}
"""By GID type: where an order keeps such things, what their number is called, and their view."""


def _cursor(index: int) -> str:
    return b64encode(str(index).encode()).decode()


def _position(cursor: str) -> int:
    try:
        return int(b64decode(cursor, validate=True))
    except (ValueError, BadBase64):
        raise invalid(f"Invalid cursor: {cursor}", "BAD_REQUEST") from None
