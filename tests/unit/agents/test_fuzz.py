"""Whatever bytes come in: a record is used or refused, and never ends a worker.

What a lane does with an error depends on its family: a ``Bug``, ``Stale`` or ``Misconfigured`` fails the
lane, anything else is a dead letter. So a decoder may raise the errors of ``REFUSALS`` and no other.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.bad_records import GOOD

from agents.comparison import Limits, small
from agents.listing_changes import decode_change as decode_listing_change
from agents.orders import decode_envelope, united
from agents.reconcile import decode_drift
from agents.shopify import decode_correction, decode_target
from agents.shopify.intents import setting
from agents.shopify.levels import decode_change
from agents.stock import decode_listings, decode_movement
from app.errors import Rejected
from app.records import (
    Correction,
    Drift,
    Envelope,
    LevelRead,
    ListingChange,
    Listings,
    Movement,
    StockRecord,
    Target,
    check_schema,
)
from connectors.shopify.webhooks import Body, accept, read_headers
from tables import drift, edits, pushes, stock
from tables.catalog import merge
from tables.listings import ListingDirectory, ListingIndex
from tables.orders import evaluate

REFUSALS = (Rejected, msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError)
NOW = datetime(2026, 11, 2, 9, 15, 3, tzinfo=UTC)
CASES, LONG_CASES = 2_000, 200_000
"""For each of the decoders."""
SECRET = "example-secret"

odd = ["", "@", "a@b", "2026-11-02T09:15:03Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-12:00"]
numbers = st.one_of(st.integers(), st.integers(-(10**30), 10**30), st.floats())
scalars = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=12), st.sampled_from(odd))
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
headers = st.lists(
    st.tuples(st.sampled_from(["schema", "correlation_id", "x"]), st.binary(max_size=12)), max_size=2
)


@st.composite
def bodies(draw: st.DrawFn, good: dict[str, Any]) -> bytes:
    """A good body with some of its parts replaced, removed or added; sometimes bytes instead of JSON."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=60))
    body = msgspec.json.decode(msgspec.json.encode(good))
    for _ in range(draw(st.integers(0, 3))):
        _change(draw, body)
    encoded = msgspec.json.encode(body)
    if draw(st.integers(0, 9)) == 0 and encoded:
        at = draw(st.integers(0, len(encoded) - 1))
        encoded = encoded[:at] + draw(st.binary(max_size=3)) + encoded[at + 1 :]
    return encoded


def _change(draw: st.DrawFn, node: Any) -> None:
    """Replace, remove or add one thing somewhere below a node."""
    while True:
        keys: list[Any] = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            break
        key = draw(st.sampled_from(keys))
        if isinstance(node[key], dict | list) and draw(st.booleans()):
            node = node[key]
            continue
        if draw(st.integers(0, 3)):
            node[key] = draw(values)
        else:
            del node[key]
        return
    if isinstance(node, dict):
        node[draw(st.text(max_size=6))] = draw(values)


def good(topic: str) -> dict[str, Any]:
    body = next(one.body("fuzz") for one in GOOD if one.topic == topic)
    if topic == "shopify.orders":
        line = {"id": 1, "quantity": 2, "fulfillable_quantity": 2, "variant_id": 9001, "sku": "TEE"}
        line["variant_inventory_management"] = "shopify"
        shipped = {"id": 5, "created_at": body["body"]["created_at"], "status": "success", "location_id": 71}
        shipped["line_items"] = [{"id": 1, "quantity": 1}]
        body["body"] |= {"line_items": [line], "fulfillments": [shipped], "refunds": []}
    return body


TARGET = msgspec.json.encode(good("shopify.targets"))
CORRECTION = {
    "shop": "a.myshopify.com", "item": 1, "location_id": 2, "id": "c", "action": "set", "available": 3,
    "units": 4, "target_version": 1, "expires_at": "2026-11-02T09:15:03Z",
}  # fmt: skip
LEVEL = {
    "shop": "a.myshopify.com", "topic": "inventory_levels/update", "received_at": "2026-11-02T09:15:03Z",
    "body": {"inventory_item_id": 1, "location_id": 2, "available": 3, "updated_at": "2026-11-02T09:15:03Z"},
}  # fmt: skip


def movement(value: bytes, head: list[tuple[str, bytes]]) -> None:
    check_schema(head, Movement)
    told = decode_movement(value)
    applied = stock.apply(StockRecord(opened_at=NOW), told, now=NOW, low_water=3)
    stock.targets(told.key, StockRecord(opened_at=NOW), applied.record)
    msgspec.json.encode(applied.outcome)


def listings(value: bytes, head: list[tuple[str, bytes]]) -> None:
    check_schema(head, Listings)
    told = decode_listings(value)
    ListingDirectory().put(f"{told.sku}@{told.location}", told)
    opened = StockRecord(opened_at=NOW)
    stock.targets("a@b", opened, stock.set_listings(opened, told, now=NOW))


def listing_change(value: bytes, head: list[tuple[str, bytes]]) -> None:
    check_schema(head, ListingChange)
    told = decode_listing_change(value)
    index = ListingIndex()
    index.put(told.key, Listings(sku=told.sku, location=told.location, listings=merge([], told)))
    msgspec.json.encode(index.newest(told.key, None))


def webhook(value: bytes, head: list[tuple[str, bytes]]) -> None:
    check_schema(head, Envelope)
    record = united(None, decode_envelope(value))
    evaluate(record, ListingDirectory(), default_location_id=71, correlation_id="")


def target(value: bytes, head: list[tuple[str, bytes]]) -> None:
    check_schema(head, Target)
    state = pushes.take_read(pushes.take_target(None, decode_target(value)), LevelRead(available=3), 0)
    pushes.need_of(state)
    pushes.crosses_zero(state)


def correction(value: bytes, head: list[tuple[str, bytes]]) -> None:
    check_schema(head, Correction)
    told = decode_correction(value)
    state = pushes.take_read(pushes.take_target(None, decode_target(TARGET)), LevelRead(available=3), 0)
    if not pushes.objection(state, told, 0) and told.action == "set":
        entry = pushes.correcting_entry(pushes.correct(state, told, 0))
        assert entry is None or setting(told, entry, 0).entries == [entry]


def level(value: bytes, head: list[tuple[str, bytes]]) -> None:
    check_schema(head, Envelope)
    change = decode_change(decode_envelope(value).body)
    state = pushes.take_read(pushes.take_target(None, decode_target(TARGET)), LevelRead(available=3), 0)
    edits.take_level(edits.take_level(state, change, 0), change, 1)


def difference(value: bytes, head: list[tuple[str, bytes]]) -> None:
    check_schema(head, Drift)
    told = decode_drift(value)
    small([told], Limits(), {}, "overrule")
    msgspec.json.encode(drift.gone(told, now=NOW, by="test"))


def delivery(value: bytes, head: list[tuple[str, bytes]]) -> None:
    signature = b64encode(hmac.new(SECRET.encode(), value, hashlib.sha256).digest()).decode()
    names = {"X-Shopify-Topic": "orders/create", "X-Shopify-Shop-Domain": "a.myshopify.com"}
    names |= {"X-Shopify-Hmac-Sha256": signature, "X-Shopify-Webhook-Id": "w"}
    names |= {f"X-Shopify-{name}": text.decode(errors="replace") for name, text in head}
    body = Body([SECRET])
    body.feed(value)
    assert body.signed_with(signature)
    accept(read_headers(names), body, NOW)


DECODERS: dict[str, tuple[Callable[[bytes, list[tuple[str, bytes]]], None], dict[str, Any]]] = {
    "movements": (movement, good("stock.movements")),
    "listings": (listings, good("stock.listings")),
    "listing changes": (listing_change, good("stock.listing-changes")),
    "orders": (webhook, good("shopify.orders")),
    "targets": (target, good("shopify.targets")),
    "differences": (difference, good("shopify.drift")),
    "corrections": (correction, CORRECTION),
    "levels": (level, LEVEL),
    "receiver": (delivery, good("shopify.orders")["body"]),
}


def fuzz(name: str, cases: int) -> None:
    decoder, body = DECODERS[name]
    used = 0

    @settings(max_examples=cases, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(bodies(body), headers)
    def run(value: bytes, head: list[tuple[str, bytes]]) -> None:
        nonlocal used
        try:
            decoder(value, head)
        except REFUSALS:
            return
        used += 1

    run()
    assert used > cases / 50, "hardly anything was good enough to get through the decoder"


@pytest.mark.parametrize("name", DECODERS)
def test_no_bytes_end_a_worker(name: str) -> None:
    fuzz(name, CASES)


@pytest.mark.long
@pytest.mark.timeout(7_200)
@pytest.mark.parametrize("name", DECODERS)
def test_no_bytes_end_a_worker_in_a_million_cases(name: str) -> None:
    fuzz(name, LONG_CASES)
