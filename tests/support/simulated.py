"""The Shopify simulator in the test's own loop, over real HTTP."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any, Literal, NamedTuple

import aiohttp
from aiohttp import web
from msgspec.structs import replace

from app.local_kafka import free_port
from app.shops import Shop
from connectors.shopify.simulator.delivery import RETRY_SCALE
from connectors.shopify.simulator.server import make_app, shop_config
from connectors.shopify.simulator.world import World

MAIN, STORE = 71, 72
TEE, CAP = 5001, 5002


class Answer(NamedTuple):
    """What came back."""

    status: int
    body: Any
    headers: dict[str, str]


class Simulated:
    """A running simulator with one shop, and its admin API."""

    def __init__(self, shop: Shop, url: str, session: aiohttp.ClientSession) -> None:
        self.shop = shop
        self._url = url
        self._session = session

    async def act(self, name: str, **body: Any) -> Any:
        """POST to the admin API; fails on anything but 200."""
        async with self._session.post(f"{self._url}/_admin/{name}", json=body) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def see(self, name: str, **query: str) -> Any:
        """GET from the admin API."""
        async with self._session.get(f"{self._url}/_admin/{name}", params=query) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def post(
        self, document: str, variables: Any = None, *, token: str | None = None, version: str = "2026-10"
    ) -> Answer:
        """A call of the Admin API, whatever comes of it."""
        url = f"{self.shop.api_url}/admin/api/{version}/graphql.json"
        headers = {"X-Shopify-Access-Token": self.shop.access_token if token is None else token}
        body = {"query": document, "variables": variables or {}}
        async with self._session.post(url, json=body, headers=headers) as answer:
            return Answer(answer.status, await answer.json(), dict(answer.headers))

    async def ask(self, document: str, variables: Any = None) -> Any:
        """The data of a call that works."""
        answer = await self.post(document, variables)
        assert answer.status == 200, answer
        assert "errors" not in answer.body, answer
        return answer.body["data"]

    async def grant(self, **form: str) -> Answer:
        """A request for a token."""
        url = f"{self.shop.api_url}/admin/oauth/access_token"
        async with self._session.post(url, data=form) as answer:
            return Answer(answer.status, await answer.json(), dict(answer.headers))

    async def lines(self, url: str) -> list[Any]:
        """The rows of a bulk operation's file."""
        async with self._session.get(url) as answer:
            assert answer.status == 200, await answer.text()
            return [json.loads(line) for line in (await answer.text()).splitlines()]

    async def log(self, *kinds: str) -> list[Any]:
        """The log's entries of some kinds."""
        return (await self.see("log", kind=",".join(kinds)))["entries"]

    async def sell(self, *lines: tuple[int, int]) -> Any:
        """Sell (item, quantity) lines; the order as its webhook has it."""
        wanted = [{"item": item, "quantity": quantity} for item, quantity in lines]
        return (await self.act("sell", shop=self.shop.domain, lines=wanted))["order"]

    async def available(self, item: int, location: int = MAIN) -> int:
        """What the shop shows."""
        rows = (await self.see("stock"))["levels"]
        return next(row["available"] for row in rows if (row["item"], row["location"]) == (item, location))

    async def pushes(self) -> list[Any]:
        """The log's entries of writes through the API."""
        return [entry for entry in (await self.see("log"))["entries"] if entry["kind"] == "pushed"]


@asynccontextmanager
async def simulated(
    domain: str = "sim.myshopify.com",
    webhook_url: str = "http://127.0.0.1:9/none",
    *,
    subscribed: Literal["api", "app", "none"] = "api",
    retry_scale: float = RETRY_SCALE,
) -> AsyncIterator[Simulated]:
    """A simulator with one shop: a tee (10 in MAIN, 3 in STORE) and a cap (5 in MAIN).

    It has an access token that stays, and gives others to the app ``example-app``.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    shop = Shop(
        domain=domain,
        api_url=f"{url}/{domain}",
        access_token="example-token",
        webhook_secrets=("example-secret",),
        default_location_id=MAIN,
    )
    world = World(clock=time.time, monotonic=time.monotonic, random=Random(7))
    config = replace(shop_config(shop, webhook_url), subscribed=subscribed)
    world.add_shop(replace(config, client_id="example-app", client_secret="example-app-secret"))
    world.add_location(domain, STORE, "Store")
    world.add_item(domain, "TEE", item_id=TEE, variant_id=9001, available={MAIN: 10, STORE: 3})
    world.add_item(domain, "CAP", item_id=CAP, variant_id=9002, available={MAIN: 5})
    runner = web.AppRunner(make_app(world, retry_scale=retry_scale))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        async with aiohttp.ClientSession() as session:
            yield Simulated(shop, url, session)
    finally:
        await runner.cleanup()
