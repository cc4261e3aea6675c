"""A shop's catalog as ``app.records.ShopItem``: whole by a bulk operation, or a few items by calls."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from app.records import ItemLevel, ShopItem
from connectors.shopify import bulk, documents
from connectors.shopify.bulk import Sleep, gid_kind, gid_number
from connectors.shopify.client import ShopClient

ITEMS_A_CALL = 5
LEVELS_A_CALL = 15
LEVELS_A_PAGE = 50
"""Items of a call, levels of each, and levels of a call about one: see ``budget.READ_COSTS``."""
SHIPPED = "FULFILLED"
"""``displayFulfillmentStatus`` of an order that holds no units any more."""


async def read_catalog(client: ShopClient, *, sleep: Sleep = asyncio.sleep) -> list[ShopItem]:
    """All inventory items of a shop with their levels; raises as ``bulk.run`` does.

    Each level is of some instant while the operation ran.
    """
    rows = bulk.run(client, documents.CATALOG_BULK, sleep=sleep)
    return await joined(rows)


async def item_ids(client: ShopClient, *, sleep: Sleep = asyncio.sleep) -> set[int]:
    """All inventory items that a shop has; raises as ``bulk.run`` does."""
    return {gid_number(row["id"]) async for row in bulk.run(client, documents.ITEM_IDS_BULK, sleep=sleep)}


async def joined(rows: AsyncIterator[bulk.Row]) -> list[ShopItem]:
    """The items that the rows of ``CATALOG_BULK`` tell, in whatever order the rows come."""
    items: dict[int, bulk.Row] = {}
    variants: dict[int, list[int]] = defaultdict(list)
    levels: dict[int, list[ItemLevel]] = defaultdict(list)
    async for row in rows:
        kind, parent = gid_kind(row["id"]), row.get("__parentId")
        if parent is None:
            items[gid_number(row["id"])] = row
        elif kind == "InventoryLevel":
            levels[gid_number(parent)].append(_level(row))
        elif kind == "ProductVariant":
            variants[gid_number(parent)].append(gid_number(row["id"]))
    return [_item(row, variants[number], levels[number]) for number, row in items.items()]


async def read_items(client: ShopClient, items: Iterable[int]) -> dict[int, ShopItem | None]:
    """Some items as they are now; None where the shop has no such item. Raises as ``ShopClient.read``."""
    wanted = list(dict.fromkeys(items))
    found: dict[int, ShopItem | None] = {}
    for start in range(0, len(wanted), ITEMS_A_CALL):
        part = wanted[start : start + ITEMS_A_CALL]
        variables = {"items": [_item_gid(number) for number in part], "levels": LEVELS_A_CALL}
        data = await client.read(documents.ITEMS, variables, size=len(part))
        for number, node in zip(part, data["nodes"], strict=True):
            found[number] = await _whole(client, node) if node else None
    return found


async def open_orders(client: ShopClient, *, sleep: Sleep = asyncio.sleep) -> list[int]:
    """The ids of the orders that may hold units; raises as ``bulk.run`` does."""
    rows = bulk.run(client, documents.OPEN_ORDERS_BULK, sleep=sleep)
    return [gid_number(row["id"]) async for row in rows if row["displayFulfillmentStatus"] != SHIPPED]


async def _whole(client: ShopClient, node: Mapping[str, Any]) -> ShopItem:
    """An item with the levels that did not fit into its call."""
    page = node["inventoryLevels"]
    levels = [_level(each) for each in page["nodes"]]
    while page["pageInfo"]["hasNextPage"]:
        after = page["pageInfo"]["endCursor"]
        variables = {"item": node["id"], "first": LEVELS_A_PAGE, "after": after}
        item = (await client.read(documents.ITEM_LEVELS, variables))["inventoryItem"]
        if item is None:  # deleted meanwhile
            break
        page = item["inventoryLevels"]
        levels += [_level(each) for each in page["nodes"]]
    variants = [gid_number(each["id"]) for each in (node["variants"] or {"nodes": []})["nodes"]]
    return _item(node, variants, levels)


def _item(node: Mapping[str, Any], variants: Iterable[int], levels: Iterable[ItemLevel]) -> ShopItem:
    return ShopItem(
        item=gid_number(node["id"]),
        sku=node["sku"] or "",
        tracked=node["tracked"],
        variants=tuple(sorted(variants)),
        levels=tuple(sorted(levels, key=lambda level: level.location_id)),
    )


def _level(node: Mapping[str, Any]) -> ItemLevel:
    location = node["location"]
    return ItemLevel(
        location_id=gid_number(location["id"]),
        active=node["isActive"] and location["isActive"],
        **{each["name"]: each["quantity"] for each in node["quantities"]},
    )


def _item_gid(item: int) -> str:
    return f"gid://shopify/InventoryItem/{item}"
