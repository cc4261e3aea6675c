"""Webhook bodies in Shopify's shape (API 2026-10; field sets of Shopify's samples, facts 5.2 and 5.3).

They carry an invented customer on purpose: whoever stores webhooks has something to leave out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import msgspec

from connectors.shopify.simulator.model import (
    Disposed,
    Fulfillment,
    FulfillmentOrder,
    Line,
    Order,
    Refund,
    RefundedPart,
    Return,
    ShopConfig,
    Webhook,
    gid,
    level_gid,
)
from connectors.shopify.simulator.world import ShopState

CURRENCY = "EUR"

CUSTOMER = {
    "first_name": "Ada",
    "last_name": "Example",
    "email": "ada@example.com",
    "phone": "+490000000000",
    "state": "disabled",
    "verified_email": True,
}

ADDRESS = {
    "first_name": "Ada",
    "last_name": "Example",
    "address1": "1 Example Street",
    "city": "Berlin",
    "zip": "10115",
    "country": "Germany",
    "country_code": "DE",
    "phone": "+490000000000",
}


def shop_time(config: ShopConfig, instant: float) -> str:
    """Shop-local time with its offset, in whole seconds: two events of a second are a tie."""
    zone = timezone(timedelta(minutes=config.utc_offset_minutes))
    return datetime.fromtimestamp(instant, zone).isoformat(timespec="seconds")


def order_body(shop: ShopState, order: Order) -> bytes:
    """The body of ``orders/*``: the whole order as it is now."""
    return msgspec.json.encode(order_fields(shop.config, order))


def refund_body(shop: ShopState, order: Order, refund: Refund) -> bytes:
    """The body of ``refunds/create``."""
    return msgspec.json.encode(_refund(shop.config, order, refund))


def body_at_send(shop: ShopState, webhook: Webhook) -> bytes:
    """The bytes to send now: the stored body, or the level as it is at this moment."""
    if webhook.level is None:
        assert webhook.body is not None, "a webhook has a body or a level"
        return webhook.body
    item_id, location_id = webhook.level
    if webhook.topic == "inventory_levels/disconnect":
        return msgspec.json.encode({"inventory_item_id": item_id, "location_id": location_id})
    level = shop.levels[webhook.level]
    return msgspec.json.encode(
        {
            "inventory_item_id": item_id,
            "location_id": location_id,
            "available": level.available,
            "updated_at": shop_time(shop.config, level.updated_at),
            "admin_graphql_api_id": level_gid(level),
        }
    )


def fulfillment_order_fields(each: FulfillmentOrder) -> dict[str, Any]:
    """A fulfilment order in ``fulfillment_orders/*``: its id is a GID, and its order is not named."""
    return {"id": gid("FulfillmentOrder", each.id), "status": each.status.lower()}


def assigned_fields(each: FulfillmentOrder) -> dict[str, Any]:
    """The same with its location, as in ``fulfillment_orders/moved``."""
    return {**fulfillment_order_fields(each), "assigned_location_id": gid("Location", each.location_id)}


def edit_fields(config: ShopConfig, edit_id: int, order: Order, deltas: Mapping[int, int]) -> dict[str, Any]:
    """The body of ``orders/edited``: by how much each line changed, and nothing else."""
    at = shop_time(config, order.updated_at)
    added = [{"id": line_id, "delta": delta} for line_id, delta in deltas.items() if delta > 0]
    removed = [{"id": line_id, "delta": -delta} for line_id, delta in deltas.items() if delta < 0]
    lines = {"additions": added, "removals": removed}
    edit = {"id": edit_id, "app_id": None, "created_at": at, "committed_at": at, "order_id": order.id}
    return {"order_edit": {**edit, "notify_customer": False, "staff_note": "", "line_items": lines}}


def return_fields(order: Order, each: Return, status: str) -> dict[str, Any]:
    """The body of ``returns/*``."""
    return {
        **_ref("Return", each.id),
        "order": _ref("Order", order.id),
        "status": status,
        "name": f"#{order.number}-R{order.returns.index(each) + 1}",
        "total_return_line_items": len(each.parts),
        "return_line_items": [
            {**_ref("ReturnLineItem", part.id), "quantity": part.quantity, "return_reason": "unwanted"}
            for part in each.parts
        ],
    }


def dispose_fields(each: Return, disposed: Sequence[tuple[int, Disposed]]) -> dict[str, Any]:
    """The body of ``reverse_fulfillment_orders/dispose``, which names neither the order nor its lines."""
    return {
        **_ref("ReverseFulfillmentOrder", each.reverse_id),
        "dispositions": [
            {
                "reverse_fulfillment_order_line_item": _ref("ReverseFulfillmentOrderLineItem", part_id),
                "reverse_delivery_line_item": None,
                "type": one.type.lower(),
                "location": None if one.location_id is None else _ref("Location", one.location_id),
                "quantity": one.quantity,
            }
            for part_id, one in disposed
        ],
        "total_dispositions": len(disposed),
    }


def order_fields(config: ShopConfig, order: Order) -> dict[str, Any]:
    """The fields of an order webhook."""
    total = _money(sum((Decimal(line.item.price) * line.quantity for line in order.lines), Decimal(0)))
    created = shop_time(config, order.created_at)
    cancelled = None if order.cancelled_at is None else shop_time(config, order.cancelled_at)
    return {
        "id": order.id,
        "admin_graphql_api_id": gid("Order", order.id),
        "app_id": 580111,
        "browser_ip": "203.0.113.7",
        "buyer_accepts_marketing": False,
        "cancel_reason": "customer" if cancelled else None,
        "cancelled_at": cancelled,
        "closed_at": cancelled,
        "confirmed": True,
        "contact_email": CUSTOMER["email"],
        "created_at": created,
        "currency": CURRENCY,
        "current_total_price": total,
        "customer_locale": "en",
        "email": CUSTOMER["email"],
        "financial_status": "refunded" if cancelled else "paid",
        "fulfillment_status": _order_status(order),
        "location_id": order.location_id,
        "name": f"#{order.number}",
        "note": None,
        "number": order.number - 1000,
        "order_number": order.number,
        "phone": None,
        "presentment_currency": CURRENCY,
        "processed_at": created,
        "source_name": order.source,
        "subtotal_price": total,
        "tags": "",
        "taxes_included": False,
        "test": order.test,
        "total_discounts": "0.00",
        "total_line_items_price": total,
        "total_outstanding": "0.00",
        "total_price": total,
        "total_price_set": _money_set(total),
        "total_tax": "0.00",
        "total_weight": 0,
        "updated_at": shop_time(config, order.updated_at),
        "user_id": None,
        "billing_address": ADDRESS,
        "customer": CUSTOMER,
        "discount_applications": [],
        "fulfillments": [_fulfillment(config, order, each) for each in order.fulfillments],
        "line_items": [_line(line) for line in order.lines],
        "payment_terms": None,
        "refunds": [_refund(config, order, refund) for refund in order.refunds],
        "shipping_address": ADDRESS,
        "shipping_lines": [],
        "returns": [_ref("Return", each.id) for each in order.returns],
        "line_item_groups": [],
    }


def _line(line: Line) -> dict[str, Any]:
    item = line.item
    return {
        "id": line.id,
        "admin_graphql_api_id": gid("LineItem", line.id),
        "attributed_staffs": [],
        "current_quantity": line.current,
        "fulfillable_quantity": line.open,
        "fulfillment_service": "manual",
        "fulfillment_status": _line_status(line),
        "gift_card": item.gift_card,
        "grams": 100,
        "name": item.sku,
        "price": item.price,
        "price_set": _money_set(item.price),
        "product_exists": True,
        "product_id": item.product_id,
        "properties": [],
        "quantity": line.quantity,
        "requires_shipping": not item.gift_card,
        "sku": item.sku,
        "taxable": True,
        "title": item.sku,
        "total_discount": "0.00",
        "variant_id": item.variant_id,
        "variant_inventory_management": "shopify" if item.tracked else None,
        "variant_title": "",
        "vendor": "Example",
        "tax_lines": [],
        "duties": [],
        "discount_allocations": [],
    }


def _fulfillment(config: ShopConfig, order: Order, fulfillment: Fulfillment) -> dict[str, Any]:
    return {
        "id": fulfillment.id,
        "admin_graphql_api_id": gid("Fulfillment", fulfillment.id),
        "created_at": shop_time(config, fulfillment.created_at),
        "location_id": fulfillment.location_id,
        "name": f"#{order.number}.{order.fulfillments.index(fulfillment) + 1}",
        "order_id": order.id,
        "origin_address": {},
        "receipt": {},
        "service": "manual",
        "shipment_status": None,
        "status": fulfillment.status,
        "tracking_company": None,
        "tracking_number": None,
        "tracking_numbers": [],
        "updated_at": shop_time(config, fulfillment.updated_at),
        # In a fulfilment, `quantity` is what this fulfilment carries.
        "line_items": [
            {**_line(order.line(part.line_id)), "quantity": part.quantity} for part in fulfillment.parts
        ],
    }


def _refund(config: ShopConfig, order: Order, refund: Refund) -> dict[str, Any]:
    at = shop_time(config, refund.created_at)
    return {
        "id": refund.id,
        "admin_graphql_api_id": gid("Refund", refund.id),
        "order_id": order.id,
        "created_at": at,
        "processed_at": at,
        "note": "",
        "user_id": None,
        "restock": any(part.restock_type != "no_restock" for part in refund.parts),
        "return": None if refund.return_id is None else _ref("Return", refund.return_id),
        "duties": [],
        "order_adjustments": [],
        "refund_shipping_lines": [],
        "refund_line_items": [_refunded(order, part) for part in refund.parts],
        "transactions": [],
    }


def _refunded(order: Order, part: RefundedPart) -> dict[str, Any]:
    line = order.line(part.line_id)
    subtotal = Decimal(line.item.price) * part.quantity
    return {
        "id": part.id,
        "line_item_id": part.line_id,
        "location_id": part.location_id,
        "quantity": part.quantity,
        "restock_type": part.restock_type,
        "subtotal": float(subtotal),
        "subtotal_set": _money_set(_money(subtotal)),
        "total_tax": 0.0,
        "line_item": _line(line),
    }


def _ref(kind: str, number: int) -> dict[str, Any]:
    return {"id": number, "admin_graphql_api_id": gid(kind, number)}


def _order_status(order: Order) -> str | None:
    if not any(line.fulfilled for line in order.lines):
        return None
    return "partial" if any(line.open for line in order.lines) else "fulfilled"


def _line_status(line: Line) -> str | None:
    if not line.fulfilled:
        return None
    return "partial" if line.open else "fulfilled"


def _money(amount: Decimal) -> str:
    return f"{amount:.2f}"


def _money_set(amount: str) -> dict[str, dict[str, str]]:
    money = {"amount": amount, "currency_code": CURRENCY}
    return {"shop_money": money, "presentment_money": money}
