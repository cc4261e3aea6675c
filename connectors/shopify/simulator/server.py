"""The simulator over HTTP: the Admin GraphQL endpoint of each shop, and the admin API beside it.

A shop's base URL is ``http://HOST:PORT/{domain}``; its endpoint has Shopify's path below that.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import time
from collections.abc import AsyncIterator, Mapping
from email.utils import formatdate
from functools import partial
from random import Random
from typing import Any

import msgspec
import structlog
from aiohttp import web
from msgspec import Struct
from msgspec.structs import replace

from app.errors import Misconfigured
from app.shops import Shop
from connectors.shopify.simulator.admin import Admin
from connectors.shopify.simulator.behaviour import API_VERSION
from connectors.shopify.simulator.bulk import BulkOperations
from connectors.shopify.simulator.delivery import MAX_TRIES, RETRY_SCALE, Delivery, Sleep
from connectors.shopify.simulator.faults import FaultKind, Faults
from connectors.shopify.simulator.graphql import Answer, Api, Refusal, load_schema, roots
from connectors.shopify.simulator.model import LogKind, ShopConfig
from connectors.shopify.simulator.tokens import Tokens
from connectors.shopify.simulator.world import ShopState, World

log = structlog.get_logger(__name__)

MAX_BODY_BYTES = 8 * 1024 * 1024
"""A set-up call with ten thousand items fits; a GraphQL call of 250 entries is a hundredth of it."""

RETRY_AFTER_S = "2.0"
LINES_A_WRITE = 1000
HOLD_STEP_S = 0.25
"""How soon it is noticed that a caller who is kept waiting has gone."""

CLOSED = {
    402: "Unavailable Shop",
    403: "[API] This action requires merchant approval.",
    404: "Not Found",
    423: "Unavailable Shop",
}
"""Bodies of a shop that is not open; the statuses are documented, the words are not (facts 4)."""

INTERNAL = {
    "errors": [
        {
            "message": "Internal error. Looks like something went wrong on our end.",
            "extensions": {"code": "INTERNAL_SERVER_ERROR"},
        }
    ]
}
UNAUTHORIZED = "[API] Invalid API key or access token (unrecognized login or wrong password)"


class GraphQLBody(Struct, frozen=True, kw_only=True):
    """The body of a GraphQL request."""

    query: str
    variables: dict[str, Any] | None = None
    operationName: str | None = None  # noqa: N815  # the name on the wire


class Endpoint:
    """The Admin GraphQL endpoint of all shops, with their tokens and files."""

    def __init__(
        self, world: World, api: Api, bulk: BulkOperations, faults: Faults, delivery: Delivery, sleep: Sleep
    ) -> None:
        self._world = world
        self._api = api
        self._bulk = bulk
        self._faults = faults
        self._delivery = delivery
        self._sleep = sleep
        self.tokens = Tokens(world)
        self._decoder = msgspec.json.Decoder(GraphQLBody)

    def routes(self) -> list[web.RouteDef]:
        """Everything under ``/{shop}``."""
        return [
            web.post("/{shop}/admin/api/{version}/graphql.json", self.handle),
            web.post("/{shop}/admin/oauth/access_token", self.grant),
            web.get(r"/{shop}/_bulk/{operation:\d+}.jsonl", self.bulk_file),
        ]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request, with the faults that strike it, and log it."""
        shop = self._world.shops.get(request.match_info["shop"])
        if shop is None:
            return _answer({"errors": "Not Found"}, status=404)
        told = Told()
        response = await self._answered(request, shop, told)
        self._world.record(
            LogKind.REQUEST,
            shop,
            key=told.key,
            detail=told.field,
            result=told.result or str(response.status),
            fault=told.fault or "",
        )
        version = shop.behaviour.version(request.match_info["version"])
        response.headers["X-Shopify-API-Version"] = version or API_VERSION
        response.headers["Date"] = formatdate(self._world.clock() + shop.behaviour.clock_skew_s, usegmt=True)
        return response

    async def grant(self, request: web.Request) -> web.StreamResponse:
        """Issue a token (client-credentials grant); the body is a form."""
        shop = self._world.shops.get(request.match_info["shop"])
        if shop is None:
            return _answer({"errors": "Not Found"}, status=404)
        closed = self._closed(shop)
        if closed is not None:
            return closed
        form = {name: str(value) for name, value in (await request.post()).items()}
        status, body = self.tokens.grant(shop, form)
        self._world.record(LogKind.REQUEST, shop, detail="access_token", result=str(status))
        return _answer(body, status)

    async def bulk_file(self, request: web.Request) -> web.StreamResponse:
        """The lines of a bulk operation; whoever knows the URL may have them, as with Shopify's."""
        shop = self._world.shops.get(request.match_info["shop"])
        lines = None if shop is None else self._bulk.file(shop, int(request.match_info["operation"]))
        if lines is None:
            return _answer({"errors": "Not Found"}, status=404)
        response = web.StreamResponse(headers={"Content-Type": "application/jsonl"})
        await response.prepare(request)
        for start in range(0, len(lines), LINES_A_WRITE):
            await response.write(b"".join(lines[start : start + LINES_A_WRITE]))
        await response.write_eof()
        return response

    async def _answered(self, request: web.Request, shop: ShopState, told: Told) -> web.StreamResponse:
        refused = self._closed(shop)
        if refused is not None:
            return refused
        if not self.tokens.valid(shop, request.headers.get("X-Shopify-Access-Token", "")):
            return _answer({"errors": UNAUTHORIZED}, status=401)
        if shop.behaviour.version(request.match_info["version"]) is None:
            return _answer({"errors": "Not Found"}, status=404)
        try:
            body = self._decoder.decode(await request.read())
        except msgspec.DecodeError:
            return _answer({"errors": {"query": "Required parameter missing or invalid"}}, status=400)
        return await self._served(request, shop, body, told)

    async def _served(
        self, request: web.Request, shop: ShopState, body: GraphQLBody, told: Told
    ) -> web.StreamResponse:
        fault = told.fault = self._faults.strike(shop.config.domain)
        base_url = f"{request.scheme}://{request.host}/{shop.config.domain}"
        call = self._api.admit(shop, body.query, body.variables or {}, body.operationName, base_url)
        if isinstance(call, Refusal):
            told.result = result_of(call.answer)
            return _answer(call.answer)
        told.field, told.key = call.field, ",".join(call.keys)
        try:
            if self._faults.settings.latency_ms:
                await self._sleep(self._faults.settings.latency_ms / 1000)
            refused = self._before(fault, shop)
            if refused is None:
                answer, webhooks = self._api.execute(call)
        finally:
            self._api.release(call)
        if refused is not None:
            if fault is FaultKind.TIMEOUT_BEFORE:
                await self._hold(request)
            return refused
        self._delivery.submit(webhooks)
        told.result = result_of(answer)
        if fault is FaultKind.TIMEOUT_AFTER:
            await self._hold(request)
        return self._after(fault, request, answer)

    def _closed(self, shop: ShopState) -> web.Response | None:
        door = shop.behaviour.door_at(self._world.clock())
        return _answer({"errors": CLOSED[door]}, status=door) if isinstance(door, int) else None

    def _before(self, fault: FaultKind | None, shop: ShopState) -> web.Response | None:
        """The answer of a fault that strikes before anything is executed."""
        if fault is FaultKind.HTTP_429:
            response = _answer({"errors": "Too Many Requests"}, status=429)
            response.headers["Retry-After"] = RETRY_AFTER_S
            return response
        if fault is FaultKind.THROTTLED:
            return _answer(self._api.throttled(shop, 10))
        if fault is FaultKind.TOKEN_EXPIRED:
            self.tokens.expire(shop)
            return _answer({"errors": UNAUTHORIZED}, status=401)
        if fault is FaultKind.SHOP_FROZEN:
            until = self._world.clock() + self._faults.settings.frozen_s
            shop.behaviour = replace(shop.behaviour, door=402, door_until=until)
            return _answer({"errors": CLOSED[402]}, status=402)
        if fault is FaultKind.INTERNAL_BEFORE:
            return _answer(INTERNAL)
        if fault in (FaultKind.ERROR_BEFORE, FaultKind.TIMEOUT_BEFORE):
            return _answer({"errors": "Internal Server Error"}, status=500)
        return None

    def _after(self, fault: FaultKind | None, request: web.Request, answer: Answer) -> web.Response:
        if fault is FaultKind.ERROR_AFTER:
            return _answer({"errors": "Service Unavailable"}, status=503)
        if fault is FaultKind.INTERNAL_AFTER:
            return _answer(INTERNAL)
        if fault is FaultKind.DROP_CONNECTION and request.transport is not None:
            request.transport.close()
        return _answer(answer)

    async def _hold(self, request: web.Request) -> None:
        """Let the caller wait until it has gone, or for as long as the fault says."""
        for _ in range(int(self._faults.settings.timeout_s / HOLD_STEP_S)):
            if request.transport is None or request.transport.is_closing():
                return
            await self._sleep(HOLD_STEP_S)


class Told(Struct, kw_only=True):
    """What the log says of a request."""

    field: str = ""
    key: str = ""
    result: str = ""
    fault: FaultKind | None = None


def result_of(answer: Answer) -> str:
    """``ok``, or the code of the first error, whichever kind it is."""
    for error in answer.get("errors") or ():
        return str(error.get("extensions", {}).get("code", "error"))
    for payload in (answer.get("data") or {}).values():
        for error in payload.get("userErrors", ()) if isinstance(payload, dict) else ():
            return str(error.get("code") or "user_error")
    return "ok"


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
    bulk = BulkOperations(
        world,
        load_schema(),
        partial(roots, world),
        faults=faults,
        submit=delivery.submit,
        sleep=sleep,
    )
    api = Api(world, bulk)
    endpoint = Endpoint(world, api, bulk, faults, delivery, sleep)

    async def sending(app: web.Application) -> AsyncIterator[None]:
        await delivery.open()
        yield
        await bulk.close()
        await delivery.close()

    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app.cleanup_ctx.append(sending)
    app.add_routes(Admin(world, api, faults, delivery, endpoint.tokens).routes())
    app.add_routes(endpoint.routes())
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
        gc.freeze()  # the schema: a look through it is a pause of all shops
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
        client_id=shop.client_id,
        client_secret=shop.client_secret,
        default_location_id=shop.default_location_id,
    )


def _answer(body: Any, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(
        body=msgspec.json.encode(body), status=status, content_type="application/json", charset="utf-8"
    )
