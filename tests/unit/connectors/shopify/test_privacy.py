"""What is stored of a webhook holds nothing about a person, whatever its body carries."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app.errors import Rejected
from app.records import Envelope, PrivacyRequest, Record, encode
from connectors.shopify import webhooks
from connectors.shopify.simulator.bodies import ADDRESS, CUSTOMER
from connectors.shopify.webhooks import Accepted, Body, Delivery, accept, scrub

NOW = datetime(2026, 11, 24, tzinfo=UTC)
FIXTURES = Path(__file__).parents[5] / "shared" / "shopify" / "fixtures"
MARK = "personal-value"
"""In every planted value."""

PERSONAL: dict[str, Any] = {
    **{name: f"{MARK} {name}" for name in ("email", "phone", "name", "note", "contact_email", "browser_ip")},
    **{name: f"{MARK} {name}" for name in ("first_name", "last_name", "address1", "city", "zip", "company")},
    **{name: f"{MARK} {name}" for name in ("token", "cart_token", "tags", "landing_site", "user_agent")},
    "note_attributes": [{"name": f"{MARK} gift", "value": f"{MARK} for Ada"}],
    "customer": {"id": 1, **{name: f"{MARK} {name}" for name in CUSTOMER}},
    "shipping_address": {name: f"{MARK} {name}" for name in ADDRESS},
    "properties": [{"name": f"{MARK} engraving", "value": f"{MARK} Ada"}],
}
"""Fields of Shopify's bodies that are about a person (Shopify's samples of orders and customers)."""

TEXT_FIELDS = {
    "admin_graphql_api_id", "assigned_location_id", "current", "destination_location_id", "id", "order_id",
    "previous", "restock_type", "sku", "source_name", "status", "updated_at", "variant_inventory_management",
}  # fmt: skip
"""All fields with text that we keep: ids, states, scopes, and the SKU. A new one must be looked at here."""

BODIES: dict[str, dict[str, Any]] = {
    "orders/create": {
        "id": 71,
        "created_at": "2026-11-02T09:15:02+01:00",
        "updated_at": "2026-11-02T09:15:03+01:00",
        "line_items": [{"id": 7, "quantity": 2, "variant_id": 9, "sku": "TEE"}],
        "fulfillments": [
            {"id": 3, "created_at": "2026-11-02T10:00:00Z", "line_items": [{"id": 7, "quantity": 1}]}
        ],
        "refunds": [
            {
                "id": 5,
                "order_id": 71,
                "created_at": "2026-11-02T11:00:00Z",
                "refund_line_items": [{"id": 6, "line_item_id": 7, "quantity": 1}],
            }
        ],
    },
    "orders/edited": {"order_edit": {"id": 4, "order_id": 71, "line_items": {"additions": []}}},
    "inventory_levels/update": {"inventory_item_id": 1, "location_id": 2, "available": 3},
    "app/uninstalled": {"id": 548380009},
    "customers/data_request": {"shop_id": 1, "orders_requested": [71], "data_request": {"id": 9}},
    "customers/redact": {"shop_id": 1, "orders_to_redact": [71]},
    "shop/redact": {"shop_id": 1, "shop_domain": "north.myshopify.com"},
}  # fmt: skip


def samples() -> Iterator[tuple[str, dict[str, Any]]]:
    """Topics and bodies: small ones of each decoder, and all captured shapes when they are at hand."""
    yield from BODIES.items()
    index = FIXTURES / "index.json"
    if index.exists():
        for entry in json.loads(index.read_text())["fixtures"]:
            file = FIXTURES / "webhooks" / entry["file"]
            if file.exists():
                yield entry["topic"], json.loads(file.read_text())


def planted(value: Any) -> Any:
    """The body with personal values in every object."""
    if isinstance(value, dict):
        return PERSONAL | {name: planted(part) for name, part in value.items() if name not in PERSONAL}
    return [planted(part) for part in value] if isinstance(value, list) else value


def taken(topic: str, data: bytes, limit: int = 1 << 20) -> Accepted:
    body = Body(["secret"], limit)
    body.feed(data)
    delivery = Delivery(
        shop="north.myshopify.com", topic=topic, signature="", webhook_id="w", event_id="e",
        api_version="", triggered_at=None,
    )  # fmt: skip
    return accept(delivery, body, NOW)


@pytest.mark.parametrize(("topic", "body"), list(samples()))
def test_no_planted_personal_value_is_stored(topic: str, body: dict[str, Any]) -> None:
    data = json.dumps(planted(body)).encode()
    assert MARK.encode() in data
    stored = encode(taken(topic, data).envelope)
    assert MARK.encode() not in stored
    assert MARK.encode() not in scrub(data)


@pytest.mark.parametrize(
    ("topic", "wrong"),
    [("orders/create", "id"), ("orders/edited", "order_edit"), ("inventory_levels/update", "location_id")],
)
def test_the_error_of_a_body_of_another_shape_quotes_nothing_of_it(topic: str, wrong: str) -> None:
    body = planted(BODIES[topic]) | {wrong: MARK}
    with pytest.raises(Rejected) as refused:
        taken(topic, json.dumps(body).encode())
    assert MARK not in str(refused.value)


def test_no_planted_personal_value_is_in_the_marker_of_a_body_over_the_limit() -> None:
    data = json.dumps({"id": 71, **PERSONAL}).encode()
    assert MARK.encode() not in encode(taken("orders/create", data, limit=20).envelope)


def test_every_text_field_that_is_kept_is_known_here() -> None:
    kinds: set[type[Record]] = {*webhooks._BODIES.values(), webhooks.CatalogChange}
    assert set().union(*(texts(kind) for kind in kinds)) == TEXT_FIELDS


def texts(kind: type[Record]) -> set[str]:
    """The fields of a struct, and of those in it, whose JSON may be free text (a time is not)."""
    definitions = msgspec.json.schema(kind)["$defs"]
    return {
        name
        for definition in definitions.values()
        for name, schema in definition.get("properties", {}).items()
        if is_text(schema)
    }


def is_text(schema: dict[str, Any]) -> bool:
    if schema.get("type") == "array":
        return is_text(schema["items"])
    options = schema.get("anyOf", [schema])
    return any((one.get("type") == "string" and "format" not in one) or is_list(one) for one in options)


def is_list(schema: dict[str, Any]) -> bool:
    return schema.get("type") == "array" and is_text(schema["items"])


@pytest.mark.parametrize(
    ("topic", "orders"), [("customers/data_request", [71]), ("customers/redact", [71]), ("shop/redact", [])]
)
def test_a_privacy_request_keeps_which_orders_it_is_about(topic: str, orders: list[int]) -> None:
    accepted = taken(topic, json.dumps(planted(BODIES[topic])).encode())
    envelope = msgspec.json.decode(encode(accepted.envelope), type=Envelope)
    assert (accepted.topic, envelope.topic) == ("shopify.catalog", topic)
    assert msgspec.json.decode(envelope.body, type=PrivacyRequest).orders == orders
