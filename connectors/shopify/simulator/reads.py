"""The root connections of the Admin API, and what it tells of itself: versions, quantity names, the shop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from connectors.shopify.simulator.behaviour import VERSIONS
from connectors.shopify.simulator.model import STATES, Item, Location, Order
from connectors.shopify.simulator.paging import Records
from connectors.shopify.simulator.search import Fields, instant
from connectors.shopify.simulator.views import (
    View,
    item_view,
    location_view,
    order_view,
    variant_view,
)
from connectors.shopify.simulator.world import ShopState

ORDER_WINDOW_S = 60 * 24 * 3600
"""Without the scope ``read_all_orders`` an app sees the orders of the last 60 days (facts 9)."""


def connections(shop: ShopState, scopes: Sequence[str], now: float) -> dict[str, Records[Any]]:
    """The root connections over what a shop sells, stocks and has sold."""
    return {
        "inventoryItems": _items(shop),
        "productVariants": _variants(shop),
        "locations": _locations(shop),
        "orders": _orders(shop, None if "read_all_orders" in scopes else now - ORDER_WINDOW_S),
    }


def version_view(handle: str) -> View:
    """A version of the API."""
    return {"handle": handle, "displayName": handle, "supported": True}


def about_app(scopes: Sequence[str], app: View) -> View:
    """The fields of QueryRoot that tell of the API and of the app's access."""
    return {
        "publicApiVersions": [version_view(each) for each in VERSIONS],
        "currentAppInstallation": {
            "__typename": "AppInstallation",
            "id": "gid://shopify/AppInstallation/1",
            "app": app,
            "accessScopes": [{"handle": scope, "description": scope} for scope in scopes],
        },
        "inventoryProperties": {"quantityNames": [_quantity_name(name) for name in (*STATES, "on_hand")]},
    }


def _items(shop: ShopState) -> Records[Item]:
    return Records(
        all=shop.items.values,
        get=shop.items.get,
        id=lambda item: item.id,
        fields=_item_fields,
        show=lambda item: item_view(shop, item),
    )


def _variants(shop: ShopState) -> Records[Item]:
    return Records(
        all=shop.items.values,
        get=lambda variant_id: shop.items.get(shop.item_of_variant.get(variant_id, 0)),
        id=lambda item: item.variant_id,
        fields=lambda item: {**_item_fields(item), "product_id": item.product_id, "managed": item.tracked},
        show=lambda item: variant_view(shop, item),
        sorts={"ID": lambda item: item.variant_id, "SKU": lambda item: item.sku},
    )


def _item_fields(item: Item) -> Fields:
    at = instant(item.created_at)
    return {"sku": item.sku, "tracked": item.tracked, "created_at": at, "updated_at": at}


def _locations(shop: ShopState) -> Records[Location]:
    def fields(location: Location) -> Fields:
        return {"name": location.name, "active": location.active}

    return Records(
        all=shop.locations.values,
        get=shop.locations.get,
        id=lambda location: location.id,
        fields=fields,
        show=lambda location: location_view(shop, location),
        sorts={"NAME": lambda location: location.name},
        keep=lambda location, args: location.active or bool(args.get("includeInactive")),
    )


def _orders(shop: ShopState, since: float | None) -> Records[Order]:
    def all_visible() -> list[Order]:
        return [order for order in shop.orders.values() if since is None or order.created_at >= since]

    def created(order: Order) -> int:
        return int(order.created_at)

    return Records(
        all=all_visible,
        get=shop.orders.get,
        id=lambda order: order.id,
        fields=_order_fields,
        show=lambda order: order_view(shop, order),
        sorts={
            "PROCESSED_AT": created,
            "CREATED_AT": created,
            "UPDATED_AT": lambda order: int(order.updated_at),
            "ORDER_NUMBER": lambda order: order.number,
        },
    )


def _order_fields(order: Order) -> Fields:
    cancelled = order.cancelled_at is not None
    return {
        "name": f"#{order.number}",
        "created_at": instant(order.created_at),
        "processed_at": instant(order.created_at),
        "updated_at": instant(order.updated_at),
        "status": "cancelled" if cancelled else "open",
    }


def _quantity_name(name: str) -> View:
    physical = [each for each in STATES if each != "incoming"]
    return {
        "name": name,
        "displayName": name.replace("_", " ").capitalize(),
        "isInUse": True,
        "belongsTo": ["on_hand"] if name in physical else [],
        "comprises": physical if name == "on_hand" else [],
    }
