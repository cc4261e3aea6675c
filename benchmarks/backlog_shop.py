"""A simulated shop of 1 000 points a second for ``bench writer``, in a process of its own.

``python -m benchmarks.backlog_shop PORT ITEMS`` serves it. Nobody subscribes to its webhooks: delivering tens
of thousands of them would measure this process.
"""

from __future__ import annotations

import asyncio
import sys
import time
from random import Random

from aiohttp import web
from msgspec.structs import replace

from app.shops import Shop
from connectors.shopify.simulator.server import make_app, shop_config
from connectors.shopify.simulator.world import World

DOMAIN, LOCATION, FIRST_ITEM = "backlog.myshopify.com", 71, 1_000_000
SHOWN = 10
"""Units that every listing shows at first."""
CAPACITY, RESTORE_RATE = 20_000.0, 1_000.0
"""Shopify Plus (shopify.dev "API limits"); the size, 20 times the rate, is as captured for another plan."""


def shop_at(port: int) -> Shop:
    """The shop as the writer reaches it."""
    return Shop(
        domain=DOMAIN,
        api_url=f"http://127.0.0.1:{port}/{DOMAIN}",
        access_token="example-token",
        webhook_secrets=("example-secret",),
        default_location_id=LOCATION,
    )


async def serve(port: int, items: int) -> None:
    """Serve the shop until the process is ended."""
    world = World(clock=time.time, monotonic=time.monotonic, random=Random(1))
    config = shop_config(shop_at(port), "http://127.0.0.1:9/none")
    world.add_shop(replace(config, subscribed="none"))
    for number in range(items):
        world.add_item(DOMAIN, f"SKU-{number:06}", item_id=FIRST_ITEM + number, available={LOCATION: SHOWN})
    runner = web.AppRunner(make_app(world))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2])))
