"""Which webhooks we need of a shop, and its subscriptions as they are: compared, made and mended.

A subscription that was made through the API is removed by Shopify after eight deliveries in a row failed
(shopify.dev "Troubleshooting webhooks"); nothing tells of it but the list.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from app.errors import Rejected
from app.records import Order, OrderEdited, Record, Refund
from connectors.shopify import documents
from connectors.shopify.client import ShopClient
from connectors.shopify.webhooks import RETURN_TOPICS, ROUTING_TOPICS

PATH = "/webhooks/shopify"
"""Where the receiver takes webhooks."""
DEPTH = 2
"""Of a field's path: Shopify's documentation shows ``variants.price`` and nothing deeper, and a field that
did not come would look like one that is empty.
"""
TAKEN = "already been taken"
"""Of Shopify's message for a subscription that is there already: somebody made it meanwhile."""

_FULFILLMENT_ORDERS = (
    "read_merchant_managed_fulfillment_orders",
    "read_assigned_fulfillment_orders",
    "read_third_party_fulfillment_orders",
)


class Wanted(Struct, frozen=True, kw_only=True):
    """A webhook topic that we need."""

    topic: str  # as in the header X-Shopify-Topic
    scopes: tuple[str, ...]  # any one of them allows it
    fields: tuple[str, ...] = ()  # what the body shall have; empty: all of it

    @property
    def name(self) -> str:
        """Its name in Shopify's schema."""
        return self.topic.replace("/", "_").upper()


def paths(kind: type[Record]) -> tuple[str, ...]:
    """The fields that a body's record declares, as ``includeFields`` has them: nested ones with a period.

    What lies deeper than ``DEPTH`` comes whole with its parent.
    """
    return tuple(_paths(msgspec.inspect.type_info(kind), ()))


def _paths(kind: Any, above: tuple[str, ...]) -> Iterator[str]:
    parts = kind.types if isinstance(kind, msgspec.inspect.UnionType) else [kind]
    inner = [part.item_type if isinstance(part, msgspec.inspect.ListType) else part for part in parts]
    struct = next((part for part in inner if isinstance(part, msgspec.inspect.StructType)), None)
    if struct is None or len(above) == DEPTH:
        yield ".".join(above)
        return
    for field in struct.fields:
        yield from _paths(field.type, (*above, field.encode_name))


def _wanted(scopes: Sequence[str], topics: Iterable[str], fields: Iterable[str] = ()) -> list[Wanted]:
    return [Wanted(topic=topic, scopes=tuple(scopes), fields=tuple(fields)) for topic in topics]


_OF_READS = "dispositions."
"""Fields of an order that no webhook has."""
_PRODUCT = ("id", "updated_at", "status", "variants.id", "variants.sku", "variants.inventory_item_id")

WANTED: tuple[Wanted, ...] = (
    *_wanted(
        ["read_orders"],
        ["orders/create", "orders/updated", "orders/cancelled"],
        [path for path in paths(Order) if not path.startswith(_OF_READS)],
    ),
    *_wanted(["read_orders"], ["orders/edited"], paths(OrderEdited)),
    *_wanted(["read_orders"], ["orders/delete"]),
    *_wanted(["read_orders"], ["refunds/create"], paths(Refund)),
    *_wanted(["read_returns"], RETURN_TOPICS),
    *_wanted(_FULFILLMENT_ORDERS, ROUTING_TOPICS),
    *_wanted(
        ["read_inventory"], [f"inventory_levels/{what}" for what in ("update", "connect", "disconnect")]
    ),
    *_wanted(
        ["read_inventory", "read_products"],
        [f"inventory_items/{what}" for what in ("create", "update", "delete")],
    ),
    *_wanted(["read_products"], ["products/create", "products/update"], _PRODUCT),
    *_wanted(["read_products"], ["products/delete"]),
    *_wanted(["read_locations"], [f"locations/{what}" for what in ("activate", "deactivate", "delete")]),
    *_wanted([], ["app/uninstalled"]),
)
"""Every topic that an agent of ours acts on. ``orders/paid``, ``orders/fulfilled`` and
``orders/partially_fulfilled`` tell nothing that ``orders/updated`` does not. Bodies of orders are cut down to
what our records declare, so that customer data never leaves Shopify; ``updated_at`` stays in, because Shopify
leaves out a webhook whose body is equal to the one before.
"""


class Subscription(Struct, frozen=True, kw_only=True):
    """A subscription as the shop has it."""

    id: str
    topic: str  # the name in Shopify's schema
    uri: str
    format: str = "JSON"
    filter: str | None = None
    include_fields: frozenset[str] = msgspec.field(name="includeFields", default=frozenset())  # none: all


class Difference(Struct, frozen=True, kw_only=True):
    """What is wrong about a topic; ``found`` is the subscription to change, None when there is none."""

    wanted: Wanted
    found: Subscription | None
    what: str


class NotSubscribed(Rejected):
    """The shop refuses a subscription; the message has its words."""


def uri_of(public_url: str) -> str:
    """Where webhooks go when the receiver is reached at a URL."""
    return public_url.rstrip("/") + PATH


def differences(found: Iterable[Subscription], uri: str | None) -> list[Difference]:
    """Every topic whose subscription is missing or not as it should be.

    Args:
        found: the shop's subscriptions.
        uri: where webhooks should go; None: anywhere will do.
    """
    of_topic: dict[str, list[Subscription]] = {}
    for one in found:
        of_topic.setdefault(one.topic, []).append(one)
    told = (_difference(wanted, of_topic.get(wanted.name, []), uri) for wanted in WANTED)
    return [one for one in told if one is not None]


def _difference(wanted: Wanted, found: Sequence[Subscription], uri: str | None) -> Difference | None:
    if not found:
        return Difference(wanted=wanted, found=None, what="no subscription")
    here = [one for one in found if uri is None or one.uri == uri]
    if not here:
        return Difference(wanted=wanted, found=found[0], what=f"goes to {found[0].uri} instead of {uri}")
    whats = [_flaw(wanted, one) for one in here]
    if "" in whats:
        return None
    return Difference(wanted=wanted, found=here[0], what=whats[0])


def _flaw(wanted: Wanted, found: Subscription) -> str:
    if found.format != "JSON":
        return f"its format is {found.format} instead of JSON"
    if found.filter:
        return f"it has the filter {found.filter!r}, which leaves webhooks out"
    if found.include_fields == frozenset(wanted.fields):
        return ""
    lacking = sorted(set(wanted.fields) - found.include_fields) if found.include_fields else []
    if lacking or not wanted.fields:
        return f"its bodies lack {', '.join(lacking) or 'fields'}"
    return "its bodies have more than is kept"


async def subscriptions(client: ShopClient) -> list[Subscription]:
    """The shop's subscriptions that were made through the API; those of an app's configuration are not told.

    Raises:
        Retry, Rejected: as ``ShopClient.call``.
    """
    found = [node async for node in client.nodes(documents.SUBSCRIPTIONS, "webhookSubscriptions")]
    return msgspec.convert(found, list[Subscription])


async def mend(client: ShopClient, difference: Difference, uri: str) -> None:
    """Make a subscription, or change the one that is there, to what we want.

    Raises:
        NotSubscribed: with the shop's words.
        Retry, Rejected: as ``ShopClient.call``.
    """
    wanted = difference.wanted
    body: Mapping[str, Any] = {
        "uri": uri,
        "format": "JSON",
        "filter": None,
        "includeFields": list(wanted.fields),
    }
    if difference.found is None:
        data = await client.call(documents.SUBSCRIBE, {"topic": wanted.name, "wanted": body})
        payload = data["webhookSubscriptionCreate"]
    else:
        data = await client.call(documents.CHANGE_SUBSCRIPTION, {"id": difference.found.id, "wanted": body})
        payload = data["webhookSubscriptionUpdate"]
    told = [error["message"] for error in payload["userErrors"]] if payload else ["no payload"]
    if any(TAKEN not in message for message in told):
        raise NotSubscribed(f"{client.shop.domain}: {wanted.topic}: {'; '.join(told)}")
