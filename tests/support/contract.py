"""A store that contract tests ask: the simulator, or a development store at Shopify.

The live one is only asked by ``make live-test``, and only when its variables are set. Its two items are moved
by a few units and put back.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
from msgspec import Struct

from app.shops import Shop
from connectors.shopify import documents
from connectors.shopify.auth import Tokens
from connectors.shopify.client import ShopClient
from support.simulated import CAP, MAIN, TEE, simulated

LIMIT_S = 60.0
REQUIRED = ("LIVE_TEST_SHOP", "LIVE_TEST_LOCATION", "LIVE_TEST_ITEMS")
SECRETS = (("LIVE_TEST_TOKEN",), ("LIVE_TEST_CLIENT_ID", "LIVE_TEST_CLIENT_SECRET"))
UNTRACKED = "LIVE_TEST_UNTRACKED_ITEM"

SET = """
mutation Set($key: String!, $input: InventorySetQuantitiesInput!) {
  inventorySetQuantities(input: $input) @idempotent(key: $key) {
    inventoryAdjustmentGroup { id changes { name delta quantityAfterChange item { id } location { id } } }
    userErrors { code field message }
  }
}
"""
ADJUST = """
mutation Adjust($key: String!, $input: InventoryAdjustQuantitiesInput!) {
  inventoryAdjustQuantities(input: $input) @idempotent(key: $key) {
    inventoryAdjustmentGroup { id changes { name delta } }
    userErrors { code field message }
  }
}
"""
LEVEL = """
query Level($item: ID!, $location: ID!) {
  inventoryItem(id: $item) {
    id tracked
    inventoryLevel(locationId: $location, includeInactive: true) {
      id isActive quantities(names: ["available", "on_hand", "committed"]) { name quantity }
    }
  }
}
"""


class Answer(Struct, frozen=True, kw_only=True):
    """One HTTP answer of the Admin API."""

    status: int
    headers: Mapping[str, str]
    body: dict[str, Any]

    @property
    def error_codes(self) -> list[str]:
        """Of the top-level errors."""
        return [str((one.get("extensions") or {}).get("code")) for one in self.body.get("errors") or ()]

    def payload(self, mutation: str) -> dict[str, Any]:
        """What a mutation answered."""
        assert "errors" not in self.body, self.body
        answered: dict[str, Any] = self.body["data"][mutation]
        return answered


class Store:
    """One store: two tracked items at a location, and the raw API."""

    def __init__(
        self,
        kind: str,
        shop: Shop,
        session: aiohttp.ClientSession,
        *,
        items: tuple[int, int],
        location: int,
        untracked: int | None,
        findings: dict[tuple[str, str], str],
        make_scarce: Callable[[], Awaitable[object]],
    ) -> None:
        self.kind = kind
        self.make_scarce = make_scarce  # leave little in the bucket, where that can be asked for
        self.shop = shop
        self.items = items
        self.location = location
        self.untracked = untracked
        self.client = ShopClient(shop, limit_s=LIMIT_S)
        self._session = session
        self._tokens = Tokens(shop)
        self._findings = findings

    def note(self, point: str, finding: str) -> None:
        """Something that no document tells: for the report."""
        self._findings[point, self.kind] = finding

    async def ask(self, document: str, **variables: Any) -> Answer:
        """One request, whatever becomes of it."""
        url = f"{self.shop.api_url}/admin/api/{documents.API_VERSION}/graphql.json"
        headers = {"X-Shopify-Access-Token": await self._tokens.current()}
        payload = {"query": document, "variables": variables}
        async with self._session.post(url, json=payload, headers=headers) as response:
            return Answer(status=response.status, headers=dict(response.headers), body=await response.json())

    async def adjust(self, *changes: tuple[int, int], key: str | None = None) -> Answer:
        """Add (item, delta) to available."""
        rows = [
            {**self._listing(item), "delta": delta, "changeFromQuantity": None} for item, delta in changes
        ]
        given = {"name": "available", "reason": "correction", "changes": rows}
        return await self.ask(ADJUST, key=key or str(uuid4()), input=given)

    async def set(
        self, *entries: tuple[int, int, int | None], name: str = "available", key: str | None = None
    ) -> Answer:
        """Set (item, quantity, the quantity before, or None for any)."""
        rows = [
            {**self._listing(item), "quantity": quantity, "changeFromQuantity": before}
            for item, quantity, before in entries
        ]
        given = {"name": name, "reason": "correction", "quantities": rows}
        return await self.ask(SET, key=key or str(uuid4()), input=given)

    async def level(self, item: int) -> dict[str, int]:
        """The quantities of an item at the location."""
        listing = self._listing(item)
        answer = await self.ask(LEVEL, item=listing["inventoryItemId"], location=listing["locationId"])
        quantities = answer.payload("inventoryItem")["inventoryLevel"]["quantities"]
        return {one["name"]: one["quantity"] for one in quantities}

    async def available(self) -> list[int]:
        """What both items show."""
        return [(await self.level(item))["available"] for item in self.items]

    def _listing(self, item: int) -> dict[str, str]:
        return {
            "inventoryItemId": f"gid://shopify/InventoryItem/{item}",
            "locationId": f"gid://shopify/Location/{self.location}",
        }


@asynccontextmanager
async def simulated_store(findings: dict[tuple[str, str], str]) -> AsyncIterator[Store]:
    """The simulator, fresh."""
    async with simulated() as running, aiohttp.ClientSession() as session:
        shop, untracked = running.shop, 5_003
        item = {"sku": "CARD", "item": untracked, "tracked": False, "available": {str(MAIN): 1}}
        await running.act("items", shop=shop.domain, items=[item])
        store = Store(
            "simulator", shop, session, items=(TEE, CAP), location=MAIN, untracked=untracked,
            findings=findings,
            make_scarce=partial(
                running.act, "shops", domain=shop.domain, bucket_capacity=310.0, restore_rate=1.0
            ),
        )  # fmt: skip
        yield store
        await store.client.close()


@asynccontextmanager
async def live_store(findings: dict[tuple[str, str], str]) -> AsyncIterator[Store]:
    """The development store that the environment names; what it showed before is put back."""
    shop, items = live_shop(os.environ)
    untracked = os.environ.get(UNTRACKED)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=LIMIT_S)) as session:
        store = Store(
            "live", shop, session, items=items, location=shop.default_location_id,
            untracked=int(untracked) if untracked else None, findings=findings,
            make_scarce=partial(asyncio.sleep, 0),
        )  # fmt: skip
        before = await store.available()
        try:
            yield store
        finally:
            now = await store.available()
            moved = zip(items, before, now, strict=True)
            await store.adjust(*((item, was - is_now) for item, was, is_now in moved))
            await store.client.close()


def live_shop(environment: Mapping[str, str]) -> tuple[Shop, tuple[int, int]]:
    """The store and its two items; skips the test, naming the variables, when they are not set."""
    missing = [name for name in REQUIRED if not environment.get(name)]
    if not any(all(environment.get(name) for name in names) for names in SECRETS):
        missing.append(" or ".join(" and ".join(names) for names in SECRETS))
    if missing:
        pytest.skip(f"no development store: set {', '.join(missing)} (docs/live-test.md)")
    domain = environment["LIVE_TEST_SHOP"]
    first, second = (int(item) for item in environment["LIVE_TEST_ITEMS"].split(","))
    shop = Shop(
        domain=domain,
        api_url=f"https://{domain}",
        access_token=environment.get("LIVE_TEST_TOKEN", ""),
        client_id=environment.get("LIVE_TEST_CLIENT_ID", ""),
        client_secret=environment.get("LIVE_TEST_CLIENT_SECRET", ""),
        webhook_secrets=(),
        default_location_id=int(environment["LIVE_TEST_LOCATION"]),
    )
    return shop, (first, second)


async def at_once(store: Store, times: int, document: str, **variables: Any) -> list[Answer]:
    """The same request many times in parallel."""
    return await asyncio.gather(*(store.ask(document, **variables) for _ in range(times)))
