"""Webhooks that do not name their order: kept until the shop has said whose they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, cast

import msgspec
import pytest
from support.altered import altered
from support.one_lane import Memory, OneLane
from support.simulated import TEE, Simulated, simulated

from agents.order_lookups import OrderLookups
from app.errors import Rejected
from app.exactly_once import App
from app.records import Envelope
from app.shops import Shop
from connectors.shopify.client import ShopClients

pytestmark = pytest.mark.asyncio


class Desk:
    """The look-ups on one lane."""

    def __init__(self, clients: ShopClients, memory: Memory) -> None:
        self.lane = OneLane(memory)
        self.lookups = OrderLookups(cast(App, self.lane), clients)
        self.lane.on_lane_opened(self.lookups.open)
        self.lane.on_lane_closed(self.lookups.close)
        self.lane.open()

    def webhook(self, shop: Shop, number: int, kind: str = "Return") -> bytes:
        key = f"{shop.domain}/{kind}/{number}".encode()
        envelope = Envelope(
            shop=shop.domain, topic="returns/close", webhook_id="w", event_id="e", api_version="2026-10",
            received_at=datetime.now(UTC), body=msgspec.Raw(b"{}"),
        )  # fmt: skip
        self.lane.decide(lambda transaction: self.lookups.take(transaction, key, envelope, "c-1"))
        return key

    def open_keys(self) -> list[bytes]:
        return [key for key, _ in self.lane.scan(self.lookups.table)]

    def sent_on(self) -> dict[bytes | None, Envelope]:
        return {
            key: msgspec.json.decode(value, type=Envelope)
            for topic, key, value in self.lane.out
            if topic == "shopify.orders" and value is not None
        }

    async def idle(self) -> None:
        await self.lane.until(lambda: self.lane.idle)


@asynccontextmanager
async def desk(*shops: Shop, memory: Memory | None = None) -> AsyncIterator[Desk]:
    clients = ShopClients({shop.domain: shop for shop in shops})
    made = Desk(clients, memory if memory is not None else Memory())
    try:
        yield made
        assert not made.lane.failures, made.lane.failures
    finally:
        await made.lane.close()
        await clients.close()


async def returned(shop: Simulated) -> tuple[int, int]:
    """An order and a return of it."""
    order = await shop.sell((TEE, 1))
    about = {"shop": shop.shop.domain, "order": order["id"]}
    await shop.act("fulfil", **about)
    given_back = await shop.act("return", **about, lines={order["line_items"][0]["id"]: 1})
    return order["id"], given_back["return"]


async def test_a_webhook_is_sent_on_under_its_order_and_one_about_nothing_is_dropped() -> None:
    async with simulated() as shop, desk(shop.shop) as looking:
        order, number = await returned(shop)
        looking.webhook(shop.shop, number)
        looking.webhook(shop.shop, 1)
        await looking.idle()
        key = f"{shop.shop.domain}/{order}".encode()
        assert {one: envelope.order_id for one, envelope in looking.sent_on().items()} == {key: order}
        assert looking.open_keys() == []


async def test_a_key_that_names_nothing_of_an_order_is_rejected() -> None:
    async with simulated() as shop, desk(shop.shop) as looking:
        with pytest.raises(Rejected, match="names nothing that belongs to an order"):
            looking.webhook(shop.shop, 1, "Product")


@pytest.mark.parametrize("how", ["refused", "misshapen"])
async def test_a_refused_or_misshapen_look_up_ends_only_itself(how: str) -> None:
    async with simulated() as shop:
        order, number = await returned(shop)

        def bad(request: dict[str, Any]) -> dict[str, Any] | None:
            if request["variables"]["id"] != "gid://shopify/Return/1":
                return None
            if how == "misshapen":
                return {"data": {"node": {"returned": {"legacyResourceId": None}}}}
            return {"data": None, "errors": [{"message": "no", "extensions": {"code": "BAD_REQUEST"}}]}

        async with altered(shop.shop, instead=bad) as other, desk(other) as looking:
            looking.webhook(other, 1)
            looking.webhook(other, number)
            await looking.idle()
            assert [one.order_id for one in looking.sent_on().values()] == [order]
            assert looking.open_keys() == []


async def test_a_throttled_or_failed_look_up_is_made_again() -> None:
    async with simulated() as shop, desk(shop.shop) as looking:
        order, number = await returned(shop)
        await shop.act("faults", next={"throttled": 1, "error_before": 1})
        looking.webhook(shop.shop, number)
        await looking.idle()
        assert [one.order_id for one in looking.sent_on().values()] == [order]


async def test_a_slow_shop_delays_no_other_and_what_a_closed_lane_did_not_learn_its_next_owner_asks() -> None:
    asked, answer, memory = asyncio.Event(), asyncio.Event(), Memory()

    async def hold(data: dict[str, Any]) -> None:
        asked.set()
        await answer.wait()

    async with simulated() as quick, simulated("slow.myshopify.com") as other:
        (soon, quick_return), (late, slow_return) = await returned(quick), await returned(other)
        async with altered(other.shop, hold) as slow, desk(quick.shop, slow, memory=memory) as looking:
            key = looking.webhook(slow, slow_return)
            await asked.wait()
            looking.webhook(quick.shop, quick_return)
            await looking.lane.until(looking.sent_on)
            assert [one.order_id for one in looking.sent_on().values()] == [soon]
            looking.lane.lose()
            answer.set()
            await looking.idle()
            assert looking.open_keys() == [key]
        async with desk(other.shop, memory=memory) as after:
            await after.idle()
            assert [one.order_id for one in after.sent_on().values()] == [late]
            assert after.open_keys() == []
