"""Tokens against a token endpoint over real HTTP: asked for in time, once, and never shown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from aiohttp import web
from structlog.testing import capture_logs
from support.simulated import MAIN, TEE, simulated

from app.errors import OutcomeUnknown
from app.local_kafka import free_port
from app.shops import Shop
from connectors.shopify import documents
from connectors.shopify.auth import RENEW_BEFORE_S, RETRY_RENEWAL_S, TokenRefused, Tokens
from connectors.shopify.client import ShopClient, ShopUnavailable
from connectors.shopify.simulator.server import shop_config

DAY_S = 86_399.0


class Grants:
    """An authorisation server: every grant makes the former token useless."""

    def __init__(self, port: int) -> None:
        self.shop = Shop(
            domain="a.myshopify.com",
            api_url=f"http://127.0.0.1:{port}",
            client_id="example-id",
            client_secret="example-secret",
            webhook_secrets=("example-secret",),
            default_location_id=1,
        )
        self.forms: list[dict[str, Any]] = []
        self.calls: list[str] = []
        self.answer: tuple[int, str] | None = None  # instead of a grant

    @property
    def token(self) -> str:
        """The newest one, which alone is good."""
        return f"shpat_example_{len(self.forms)}"

    async def grant(self, request: web.Request) -> web.Response:
        self.forms.append(dict(await request.post()))
        if self.answer is not None:
            return web.Response(status=self.answer[0], text=self.answer[1])
        return web.json_response({"access_token": self.token, "scope": "read_orders", "expires_in": DAY_S})

    async def graphql(self, request: web.Request) -> web.Response:
        self.calls.append(request.headers["X-Shopify-Access-Token"])
        if self.calls[-1] != self.token:
            return web.json_response({"errors": "[API] Invalid API key or access token"}, status=401)
        return web.json_response({"data": {"nodes": [None]}})


@asynccontextmanager
async def serving() -> AsyncIterator[Grants]:
    port = free_port()
    grants = Grants(port)
    app = web.Application()
    app.router.add_post("/admin/oauth/access_token", grants.grant)
    app.router.add_post(f"/admin/api/{documents.API_VERSION}/graphql.json", grants.graphql)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield grants
    finally:
        await runner.cleanup()


@pytest.fixture
async def grants() -> AsyncIterator[Grants]:
    async with serving() as running:
        yield running


class Clock:
    """A monotonic clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def test_everybody_who_waits_shares_one_request(grants: Grants, clock: Clock) -> None:
    tokens = Tokens(grants.shop, monotonic=clock)
    got = await asyncio.gather(*(tokens.current() for _ in range(20)))
    assert set(got) == {"shpat_example_1"}
    assert grants.forms == [
        {"grant_type": "client_credentials", "client_id": "example-id", "client_secret": "example-secret"}
    ]


async def test_a_token_is_renewed_an_hour_before_its_end(grants: Grants, clock: Clock) -> None:
    tokens = Tokens(grants.shop, monotonic=clock)
    await tokens.current()
    clock.now = DAY_S - RENEW_BEFORE_S - 1
    assert await tokens.current() == "shpat_example_1"
    clock.now += 1
    assert await tokens.current() == "shpat_example_2"


async def test_a_renewal_that_fails_is_put_off_while_the_token_is_good(grants: Grants, clock: Clock) -> None:
    tokens = Tokens(grants.shop, monotonic=clock)
    good = await tokens.current()
    grants.answer = (503, "")
    clock.now = DAY_S - RENEW_BEFORE_S
    assert [await tokens.current() for _ in range(3)] == [good] * 3
    assert len(grants.forms) == 2
    clock.now += RETRY_RENEWAL_S
    assert await tokens.current() == good
    assert len(grants.forms) == 3
    clock.now = DAY_S
    with pytest.raises(OutcomeUnknown, match="HTTP 503"):
        await tokens.current()


@pytest.mark.parametrize(
    ("status", "body", "error", "message"),
    [
        (400, '{"error": "invalid_client"}', TokenRefused, "HTTP 400: .*invalid_client"),
        (401, "", TokenRefused, "HTTP 401"),
        (402, "frozen", TokenRefused, "HTTP 402: frozen"),
        (404, "", TokenRefused, "HTTP 404"),
        (429, "", OutcomeUnknown, "HTTP 429"),
        (200, "<html>", OutcomeUnknown, "not a grant"),
        (200, '{"access_token": "", "expires_in": 5}', OutcomeUnknown, "without a token"),
    ],
)
async def test_what_is_no_grant_is_named(
    grants: Grants, clock: Clock, status: int, body: str, error: type[Exception], message: str
) -> None:
    grants.answer = (status, body)
    with pytest.raises(error, match=message):
        await Tokens(grants.shop, monotonic=clock).current()


async def test_a_refused_token_is_renewed_once_for_all_calls(grants: Grants) -> None:
    client = ShopClient(grants.shop)
    await client.levels(1, [5])
    grants.forms.append({})  # as if another process had asked for a token
    await asyncio.gather(*(client.levels(1, [5]) for _ in range(4)))
    assert grants.calls[-1] == "shpat_example_3"
    assert len(grants.forms) == 3
    await client.close()


async def test_a_token_that_stays_refused_makes_the_shop_unavailable(grants: Grants) -> None:
    client = ShopClient(grants.shop)
    await client.levels(1, [5])
    grants.forms.append({})
    grants.answer = (400, '{"error": "invalid_client"}')
    with pytest.raises(ShopUnavailable, match="invalid_client") as told:
        await client.levels(1, [5])
    assert told.value.status == 401
    await client.close()


async def test_the_simulators_tokens_end_and_are_asked_for_again() -> None:
    async with simulated() as running:
        shop = msgspec.structs.replace(
            running.shop,
            domain="app.myshopify.com",
            api_url=running.shop.api_url.replace(running.shop.domain, "app.myshopify.com"),
            access_token="",
            client_id="example-id",
            client_secret="example-secret",
        )
        config = shop_config(shop, "http://127.0.0.1:9/none")
        await running.act("shops", domain=shop.domain, config=msgspec.to_builtins(config))
        client = ShopClient(shop)
        assert await client.levels(MAIN, [TEE]) == {TEE: None}
        ended = await running.act("behave", shop=shop.domain, expire_tokens=True)
        assert ended["expired_tokens"] == 1
        assert await client.levels(MAIN, [TEE]) == {TEE: None}
        await client.close()


async def test_no_secret_and_no_token_is_ever_told(grants: Grants, clock: Clock) -> None:
    tokens = Tokens(grants.shop, monotonic=clock)
    with capture_logs() as told:
        await tokens.current()
        grants.answer = (400, '{"error": "invalid_client"}')
        clock.now = DAY_S - RENEW_BEFORE_S
        await tokens.current()
        with pytest.raises(TokenRefused) as error:
            await tokens.after_refusal("shpat_example_1")
    assert "a token could not be renewed yet" in {line["event"] for line in told}
    shown = f"{told} {error.value!r} {grants.shop!r}"
    assert "shpat" not in shown
    assert "example-secret" not in shown
