"""What a shop has of its items: everything by a bulk operation, or a few levels by their items.

Facts: shopify.dev ``InventoryLevel`` (``isActive`` since 2026-04), ``InventoryQuantity.updatedAt`` (null for
some names), "Perform bulk operations with the GraphQL Admin API".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import datetime
from typing import Any

from app.records import ShopLevel, listing_key
from connectors.shopify import bulk, documents
from connectors.shopify.client import ShopClient

LEVELS_A_READ = 80
"""Of one location: see ``budget.READ_COSTS``."""


async def all_levels(client: ShopClient) -> AsyncIterator[tuple[str, ShopLevel]]:
    """Every level of a shop by its listing's key, one at a time; each is of its own moment.

    Raises:
        Retry: the bulk operation did not come to its end; what was given is a part.
        Rejected: the shop does not run it, or its file is not what it should be.
    """
    async for row in bulk.run(client, documents.BULK_LEVELS):
        if "quantities" in row:
            item, location_id = bulk.gid_number(row["item"]["id"]), bulk.gid_number(row["location"]["id"])
            yield listing_key(client.shop.domain, item, location_id), _level(row, row["item"]["tracked"])


async def read_levels(client: ShopClient, listings: Iterable[str]) -> dict[str, ShopLevel | None]:
    """The levels of listings of this shop by key, now; None: there is no such level.

    Raises:
        Retry, Rejected: as ``ShopClient.read``.
    """
    by_location: dict[str, list[str]] = defaultdict(list)
    for listing in listings:
        by_location[listing.rpartition("/")[2]].append(listing)
    found: dict[str, ShopLevel | None] = {}
    for location_id, wanted in by_location.items():
        for start in range(0, len(wanted), LEVELS_A_READ):
            part = wanted[start : start + LEVELS_A_READ]
            variables = {
                "items": [f"gid://shopify/InventoryItem/{listing.split('/')[-2]}" for listing in part],
                "location": f"gid://shopify/Location/{location_id}",
            }
            data = await client.read(documents.LEVEL_STATES, variables, size=len(part))
            found.update(zip(part, map(_of_item, data["nodes"]), strict=True))
    return found


def _of_item(node: Mapping[str, Any] | None) -> ShopLevel | None:
    if not node or not node["inventoryLevel"]:
        return None
    return _level(node["inventoryLevel"], node["tracked"])


def _level(told: Mapping[str, Any], tracked: bool) -> ShopLevel:
    quantities = {one["name"]: one for one in told["quantities"]}
    changed_at = quantities["available"]["updatedAt"] or told["updatedAt"]
    return ShopLevel(
        available=quantities["available"]["quantity"],
        committed=quantities["committed"]["quantity"],
        active=told["isActive"],
        tracked=tracked,
        changed_ms=int(datetime.fromisoformat(changed_at).timestamp() * 1000),
    )
