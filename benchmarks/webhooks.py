"""Signed order webhooks as Shopify sends them, for a shop of the demo's catalogue."""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode
from datetime import UTC, datetime

import msgspec

from app.dev.shops import Key
from app.shops import Shop
from benchmarks.http_load import post

PADDING = {"note_attributes": [{"name": "channel", "value": "x" * 40}] * 40}
"""Fields that skustream drops, so that a body has the usual few kilobytes."""


def order_created(shop: Shop, number: int, key: Key, listing: int) -> bytes:
    """The whole request of an ``orders/create`` with one line of one unit of a key."""
    now = datetime.now(UTC).isoformat()
    line = {
        "id": 10 * number + 1,
        "quantity": 1,
        "current_quantity": 1,
        "fulfillable_quantity": 1,
        "variant_id": key.listings[listing].variant,
        "sku": key.sku,
        "variant_inventory_management": "shopify",
    }
    order = {"id": number, "created_at": now, "updated_at": now, "line_items": [line], **PADDING}
    body = msgspec.json.encode(order)
    signature = b64encode(hmac.new(shop.webhook_secrets[0].encode(), body, hashlib.sha256).digest()).decode()
    return post(
        "/webhooks/shopify",
        {
            "Content-Type": "application/json",
            "X-Shopify-Topic": "orders/create",
            "X-Shopify-Shop-Domain": shop.domain,
            "X-Shopify-Hmac-Sha256": signature,
            "X-Shopify-Webhook-Id": f"bench-{number}",
            "X-Shopify-Event-Id": f"bench-event-{number}",
            "X-Shopify-API-Version": "2026-10",
            "X-Shopify-Triggered-At": now,
        },
        body,
    )
