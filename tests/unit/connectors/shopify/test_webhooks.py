"""Webhooks: signatures, headers, keys, and what is kept of a body."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from app.errors import Rejected
from connectors.shopify.webhooks import Accepted, Body, Refused, accept, read_headers, scrub

SHOP = "north.myshopify.com"
SECRET = "example-secret-north"
NOW = datetime(2026, 11, 24, tzinfo=UTC)
FIXTURES = Path(__file__).parents[5] / "shared" / "shopify" / "fixtures"

ORDER = {
    "id": 6200407294252,
    "email": "shopper@example.com",
    "created_at": "2026-11-02T09:15:02+01:00",
    "updated_at": "2026-11-02T09:15:03+01:00",
    "customer": {"id": 1, "first_name": "Example"},
    "shipping_address": {"city": "Exampletown"},
    "line_items": [{"id": 7, "quantity": 2, "variant_id": 9, "sku": "TEE", "price": "19.90", "name": "Tee"}],
}


def headers(topic: str = "orders/create", signature: str = "x", **more: str) -> dict[str, str]:
    return {
        "X-Shopify-Topic": topic,
        "X-Shopify-Shop-Domain": SHOP,
        "X-Shopify-Hmac-Sha256": signature,
        "X-Shopify-Webhook-Id": "w-1",
        **more,
    }


def sign(secret: str, body: bytes) -> str:
    return base64.b64encode(hmac.new(secret.encode(), body, hashlib.sha256).digest()).decode()


def take(topic: str, value: Any, *, limit: int = 1 << 20) -> Accepted:
    body = Body([SECRET], limit)
    body.feed(value if isinstance(value, bytes) else json.dumps(value).encode())
    return accept(read_headers(headers(topic)), body, NOW)


@pytest.mark.parametrize(
    ("topic", "value", "where", "key", "route"),
    [
        ("orders/create", ORDER, "shopify.orders", f"{SHOP}/6200407294252", f"{SHOP}/6200407294252"),
        (
            "refunds/create",
            {"id": 5, "order_id": 6, "created_at": "2026-11-02T09:15:02Z"},
            "shopify.orders",
            f"{SHOP}/6",
            f"{SHOP}/6",
        ),
        (
            "orders/edited",
            {"order_edit": {"id": 5, "order_id": 6}},
            "shopify.orders",
            f"{SHOP}/6",
            f"{SHOP}/6",
        ),
        (
            "inventory_levels/update",
            {"inventory_item_id": 3, "location_id": 4, "available": None},
            "shopify.levels",
            f"{SHOP}/3/4",
            SHOP,
        ),
        (
            "inventory_levels/disconnect",
            {"inventory_item_id": 3, "location_id": 4},
            "shopify.levels",
            f"{SHOP}/3/4",
            SHOP,
        ),
        ("products/update", {"id": 3, "vendor": "Example"}, "shopify.catalog", SHOP, SHOP),
        ("orders/delete", {"id": 6}, "shopify.orders", f"{SHOP}/6", f"{SHOP}/6"),
        ("returns/process", {"id": 5, "order": {"id": 6}}, "shopify.orders", f"{SHOP}/6", f"{SHOP}/6"),
        ("returns/process", {"id": 5}, "shopify.orders", f"{SHOP}/Return/5", f"{SHOP}/Return/5"),
        ("returns/process", {}, "shopify.catalog", SHOP, SHOP),
        ("returns/approve", {"id": 5, "order": {"id": 6}}, "shopify.catalog", SHOP, SHOP),
        (
            "reverse_fulfillment_orders/dispose",
            {"id": 8, "dispositions": []},
            "shopify.orders",
            f"{SHOP}/ReverseFulfillmentOrder/8",
            f"{SHOP}/ReverseFulfillmentOrder/8",
        ),
        (
            "fulfillment_orders/moved",
            {"original_fulfillment_order": {"id": "gid://shopify/FulfillmentOrder/9", "status": "closed"}},
            "shopify.orders",
            f"{SHOP}/FulfillmentOrder/9",
            f"{SHOP}/FulfillmentOrder/9",
        ),
        (
            "fulfillment_orders/order_routing_complete",
            {"fulfillment_order": {"id": "gid://shopify/FulfillmentOrder/9", "status": "open"}},
            "shopify.catalog",
            SHOP,
            SHOP,
        ),
    ],
)
def test_topic_key_and_route(topic: str, value: Any, where: str, key: str, route: str) -> None:
    record = take(topic, value)
    assert (record.topic, record.key, record.route) == (where, key.encode(), route.encode())


def test_only_declared_fields_are_kept() -> None:
    kept = json.loads(bytes(take("orders/create", ORDER).envelope.body))
    assert set(kept) == {"id", "created_at", "updated_at", "line_items"}
    assert kept["line_items"] == [{"id": 7, "quantity": 2, "variant_id": 9, "sku": "TEE"}]


def test_a_body_of_another_shape_is_rejected_and_scrubbed_of_customers() -> None:
    value = {**ORDER, "line_items": "none", "note": "for my aunt"}
    with pytest.raises(Rejected, match="line_items"):
        take("orders/create", value)
    kept = json.loads(scrub(json.dumps(value).encode()))
    assert set(kept) == {"id", "created_at", "updated_at", "line_items"}


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"order=1"])
def test_a_body_that_is_not_json_is_refused_with_400(body: bytes) -> None:
    with pytest.raises(Refused) as refused:
        take("orders/create", body)
    assert (refused.value.status, refused.value.reason) == (400, "not_json")


def test_an_oversized_order_leaves_a_marker_that_names_the_order() -> None:
    record = take("orders/updated", b'{"id": 77, "note": "' + b"x" * 300_000 + b'"}', limit=1000)
    assert record.key == f"{SHOP}/77".encode()
    assert record.envelope.oversized
    assert bytes(record.envelope.body) == b"null"
    refund = take("refunds/create", b'{"id": 1, "order_id": 78, "note": "' + b"x" * 2000 + b'"}', limit=1000)
    assert refund.envelope.order_id == 78
    with pytest.raises(Rejected, match="no order id"):
        take("orders/updated", b'{"note": "' + b"x" * 2000 + b'"}', limit=1000)


@pytest.mark.parametrize(
    "missing", ["X-Shopify-Topic", "X-Shopify-Shop-Domain", "X-Shopify-Hmac-Sha256", "X-Shopify-Webhook-Id"]
)
def test_a_missing_header_is_named(missing: str) -> None:
    given = headers()
    del given[missing]
    with pytest.raises(Refused, match=missing) as refused:
        read_headers(given)
    assert refused.value.status == 400


@pytest.mark.parametrize("topic", ["orders", "orders/../x", "Orders/create", "orders/create/"])
def test_a_topic_that_is_none_is_refused(topic: str) -> None:
    with pytest.raises(Refused, match="X-Shopify-Topic"):
        read_headers(headers(topic))


def test_the_event_id_is_the_correlation_id_or_made_here() -> None:
    assert read_headers(headers(**{"X-Shopify-Event-Id": "e-1"})).event_id == "e-1"
    assert read_headers(headers()).event_id != read_headers(headers()).event_id


def test_any_secret_of_the_rotation_may_have_signed() -> None:
    for chunks in ([b"ab", b"c"], [b"abc"]):
        body = Body(["new", "old"])
        for chunk in chunks:
            body.feed(chunk)
        assert body.signed_with(sign("old", b"abc"))
        assert body.signed_with(sign("new", b"abc"))
        assert not body.signed_with(sign("other", b"abc"))
        assert not body.signed_with("")


@pytest.mark.skipif(not FIXTURES.exists(), reason="the signed sample bodies are not part of the project")
def test_signed_sample_bodies_are_accepted() -> None:
    index = json.loads((FIXTURES / "index.json").read_text())
    for fixture in index["fixtures"]:
        body = Body([index["client_secret"]])
        body.feed((FIXTURES / "webhooks" / fixture["file"]).read_bytes())
        delivery = read_headers(headers(fixture["topic"], fixture["x-shopify-hmac-sha256"]))
        assert body.signed_with(delivery.signature), fixture["file"]
        assert accept(delivery, body, NOW).key
