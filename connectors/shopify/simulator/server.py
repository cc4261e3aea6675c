"""The simulator over HTTP: the Admin GraphQL endpoint of each shop, and the admin API beside it.

A shop's base URL is ``http://HOST:PORT/{domain}``; its endpoint has Shopify's path below that.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Mapping
from random import Random
from typing import Any

import msgspec
import structlog
from aiohttp import web
from msgspec import Struct

from app.errors import Misconfigured
from app.shops import Shop
from connectors.shopify.simulator.admin import Admin
from connectors.shopify.simulator.delivery import MAX_TRIES, RETRY_SCALE, Delivery, Sleep
from connectors.shopify.simulator.faults import FaultKind, Faults
from connectors.shopify.simulator.graphql import API_VERSION, Answer, Api, Refusal
from connectors.shopify.simulator.model import ShopConfig
from connectors.shopify.simulator.world import ShopState, World

log = structlog.get_logger(__name__)

MAX_BODY_BYTES = 8 * 1024 * 1024
"""A set-up call with ten thousand items fits; a GraphQL call of 250 entries is a hundredth of it."""

RETRY_AFTER_S = "2.0"
UNAUTHORIZED = "[API] Invalid API key or access token (unrecognized login or wrong password)"


class GraphQLBody(Struct, frozen=True, kw_only=True):
    """The body of a GraphQL request."""

    query: str
    variables: dict[str, Any] | None = None
    operationName: str | None = None  # noqa: N815  # the name on the wire


class Endpoint:
    """The Admin GraphQL endpoint of all shops."""

    def __init__(self, world: World, api: Api, faults: Faults, delivery: Delivery, sleep: Sleep) -> None:
        self._world = world
        self._api = api
        self._faults = faults
        self._delivery = delivery
        self._sleep = sleep
        self._decoder = msgspec.json.Decoder(GraphQLBody)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request, with the faults that strike it."""
        shop = self._world.shops.get(request.match_info["shop"])
        if shop is None:
            return _answer({"errors": "Not Found"}, status=404)
        if request.headers.get("X-Shopify-Access-Token") != shop.config.access_token:
            return _answer({"errors": UNAUTHORIZED}, status=401)
        try:
            body = self._decoder.decode(await request.read())
        except msgspec.DecodeError:
            return _answer({"errors": {"query": "Required parameter missing or invalid"}}, status=400)
        return await self._served(request, shop, body)

    async def _served(self, request: web.Request, shop: ShopState, body: GraphQLBody) -> web.StreamResponse:
        fault = self._faults.strike()
        call = self._api.admit(shop, body.query, body.variables or {}, body.operationName)
        if isinstance(call, Refusal):
            return _answer(call.answer)
        try:
            if self._faults.settings.latency_ms:
                await self._sleep(self._faults.settings.latency_ms / 1000)
            refused = self._before(fault, shop)
            if refused is not None:
                return refused
            answer, webhooks = self._api.execute(call)
        finally:
            self._api.release(call)
        self._delivery.submit(webhooks)
        return self._after(fault, request, answer)

    def _before(self, fault: FaultKind | None, shop: ShopState) -> web.Response | None:
        if fault is FaultKind.ERROR_BEFORE:
            return _answer({"errors": "Internal Server Error"}, status=500)
        if fault is FaultKind.HTTP_429:
            response = _answer({"errors": "Too Many Requests"}, status=429)
            response.headers["Retry-After"] = RETRY_AFTER_S
            return response
        if fault is FaultKind.THROTTLED:
            return _answer(self._api.throttled(shop, 10))
        return None

    def _after(self, fault: FaultKind | None, request: web.Request, answer: Answer) -> web.Response:
        if fault is FaultKind.ERROR_AFTER:
            return _answer({"errors": "Service Unavailable"}, status=503)
        if fault is FaultKind.DROP_CONNECTION and request.transport is not None:
            request.transport.close()
        return _answer(answer)


def make_app(
    world: World,
    *,
    retry_scale: float = RETRY_SCALE,
    max_tries: int = MAX_TRIES,
    sleep: Sleep = asyncio.sleep,
) -> web.Application:
    """The application that shows a world.

    Args:
        world: its shops; more can be added through the admin API.
        retry_scale: seconds of webhook backoff for each of Shopify's; see ``RETRY_SCALE``.
        max_tries: deliveries of one webhook before it is given up.
        sleep: waits for latency, lateness and backoff.
    """
    faults = Faults(world.random)
    delivery = Delivery(world, faults, retry_scale=retry_scale, max_tries=max_tries, sleep=sleep)
    api = Api(world)
    endpoint = Endpoint(world, api, faults, delivery, sleep)

    async def sending(app: web.Application) -> AsyncIterator[None]:
        await delivery.open()
        yield
        await delivery.close()

    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app.cleanup_ctx.append(sending)
    app.add_routes(Admin(world, api, faults, delivery).routes())
    app.router.add_post("/{shop}/admin/api/{version}/graphql.json", endpoint.handle)
    return app


async def serve(
    host: str,
    port: int,
    *,
    seed: int,
    webhook_url: str,
    shops: Mapping[str, Shop],
    retry_scale: float = RETRY_SCALE,
) -> None:
    """Run the simulator until SIGTERM or SIGINT. Items and more locations come through the admin API.

    Raises:
        Misconfigured: naming a shop without a webhook secret.
        OSError: when the port is taken.
    """
    world = World(clock=time.time, monotonic=time.monotonic, random=Random(seed))
    for shop in shops.values():
        world.add_shop(shop_config(shop, webhook_url))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    runner = web.AppRunner(make_app(world, retry_scale=retry_scale))
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        log.info("simulator started", host=host, port=port, shops=sorted(world.shops))
        await stop.wait()
    finally:
        await runner.cleanup()


def shop_config(shop: Shop, webhook_url: str) -> ShopConfig:
    """The simulated side of a configured shop; webhooks are signed with the first of its secrets."""
    if not shop.webhook_secrets:
        raise Misconfigured(f"shop {shop.domain}: needs a webhook secret to be simulated")
    return ShopConfig(
        domain=shop.domain,
        access_token=shop.access_token,
        webhook_secret=shop.webhook_secrets[0],
        webhook_url=webhook_url,
        default_location_id=shop.default_location_id,
    )


def _answer(body: Any, status: int = 200) -> web.Response:
    """A JSON answer; the header names the version that served it, whatever was asked for (facts 0)."""
    return web.Response(
        body=msgspec.json.encode(body),
        status=status,
        content_type="application/json",
        charset="utf-8",
        headers={"X-Shopify-API-Version": API_VERSION},
    )
