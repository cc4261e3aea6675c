"""A shop whose answers the test may alter or hold back: a proxy before the simulator."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import web
from msgspec.structs import replace

from app.local_kafka import free_port
from app.shops import Shop

Alter = Callable[[dict[str, Any]], Awaitable[None]]
"""Changes the ``data`` of an answer in place."""
Instead = Callable[[dict[str, Any]], dict[str, Any] | None]
"""What is answered to a request in place of the shop; None: ask the shop."""


async def unaltered(data: dict[str, Any]) -> None:
    """The shop's own answer."""


@asynccontextmanager
async def altered(
    shop: Shop, alter: Alter = unaltered, *, instead: Instead = lambda request: None
) -> AsyncIterator[Shop]:
    """The shop as it is reached through the proxy."""
    url = f"http://127.0.0.1:{free_port()}"

    async def forward(request: web.Request) -> web.Response:
        other = instead(await request.json())
        if other is not None:
            return web.json_response(other)
        headers = {name: request.headers[name] for name in ("Content-Type", "X-Shopify-Access-Token")}
        target = shop.api_url + request.path
        async with aiohttp.request("POST", target, data=await request.read(), headers=headers) as answer:
            body = await answer.json()
        await alter(body["data"])
        return web.json_response(body)

    app = web.Application()
    app.router.add_post("/{path:.*}", forward)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(url.rsplit(":", 1)[1])).start()
    try:
        yield replace(shop, api_url=url)
    finally:
        await runner.cleanup()
