"""The catch-up tells of each changed order once, and says how far it has looked."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import cast

import msgspec
import pytest
from support.one_lane import Memory, OneLane
from support.simulated import TEE, simulated

from agents.catch_up import CatchUp
from app.exactly_once import App, Lane
from connectors.shopify.client import ShopClients
from tables.catch_up import CaughtUp

pytestmark = pytest.mark.asyncio


async def test_a_poll_that_finds_nothing_says_all_the_same_how_far_it_has_looked() -> None:
    lane, now = OneLane(Memory()), datetime.now(UTC) + timedelta(seconds=5)
    async with simulated() as shop:
        clients = ShopClients({shop.shop.domain: shop.shop})
        catch_up = CatchUp(cast(App, lane), clients, settle=timedelta(0), clock=lambda: now)
        await shop.sell((TEE, 1))
        for told in (1, 1):
            now += timedelta(seconds=1)
            await catch_up.run(cast(Lane, lane), shop.shop.domain)
            [stored] = lane.stores[catch_up.caught_up].values()
            reached = msgspec.json.decode(stored, type=CaughtUp)
            assert reached.looked_until == now
            assert reached.until < now
            assert [topic for topic, _, _ in lane.out] == ["shopify.orders"] * told
        await clients.close()
