"""The keeper of subscriptions over the simulator: what is missing is made, and what was removed is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio
from structlog.testing import capture_logs
from support.one_lane import Memory, OneLane
from support.simulated import Simulated, simulated

from agents.subscriptions import MISSING, Subscribed, SubscriptionKeeper
from app.errors import Retry
from connectors.shopify.client import ShopClients, ShopUnavailable
from connectors.shopify.subscriptions import WANTED, NotSubscribed

pytestmark = pytest.mark.asyncio
OLD, HERE = "http://127.0.0.1:9/none", "http://127.0.0.1:9/webhooks/shopify"
REFUSED = "http://hooks.example.com/webhooks/shopify"
TOPICS = {one.topic for one in WANTED}
REMOVE = "mutation($id: ID!) { webhookSubscriptionDelete(id: $id) { userErrors { message } } }"


@pytest_asyncio.fixture
async def shop() -> AsyncIterator[Simulated]:
    async with simulated(webhook_url=OLD, subscribed="none") as running:
        yield running


class Kept:
    """A keeper on one lane, and a look at what it has done."""

    def __init__(self, shop: Simulated, lane: OneLane, clients: ShopClients, uri: str) -> None:
        self.keeper = SubscriptionKeeper(lane, clients, uri)  # type: ignore[arg-type]  # one lane
        self._shop = shop
        self._lane = lane

    async def run(self) -> list[str]:
        """One look at the shop; the topics that it tells were removed."""
        with capture_logs() as told:
            await self.keeper.run(self._lane, self._shop.shop.domain)  # type: ignore[arg-type]  # one lane
        return [one["topic"] for one in told if one["log_level"] == "error"]

    @property
    def missing(self) -> float:
        """What the metric says."""
        return MISSING.labels(self._shop.shop.domain)._value.get()

    @property
    def remembered(self) -> set[str]:
        found = dict(self._lane.scan(self.keeper.subscribed))
        return set(found.get(self._shop.shop.domain.encode(), Subscribed(topics=frozenset())).topics)

    async def subscribed(self) -> dict[str, list[str]]:
        """Where the webhooks of each topic go."""
        found: dict[str, list[str]] = {}
        for one in (await self._shop.see("subscriptions"))["subscriptions"]:
            found.setdefault(one["topic"], []).append(one["uri"])
        return found

    async def remove(self, topic: str) -> None:
        """Take a subscription away, as Shopify does after four hours of failures."""
        rows = (await self._shop.see("subscriptions"))["subscriptions"]
        [number] = [one["id"] for one in rows if one["topic"] == topic]
        done = await self._shop.ask(REMOVE, {"id": f"gid://shopify/WebhookSubscription/{number}"})
        assert done["webhookSubscriptionDelete"]["userErrors"] == []


@asynccontextmanager
async def kept(shop: Simulated, uri: str = HERE, memory: Memory | None = None) -> AsyncIterator[Kept]:
    clients = ShopClients({shop.shop.domain: shop.shop})
    try:
        yield Kept(shop, OneLane(memory if memory is not None else Memory()), clients, uri)
    finally:
        await clients.close()


def everywhere(uri: str) -> dict[str, list[str]]:
    return {topic: [uri] for topic in TOPICS}


async def test_a_new_shop_gets_every_subscription_without_an_alarm(shop: Simulated) -> None:
    async with kept(shop) as keeper:
        assert await keeper.run() == []
        assert (keeper.missing, keeper.remembered) == (len(TOPICS), TOPICS)
        assert await keeper.subscribed() == everywhere(HERE)
        assert await keeper.run() == []
        assert keeper.missing == 0


async def test_what_shopify_removed_is_made_again_with_an_alarm_also_after_a_restart(shop: Simulated) -> None:
    memory = Memory()
    async with kept(shop, memory=memory) as keeper:
        await keeper.run()
        await keeper.remove("orders/create")
        await keeper.remove("inventory_levels/update")
    async with kept(shop, memory=memory) as successor:
        assert sorted(await successor.run()) == ["inventory_levels/update", "orders/create"]
        assert successor.missing == 2
        assert await successor.subscribed() == everywhere(HERE)
        assert await successor.run() == []
        assert successor.missing == 0


async def test_subscriptions_at_another_address_are_moved_and_not_doubled(shop: Simulated) -> None:
    async with kept(shop, uri=OLD) as keeper:
        await keeper.run()
    async with kept(shop) as keeper:
        assert await keeper.run() == [], "nothing was removed"
        assert (keeper.missing, keeper.remembered) == (0, TOPICS)
        assert await keeper.subscribed() == everywhere(HERE)


async def test_what_the_shop_refuses_is_named_and_is_no_removal_later(shop: Simulated) -> None:
    memory = Memory()
    async with kept(shop, uri=REFUSED, memory=memory) as keeper:
        with pytest.raises(NotSubscribed) as refused:
            await keeper.run()
        assert all(topic in str(refused.value) for topic in TOPICS)
        assert (keeper.missing, keeper.remembered) == (len(TOPICS), set())
    async with kept(shop, memory=memory) as keeper:
        assert await keeper.run() == []
        assert keeper.remembered == TOPICS


DOORS = [(402, "402"), (423, "423"), ("inactive", "SHOP_INACTIVE")]


@pytest.mark.parametrize(("door", "told"), DOORS)
async def test_a_shop_that_does_not_let_us_in_loses_no_alarm(
    shop: Simulated, door: int | str, told: str
) -> None:
    async with kept(shop) as keeper:
        await keeper.run()
        await keeper.remove("orders/create")
        await shop.act("behave", shop=shop.shop.domain, door=door)
        with pytest.raises(ShopUnavailable, match=told):
            await keeper.run()
        assert keeper.remembered == TOPICS
        await shop.act("behave", shop=shop.shop.domain, door="open")
        assert "orders/create" not in await keeper.subscribed()
        assert await keeper.run() == ["orders/create"]
        assert await keeper.subscribed() == everywhere(HERE)


@pytest.mark.parametrize("fault", ["error_before", "internal_before"])
async def test_a_call_that_fails_is_left_to_the_next_look(shop: Simulated, fault: str) -> None:
    async with kept(shop) as keeper:
        await keeper.run()
        await keeper.remove("orders/create")
        await shop.act("faults", next={fault: 1})
        with pytest.raises(Retry):
            await keeper.run()
        assert await keeper.run() == ["orders/create"]
        assert await keeper.subscribed() == everywhere(HERE)
