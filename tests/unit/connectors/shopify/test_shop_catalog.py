"""A shop's catalog, read from the simulator over real HTTP: whole, and item by item."""

from __future__ import annotations

from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest
from support.simulated import CAP, MAIN, STORE, TEE, Simulated, simulated

from app.records import ItemLevel
from connectors.shopify import catalog
from connectors.shopify.catalog import joined, open_orders, read_catalog, read_items
from connectors.shopify.client import ShopClient

pytestmark = pytest.mark.asyncio
GIFT = 5003


@pytest.fixture
async def shop() -> AsyncIterator[Simulated]:
    async with simulated() as running:
        gift = {"sku": "", "item": GIFT, "variant": 9003, "tracked": False, "available": {str(MAIN): 1}}
        await running.act("items", shop=running.shop.domain, items=[gift])
        yield running


@pytest.fixture
async def client(shop: Simulated) -> AsyncIterator[ShopClient]:
    made = ShopClient(shop.shop)
    yield made
    await made.close()


async def soon(seconds: float) -> None:
    """The simulator needs no pauses."""


async def test_the_whole_catalog_and_single_items_agree(shop: Simulated, client: ShopClient) -> None:
    await shop.sell((TEE, 4))
    await shop.act("edit", shop=shop.shop.domain, item=TEE, location=STORE, active=False)
    items = {item.item: item for item in await read_catalog(client, sleep=soon)}
    tee = items[TEE]
    assert (tee.sku, tee.tracked, tee.variants) == ("TEE", True, (9001,))
    assert tee.levels == (
        ItemLevel(location_id=MAIN, active=True, available=6, committed=4),
        ItemLevel(location_id=STORE, active=False, available=3),
    )
    assert [level.on_hand for level in items[CAP].levels] == [5]
    assert (items[GIFT].sku, items[GIFT].tracked) == ("", False)
    assert await read_items(client, [TEE, CAP, GIFT, 999]) == {**items, 999: None}


async def test_an_item_with_more_levels_than_a_call_takes(
    shop: Simulated, client: ShopClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "LEVELS_A_CALL", 1)
    monkeypatch.setattr(catalog, "LEVELS_A_PAGE", 1)
    monkeypatch.setattr(catalog, "ITEMS_A_CALL", 1)
    found = await read_items(client, [TEE, CAP])
    assert found[TEE] is not None
    assert found[CAP] is not None
    assert {level.location_id for level in found[TEE].levels} == {MAIN, STORE}
    assert {level.location_id for level in found[CAP].levels} == {MAIN}


async def test_open_orders_are_those_that_have_not_all_shipped(shop: Simulated, client: ShopClient) -> None:
    sold = [await shop.sell((TEE, 1)) for _ in range(4)]
    kept, shipped, partly, cancelled = (order["id"] for order in sold)
    act: dict[str, Any] = {"shop": shop.shop.domain}
    await shop.act("fulfil", **act, order=shipped)
    await shop.act("cancel", **act, order=cancelled, restock=True)
    two = await shop.sell((CAP, 2))
    await shop.act("fulfil", **act, order=two["id"], lines={two["line_items"][0]["id"]: 1})
    assert set(await open_orders(client, sleep=soon)) == {kept, partly, two["id"]}


async def test_rows_may_come_in_any_order() -> None:
    def level(item: int, location: int, units: int) -> dict[str, Any]:
        return {
            "id": f"gid://shopify/InventoryLevel/{item}{location}?inventory_item_id={item}",
            "__parentId": f"gid://shopify/InventoryItem/{item}",
            "isActive": True,
            "location": {"id": f"gid://shopify/Location/{location}", "isActive": location != 3},
            "quantities": [{"name": "available", "quantity": units}],
        }

    rows: list[dict[str, Any]] = []
    for item in range(1, 30):
        gid = f"gid://shopify/InventoryItem/{item}"
        rows.append({"id": gid, "sku": None, "tracked": True})
        rows.append({"id": f"gid://shopify/ProductVariant/{item + 100}", "__parentId": gid})
        rows += [level(item, location, item * location) for location in (1, 2, 3)]

    async def streamed(order: list[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
        for row in order:
            yield row

    straight = await joined(streamed(rows))
    shuffled = await joined(streamed(Random(1).sample(rows, len(rows))))
    assert sorted(shuffled, key=lambda item: item.item) == straight
    assert straight[4].levels[2] == ItemLevel(location_id=3, active=False, available=15)
