"""The table of bad records: every source topic of a worker, and what becomes of each record.

``docs/bad-input.md`` shows the same table; ``tests/pipeline/test_bad_input.py`` tries every row.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from msgspec import json

SHOP, GONE = "north.myshopify.com", "gone.myshopify.com"
ITEM, LOCATION_ID = 5001, 71
APPLIED = "applied"
TAKEN = "taken"
FORWARDED, FORWARDED_BY_EACH = "forwarded", "forwarded by each"
REFUSED = "refused"
"""By the broker: a time in the future (`message.timestamp.after.max.ms`, an hour by default since Kafka 3.6),
and in a compacted topic a record without a key.
"""
READERS = {
    "stock.movements": frozenset({"stock"}),
    "stock.listings": frozenset({"stock"}),
    "stock.listing-changes": frozenset({"reconcile"}),
    "shopify.orders": frozenset({"orders"}),
    "shopify.targets": frozenset({"shopify"}),
    "shopify.corrections": frozenset({"shopify"}),
    "shopify.controls": frozenset({"shopify"}),
    "shopify.drift": frozenset({"reconcile"}),
    "shopify.redactions": frozenset({"orders", "shopify", "reconcile"}),
}
"""The services that answer for the records of a topic, each with a dead letter of its own."""
COMPACTED = frozenset({"stock.listings", "shopify.targets"})
AT_1970_MS = 0
AT_2100_MS = int(datetime(2100, 1, 1, tzinfo=UTC).timestamp() * 1000)
LEDGER_RESULTS = frozenset({APPLIED, "rejected"})


NO_VALUES = (("schema", None), ("correlation_id", None), ("trace", None))


class Row(NamedTuple):
    """One bad (or odd) record and its fate: an error's name in the dead letter, or what was done with it."""

    topic: str
    what: str
    becomes: str
    key: str | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    wrong_partition: bool = False
    timestamp_ms: int | None = None

    @property
    def line(self) -> str:
        """The row in the documentation."""
        fate = {
            APPLIED: "applied like any other",
            TAKEN: "taken like any other",
            REFUSED: "the broker refuses it; its producer gets the error",
            "rejected": "outcome `rejected` in `stock.ledger`",
            FORWARDED: "forwarded to the partition of its key, counted, and applied there once",
            FORWARDED_BY_EACH: "forwarded by each service, counted, and taken there; again changes nothing",
        }.get(self.becomes, f"dead letter, `{self.becomes}`")
        return f"| `{self.topic}` | {self.what} | {fate} |"


class Good(NamedTuple):
    """How to make good records of a topic, each about a thing of its own."""

    topic: str
    schema: str
    key: Callable[[str], str]
    body: Callable[[str], dict[str, Any]]
    taken: str  # what becomes of a good one
    identity: str  # the field without which nobody knows what it is about


def _sku(name: str) -> str:
    return f"BAD-{name}"


def _movement(name: str) -> dict[str, Any]:
    return {
        "id": f"bad-input-{name}",
        "kind": "sold",
        "sku": _sku(name),
        "location": "main",
        "quantity": 1,
        "source": "test",
        "occurred_at": "2026-11-02T09:15:03Z",
    }


def _listing() -> dict[str, Any]:
    return {"shop": SHOP, "item": ITEM, "variant": 9001, "location_id": LOCATION_ID}


def _listings(name: str) -> dict[str, Any]:
    return {"sku": _sku(name), "location": "main", "listings": [_listing()]}


def _listing_change(name: str) -> dict[str, Any]:
    return {"sku": _sku(name), "location": "main", "listing": _listing()}


def _order_id(name: str) -> int:
    return 10**9 + int.from_bytes(name.encode()[-4:], "big")


def _order(name: str) -> dict[str, Any]:
    at = "2026-11-02T09:15:03+01:00"
    order = {"id": _order_id(name), "created_at": at, "updated_at": at, "line_items": []}
    return {
        "shop": SHOP,
        "topic": "orders/create",
        "received_at": "2026-11-02T09:15:03Z",
        "order_id": order["id"],
        "body": order,
    }


def _target(name: str) -> dict[str, Any]:
    numbers = {"available": 3, "wanted": 3, "committed": 0, "physical_total": 0, "version": 1}
    item = _order_id(name)
    return {"shop": SHOP, "item": item, "location_id": 71, "sku": _sku(name), "location": "main", **numbers}


def _drift(name: str) -> dict[str, Any]:
    at = "2026-11-02T09:15:03Z"
    told = {"class": "unexplained", "found_at": at, "since": at, "by": "test", "units_off": 2}
    return {"shop": SHOP, "item": _order_id(name), "location_id": 71, **told}


def _correction(name: str) -> dict[str, Any]:
    told = {"id": f"bad-{name}", "action": "reread", "expires_at": "2100-11-02T09:15:03Z"}
    return {"shop": SHOP, "item": _order_id(name), "location_id": 71, **told}


def _control(shop: str = SHOP) -> dict[str, Any]:
    return {"shop": shop, "action": "resume", "requested_at": "2026-11-02T09:15:03Z"}


def _redaction(name: str) -> dict[str, Any]:
    return {"shop": GONE, "nonce": _order_id(name), "requested_at": "2026-11-02T09:15:03Z"}


GOOD = (
    Good("stock.movements", "movement/1", lambda name: f"{_sku(name)}@main", _movement, APPLIED, "id"),
    Good("stock.listings", "listings/1", lambda name: f"{_sku(name)}@main", _listings, TAKEN, "sku"),
    Good(
        "stock.listing-changes",
        "listing-change/1",
        lambda name: f"{_sku(name)}@main",
        _listing_change,
        TAKEN,
        "listing",
    ),
    Good("shopify.orders", "webhook/1", lambda name: f"{SHOP}/{_order_id(name)}", _order, TAKEN, "shop"),
    Good("shopify.targets", "target/1", lambda name: f"{SHOP}/{_order_id(name)}/71", _target, TAKEN, "item"),
    Good("shopify.drift", "drift/1", lambda name: f"{SHOP}/{_order_id(name)}/71", _drift, TAKEN, "item"),
    Good(
        "shopify.corrections", "correction/1", lambda name: f"{SHOP}/{_order_id(name)}/71", _correction,
        TAKEN, "item",
    ),
    Good(
        "shopify.redactions", "redaction/1", lambda name: f"{GONE}/{_order_id(name)}", _redaction,
        TAKEN, "shop",
    ),
)  # fmt: skip


def rows(unique: str) -> list[Row]:
    """The whole table; ``unique`` keeps one run's records apart from another's."""
    found = [row for good in GOOD for row in _of_every_topic(good, unique)]
    return found + _of_movements(unique) + _of_the_others(unique)


def _of_every_topic(good: Good, unique: str) -> list[Row]:
    topic, names = good.topic, (f"{unique}-{number:02}" for number in range(100))
    schema, version = good.schema.split("/")
    decode = "DecodeError"
    unkeyed = REFUSED if topic in COMPACTED else "Rejected"
    forwarded = FORWARDED_BY_EACH if len(READERS[topic]) > 1 else FORWARDED

    def row(what: str, becomes: str, value: bytes | dict[str, Any] | None = None, **more: Any) -> Row:
        name = next(names)
        body = good.body(name)
        if isinstance(value, dict):
            value = json.encode({**body, **value})
        fields = {"key": good.key(name), "value": value, **more}
        return Row(topic, what, becomes, **fields)

    newer = f"{schema}/{int(version) + 1}".encode()
    name = f"{unique}-other"
    return [
        row("garbage bytes", decode, b"\xff\x00garbage"),
        row("empty value", decode, b""),
        row("JSON, but not an object", "ValidationError", b"[1, 2]"),
        row("JSON cut off", decode, json.encode(good.body("cut"))[:-5]),
        row("nested a hundred thousand deep", "RecursionError", b'{"a":' + b"[" * 100_000),
        row("newer schema version", "UnknownSchema", {}, headers=(("schema", newer),)),
        row("schema of another record", "UnknownSchema", {}, headers=(("schema", b"alert/1"),)),
        row("schema header that is not text", "UnknownSchema", {}, headers=(("schema", b"\xff\xfe"),)),
        row("headers missing", good.taken, {}),
        row("headers without values", good.taken, {}, headers=NO_VALUES),
        row("garbage bytes, headers without values", decode, b"\xff\x00garbage", headers=NO_VALUES),
        row("unknown fields", good.taken, {"colour": "blue", "nested": {"a": [1]}}),
        row("a field of another type", "ValidationError", {good.identity: [1]}),
        Row(topic, "identity missing", "ValidationError", good.key(name), _without(good, name)),
        Row(
            topic, "key and body disagree", "Rejected", good.key(f"{unique}-no"), json.encode(good.body(name))
        ),
        Row(topic, "no key", unkeyed, None, json.encode(good.body(f"{unique}-nokey"))),
        Row(topic, "key that is not text", "Rejected", "\udcff", json.encode(good.body(f"{unique}-bytes"))),
        row("in the wrong partition for its key", forwarded, {}, wrong_partition=True),
        row("record timestamp in 1970", good.taken, {}, timestamp_ms=AT_1970_MS),
        row("record timestamp in 2100", REFUSED, {}, timestamp_ms=AT_2100_MS),
    ]


def _without(good: Good, name: str) -> bytes:
    return json.encode({field: value for field, value in good.body(name).items() if field != good.identity})


def _of_movements(unique: str) -> list[Row]:
    names = (f"{unique}-m{number:02}" for number in range(100))

    def row(what: str, becomes: str, **changed: Any) -> Row:
        name = next(names)
        body = {**_movement(name), **changed}
        return Row("stock.movements", what, becomes, f"{body['sku']}@{body['location']}", json.encode(body))

    counted = {"kind": "counted", "as_of": "2026-11-02T09:15:03Z"}
    return [
        Row("stock.movements", "null value", "Rejected", f"{_sku(unique)}@main", None),
        row("SKU and location that nobody knows", APPLIED, location="nowhere"),
        row("negative quantity", "Rejected", quantity=-1),
        row("quantity of zero", "Rejected", quantity=0),
        row("fractional quantity", "ValidationError", quantity=1.5),
        row("huge quantity (10^12)", "ValidationError", quantity=10**12),
        row("quantity beyond 64 bits", "ValidationError", quantity=10**30),
        row("quantity as text", "ValidationError", quantity="3"),
        row("empty id", "ValidationError", id=""),
        row("empty SKU", "ValidationError", sku=""),
        row("location with a space", "ValidationError", location="a b"),
        row("unknown kind", "ValidationError", kind="teleported"),
        row("correlation id of a thousand characters", "ValidationError", correlation_id="x" * 1_000),
        row("reason of half a mebibyte", "ValidationError", reason="x" * (512 << 10)),
        row("time without an offset", "ValidationError", occurred_at="2026-11-02T09:15:03"),
        row("occurred in 1970", APPLIED, occurred_at="1970-01-01T00:00:00Z"),
        row("occurred in 2100", APPLIED, occurred_at="2100-01-01T00:00:00Z"),
        row("occurred on the 31st of February", "ValidationError", occurred_at="2026-02-31T00:00:00Z"),
        row("counted below zero", "Rejected", **{**counted, "quantity": -5}),
        row("counted without as_of", "Rejected", kind="counted", quantity=5),
        row("adjusted without a reason", "Rejected", kind="adjusted", quantity=-2),
        row(
            "set aside to where it is", "Rejected", kind="set_aside", from_state="damaged", to_state="damaged"
        ),
        row("ask beyond what is available", "rejected", policy="ask", quantity=10),
        row("ask that waited too long", "rejected", policy="ask", valid_until="2026-01-01T00:00:00Z"),
        row("stale expected_version", "rejected", expected_version=7),
    ]


def _of_the_others(unique: str) -> list[Row]:
    def encoded(good: dict[str, Any], /, **changed: Any) -> bytes:
        return json.encode({**good, **changed})

    listing, order, target, drift = f"{unique}-l", f"{unique}-o", f"{unique}-t", f"{unique}-d"
    nobody = "nobody.myshopify.com"
    key = f"{_sku(listing)}@main"
    return [
        Row("stock.listings", "null value", TAKEN, key, None),
        Row("stock.listings", "key without an @", "Rejected", f"{unique}-plain", None),
        Row(
            "stock.listings", "negative buffer", "ValidationError", key,
            encoded(_listings(listing), listings=[{**_listing(), "buffer": -1}]),
        ),
        Row(
            "stock.listings", "percentage of 101", "ValidationError", key,
            encoded(_listings(listing), listings=[{**_listing(), "percentage": 101}]),
        ),
        Row(
            "stock.listings", "more listings than a key can have (1 001)", "ValidationError", key,
            encoded(_listings(listing), listings=[_listing()] * 1_001),
        ),
        Row("stock.listing-changes", "null value", "Rejected", key, None),
        Row(
            "stock.listing-changes", "item as text", "ValidationError", key,
            encoded(_listing_change(listing), listing={**_listing(), "item": "tee"}),
        ),
        Row("shopify.orders", "null value", "Rejected", f"{SHOP}/{_order_id(order)}", None),
        Row(
            "shopify.orders", "unknown shop", "Rejected", f"{nobody}/{_order_id(order)}",
            encoded(_order(order), shop=nobody),
        ),
        Row(
            "shopify.orders", "fractional order id", "ValidationError", f"{SHOP}/{_order_id(order)}",
            encoded(_order(order), order_id=1.5),
        ),
        Row(
            "shopify.orders", "body of another shape", "ValidationError", f"{SHOP}/{_order_id(order)}",
            encoded(_order(order), body={"id": "none"}),
        ),
        Row("shopify.targets", "null value", TAKEN, f"{SHOP}/{_order_id(target)}/71", None),
        Row(
            "shopify.targets", "unknown shop", "Rejected", f"{nobody}/{_order_id(target)}/71",
            encoded(_target(target), shop=nobody),
        ),
        Row(
            "shopify.targets", "fractional wanted", "ValidationError", f"{SHOP}/{_order_id(target)}/71",
            encoded(_target(target), wanted=1.5),
        ),
        Row("shopify.corrections", "null value", "Rejected", f"{SHOP}/1/71", None),
        Row(
            "shopify.corrections", "unknown shop", "Rejected", f"{nobody}/{_order_id(target)}/71",
            encoded(_correction(target), shop=nobody),
        ),
        Row(
            "shopify.corrections", "unknown action", "ValidationError", f"{SHOP}/{_order_id(target)}/71",
            encoded(_correction(target), action="magic"),
        ),
        Row("shopify.controls", "null value", "Rejected", SHOP, None),
        Row("shopify.controls", "unknown shop", "Rejected", nobody, json.encode(_control(nobody))),
        Row("shopify.controls", "key and body disagree", "Rejected", nobody, json.encode(_control())),
        Row("shopify.controls", "unknown action", "ValidationError", SHOP, encoded(_control(), action="x")),
        Row("shopify.controls", "asked twice", TAKEN, SHOP, json.encode(_control())),
        Row("shopify.drift", "null value", "Rejected", f"{SHOP}/{_order_id(drift)}/71", None),
        Row(
            "shopify.drift", "unknown class", "ValidationError", f"{SHOP}/{_order_id(drift)}/71",
            encoded(_drift(drift), **{"class": "magic"}),
        ),
        Row("shopify.redactions", "null value", "Rejected", f"{GONE}/1", None),
        Row(
            "shopify.redactions", "a shop that the shops file has", "Rejected", f"{SHOP}/1",
            encoded(_redaction(drift), shop=SHOP, nonce=1),
        ),
        Row("shopify.redactions", "empty shop", "ValidationError", "/1", encoded(_redaction(drift), shop="")),
        Row(
            "shopify.redactions", "fractional nonce", "ValidationError", f"{GONE}/1.5",
            encoded(_redaction(drift), nonce=1.5),
        ),
        Row(
            "shopify.redactions", "a shop that nobody has", TAKEN, f"{GONE}/{_order_id(drift)}",
            encoded(_redaction(drift)),
        ),
    ]  # fmt: skip
