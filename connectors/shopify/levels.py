"""What a shop has of its items: everything by a bulk operation, or a few levels by their items.

Facts: shopify.dev ``InventoryLevel`` (``isActive`` since 2026-04), ``InventoryQuantity.updatedAt`` (null for
some names), "Perform bulk operations with the GraphQL Admin API".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable

from app.records import LevelRead, listing_key, listing_parts
from connectors.shopify import bulk, documents
from connectors.shopify.client import ShopClient, level_read


async def all_levels(client: ShopClient) -> AsyncIterator[tuple[str, LevelRead]]:
    """Every level of a shop by its listing's key, one at a time; each is of its own moment.

    Raises:
        Retry: the bulk operation did not come to its end; what was given is a part.
        Rejected: the shop does not run it, or its file is not what it should be.
    """
    async for row in bulk.run(client, documents.BULK_LEVELS):
        if "quantities" in row:
            item, location_id = bulk.gid_number(row["item"]["id"]), bulk.gid_number(row["location"]["id"])
            listing = listing_key(client.shop.domain, item, location_id)
            yield listing, level_read(row, tracked=row["item"]["tracked"])


async def read_levels(client: ShopClient, listings: Iterable[str]) -> dict[str, LevelRead | None]:
    """The levels of listings of this shop by key, now; None: the shop has no such item.

    Raises:
        Retry, Rejected: as ``ShopClient.read``.
    """
    by_location: dict[int, dict[int, str]] = defaultdict(dict)
    for listing in listings:
        _, item, location_id = listing_parts(listing)
        by_location[location_id][item] = listing
    found: dict[str, LevelRead | None] = {}
    for location_id, items in by_location.items():
        read = await client.levels(location_id, items)
        found.update((items[item], level) for item, level in read.items())
    return found
