"""Which orders of a shop have changed since an instant: ids, times and stages, a page at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import msgspec

from app.records import Envelope, OrderNotice, encode
from connectors.shopify import documents
from connectors.shopify.client import ShopClient

PAGE = 50
"""Orders of one call: it asks for about twice as many points, a tenth of what a single query may cost."""
SEEN_TOPIC = "orders/seen"
"""The topic of an envelope that says no more than that an order had changed by then; not one of Shopify's."""
READ_TOPIC = "orders/read"
"""The topic of an envelope with an order as it was read, in the shape of its webhook; ours as well."""


async def changed_orders(client: ShopClient, since: datetime) -> AsyncIterator[list[OrderNotice]]:
    """Pages of the orders that were updated at or after ``since``, the earliest change first.

    An order may be on two pages. Each page asks anew from the last instant of the one before: a long list
    has no cursor that grows old, and stays within the 25 000 objects that Shopify lets one page through.
    Only when all of a page are of one instant, the cursor leads on.

    Raises:
        Retry, Rejected: as ``ShopClient.read``.
    """
    after: str | None = None
    while True:
        wanted = {"query": f"updated_at:>='{_utc(since)}'", "first": PAGE, "after": after}
        connection = (await client.read(documents.CHANGED_ORDERS, wanted))["orders"]
        page = [_notice(node) for node in connection["nodes"]]
        yield page
        if not page or not connection["pageInfo"]["hasNextPage"]:
            return
        last = page[-1].updated_at
        after = connection["pageInfo"]["endCursor"] if last <= since else None
        since = max(since, last)


def envelope_of(shop: str, notice: OrderNotice, now: datetime) -> Envelope:
    """The record of ``shopify.orders`` that tells the orders service; the same change has the same ids."""
    name = f"seen:{notice.id}:{_utc(notice.updated_at)}"
    return Envelope(
        shop=shop,
        topic=SEEN_TOPIC,
        webhook_id=name,
        event_id=name,
        received_at=now,
        api_version=documents.API_VERSION,
        order_id=notice.id,
        body=msgspec.Raw(encode(notice)),
    )


def _utc(instant: datetime) -> str:
    """As Shopify writes it; its clock has seconds."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _notice(node: Any) -> OrderNotice:
    fields = {
        "id": int(node["legacyResourceId"]),
        "updated_at": node["updatedAt"],
        "created_at": node["createdAt"],
        "cancelled_at": node["cancelledAt"],
        "fulfillment_status": node["displayFulfillmentStatus"],
        "units": node["currentSubtotalLineItemsQuantity"],
        "fulfillments": count["count"] if (count := node["fulfillmentsCount"]) is not None else None,
    }
    return msgspec.convert(fields, OrderNotice)
