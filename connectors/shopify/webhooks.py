"""Shopify's webhooks: who signed them, what they are about, and which of their fields we keep.

The delivery contract is shopify.dev "Delivery structure": an HTTPS POST whose headers name the shop, the
topic and the delivery, signed with ``base64(HMAC-SHA256(client secret, raw body))``. A body is decoded into
the structs of ``app.records`` and encoded again: what they do not declare, above all customer data, is lost.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import uuid4

import msgspec
from msgspec import Raw, Struct

from app.errors import Rejected
from app.records import (
    CatalogChange,
    Envelope,
    LevelChange,
    Order,
    OrderDeleted,
    OrderEdited,
    PrivacyRequest,
    Record,
    Refund,
    encode,
)

BODY_LIMIT_BYTES = 8 << 20
"""Beyond it only a marker is stored: eight refusals make Shopify delete the subscription."""
HEAD_BYTES = 64 << 10
"""What is kept of a body over the limit, to find the order's id: it comes first in Shopify's bodies."""

EVENT_ID_CHARACTERS = 255

ORDERS, LEVELS, CATALOG = "shopify.orders", "shopify.levels", "shopify.catalog"

_SNAPSHOTS = frozenset(
    {
        "orders/create",
        "orders/updated",
        "orders/cancelled",
        "orders/fulfilled",
        "orders/partially_fulfilled",
        "orders/paid",
    }
)
ROUTING_TOPICS = (
    "fulfillment_orders/moved",
    "fulfillment_orders/split",
    "fulfillment_orders/merged",
    "fulfillment_orders/cancelled",
)
"""After these an order's units may be promised elsewhere. ``order_routing_complete`` is not among them: the
locations of a new order are asked for anyway, and that topic is documented for fulfilment services only.
"""
RETURN_TOPICS = (
    "returns/process",
    "returns/close",
    "returns/cancel",
    "returns/update",
    "reverse_fulfillment_orders/dispose",
)
"""After these units may have been restocked, and no webhook of the order tells; before them none were."""
COMPLIANCE = frozenset({"customers/data_request", "customers/redact", "shop/redact"})
"""What Shopify sends to every app when a customer or a shop asks about, or for the end of, their data."""
LEAVING = frozenset({"app/uninstalled", "shop/redact"})
"""After these the shop does not let us in any more."""
_BODIES: dict[str, type[Record]] = {
    **dict.fromkeys(_SNAPSHOTS, Order),
    "refunds/create": Refund,
    "orders/edited": OrderEdited,
    "orders/delete": OrderDeleted,
    "inventory_levels/update": LevelChange,
    "inventory_levels/connect": LevelChange,
    "inventory_levels/disconnect": LevelChange,
    **dict.fromkeys(COMPLIANCE, PrivacyRequest),
}
_BY_ID = _SNAPSHOTS | {"orders/delete"}
_TOPIC = re.compile(r"[a-z0-9_]{1,64}(/[a-z0-9_]{1,64})+")
_FIRST_ID = re.compile(rb'\A\s*\{\s*"id"\s*:\s*(\d{1,20})')
_LAST_NUMBER = re.compile(r"(?:\A|/)(\d{1,20})(?:\?.*)?\Z")
_ORDER_ID = re.compile(rb'"order_id"\s*:\s*(\d{1,20})')

_kinds: set[type[Record]] = {*_BODIES.values(), CatalogChange}
_decoders = {kind: msgspec.json.Decoder(kind) for kind in _kinds}


class Refused(Rejected):
    """A delivery not answered with 200; ``status`` is the HTTP status, ``reason`` a metric's label."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class Delivery(Struct, frozen=True, kw_only=True):
    """What the headers of one delivery say."""

    shop: str
    topic: str
    signature: str
    webhook_id: str
    event_id: str  # Shopify's, or made here: the correlation id of all that follows
    api_version: str
    triggered_at: datetime | None


class Accepted(Struct, frozen=True, kw_only=True):
    """A record for Kafka: its topic, its key and the part of the key that is hashed to a partition."""

    topic: str
    key: bytes
    route: bytes
    envelope: Envelope


class Body:
    """A body as it is read: hashed whole, kept up to the limit."""

    def __init__(self, secrets: Sequence[str], limit: int = BODY_LIMIT_BYTES) -> None:
        self.size = 0
        self._limit = limit
        self._macs = [hmac.new(secret.encode(), digestmod=hashlib.sha256) for secret in secrets]
        self._chunks = bytearray()

    @property
    def oversized(self) -> bool:
        """Whether there was more than the limit."""
        return self.size > self._limit

    @property
    def kept(self) -> bytes:
        """The body; of an oversized one only the head."""
        return bytes(self._chunks)

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self.size += len(chunk)
        for mac in self._macs:
            mac.update(chunk)
        if not self.oversized:
            self._chunks += chunk
            return
        self._chunks += chunk[: max(0, HEAD_BYTES - len(self._chunks))]
        del self._chunks[HEAD_BYTES:]

    def signed_with(self, signature: str) -> bool:
        """Whether any of the secrets made this signature; the time taken does not tell which."""
        given = signature.encode()
        matches = [hmac.compare_digest(b64encode(mac.digest()), given) for mac in self._macs]
        return any(matches)


def read_headers(headers: Mapping[str, str]) -> Delivery:
    """What the headers say; ``headers`` is case-insensitive.

    Raises:
        Refused: 400 naming a header that is missing or malformed.
    """
    topic = _header(headers, "X-Shopify-Topic")
    if not _TOPIC.fullmatch(topic):
        raise Refused(400, "bad_topic", f"header X-Shopify-Topic is not a topic: {topic[:80]!r}")
    return Delivery(
        shop=_header(headers, "X-Shopify-Shop-Domain").lower(),
        topic=topic,
        signature=_header(headers, "X-Shopify-Hmac-Sha256"),
        webhook_id=_header(headers, "X-Shopify-Webhook-Id"),
        event_id=headers.get("X-Shopify-Event-Id", "")[:EVENT_ID_CHARACTERS] or str(uuid4()),
        api_version=headers.get("X-Shopify-API-Version", ""),
        triggered_at=_instant(headers.get("X-Shopify-Triggered-At")),
    )


def accept(delivery: Delivery, body: Body, received_at: datetime) -> Accepted:
    """The record of a delivery whose signature is right.

    Raises:
        Refused: 400 when the body is not JSON, or nested without end.
        Rejected: when it is JSON of another shape, or too large to say which order it is about: it can never
            be used, and sending it again would change nothing.
    """
    if body.oversized:
        return _marker(delivery, body.kept, received_at)
    kind = _BODIES.get(delivery.topic, CatalogChange)
    try:
        value = _decoders[kind].decode(body.kept)
    except msgspec.ValidationError as error:
        raise Rejected(f"{delivery.topic}: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(400, "not_json", f"the body is not JSON: {error}") from None
    return _accepted(delivery, value, received_at)


def scrub(body: bytes) -> bytes:
    """A body of an unexpected shape without anything but the fields that some topic declares."""
    return encode(_scrubbed(msgspec.json.decode(body)))


def _header(headers: Mapping[str, str], name: str) -> str:
    value = headers.get(name, "")
    if not value:
        raise Refused(400, "missing_header", f"header {name} is missing")
    return value


def _instant(text: str | None) -> datetime | None:
    """The instant of an optional, informative header; None when it cannot be read."""
    try:
        return msgspec.convert(text, datetime) if text else None
    except msgspec.ValidationError:
        return None


def _accepted(delivery: Delivery, value: Record, received_at: datetime) -> Accepted:
    shop = delivery.shop
    envelope = _envelope(delivery, received_at, body=Raw(encode(value)))
    if isinstance(value, LevelChange):
        key = f"{shop}/{value.inventory_item_id}/{value.location_id}"
        return Accepted(topic=LEVELS, key=key.encode(), route=shop.encode(), envelope=envelope)
    order_id = _order_id(value, delivery.topic)
    if order_id is None and isinstance(value, CatalogChange):
        subject = _subject(value, delivery.topic)
        if subject:
            named = f"{shop}/{subject}".encode()
            return Accepted(topic=ORDERS, key=named, route=named, envelope=envelope)
    if order_id is None:
        return Accepted(topic=CATALOG, key=shop.encode(), route=shop.encode(), envelope=envelope)
    return _of_order(msgspec.structs.replace(envelope, order_id=order_id), order_id)


def _of_order(envelope: Envelope, order_id: int) -> Accepted:
    key = f"{envelope.shop}/{order_id}".encode()
    return Accepted(topic=ORDERS, key=key, route=key, envelope=envelope)


def _order_id(value: Record, topic: str) -> int | None:
    if isinstance(value, Order | OrderDeleted):
        return value.id
    if isinstance(value, Refund):
        return value.order_id
    if isinstance(value, OrderEdited):
        return value.order_edit.order_id
    if isinstance(value, CatalogChange) and topic in RETURN_TOPICS:
        return _number(value.order.id if value.order else value.order_id)
    return None


def _subject(value: CatalogChange, topic: str) -> str:
    """``{kind}/{number}`` of what a webhook about an unnamed order is about; empty when it cannot be told."""
    if topic in ROUTING_TOPICS:
        told = (
            value.fulfillment_order,
            value.original_fulfillment_order,
            value.moved_fulfillment_order,
            value.remaining_fulfillment_order,
        )
        number = next((_number(one.id) for one in told if one is not None and _number(one.id)), None)
        return f"FulfillmentOrder/{number}" if number else ""
    kind = "ReverseFulfillmentOrder" if topic.startswith("reverse") else "Return"
    number = _number(value.id) if topic in RETURN_TOPICS else None
    return f"{kind}/{number}" if number else ""


def _number(told: int | str | None) -> int | None:
    """The number of an id, which some topics give as a GID."""
    found = _LAST_NUMBER.search(str(told)) if told is not None else None
    return int(found[1]) if found else None


def _marker(delivery: Delivery, head: bytes, received_at: datetime) -> Accepted:
    envelope = _envelope(delivery, received_at, oversized=True)
    if _BODIES.get(delivery.topic) is None:
        shop = delivery.shop.encode()
        return Accepted(topic=CATALOG, key=shop, route=shop, envelope=envelope)
    found = (_FIRST_ID if delivery.topic in _BY_ID else _ORDER_ID).search(head)
    if found is None:
        raise Rejected(f"{delivery.topic}: over {BODY_LIMIT_BYTES} bytes, and no order id at its beginning")
    order_id = int(found[1])
    return _of_order(msgspec.structs.replace(envelope, order_id=order_id), order_id)


def _envelope(
    delivery: Delivery, received_at: datetime, *, oversized: bool = False, body: Raw | None = None
) -> Envelope:
    return Envelope(
        shop=delivery.shop,
        topic=delivery.topic,
        webhook_id=delivery.webhook_id,
        event_id=delivery.event_id,
        triggered_at=delivery.triggered_at,
        received_at=received_at,
        api_version=delivery.api_version,
        oversized=oversized,
        body=body or Raw(b"null"),
    )


def _names(kind: type[Record]) -> frozenset[str]:
    schema = msgspec.json.schema(kind)
    return frozenset(name for part in schema["$defs"].values() for name in part.get("properties", ()))


_DECLARED = frozenset().union(*(_names(kind) for kind in _kinds))


def _scrubbed(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _scrubbed(part) for name, part in value.items() if name in _DECLARED}
    return [_scrubbed(part) for part in value] if isinstance(value, list) else value
