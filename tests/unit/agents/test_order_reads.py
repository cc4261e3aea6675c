"""Reads of orders: a slow shop delays no other, and an answer of an impossible shape ends no worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import msgspec
import pytest
from support.altered import Alter, altered
from support.one_lane import Memory, OneLane
from support.simulated import TEE, simulated

from agents.orders import MISSED, READS_AT_ONCE, OrderKeeper
from app.exactly_once import App, SourceRecord
from app.records import DeadLetter, OrderNotice, encode, headers
from app.shops import Shop
from connectors.shopify.changed_orders import envelope_of
from connectors.shopify.client import ShopClients
from tables.order_record import OrderRecord

pytestmark = pytest.mark.asyncio


class Keeper:
    """The orders agent on one lane."""

    def __init__(self, memory: Memory, clients: ShopClients) -> None:
        self.lane = OneLane(memory)
        self.keeper = OrderKeeper(cast(App, self.lane), clients)

    def notice(self, shop: Shop, order_id: int, at: datetime, seen_at: datetime | None = None) -> None:
        envelope = envelope_of(shop.domain, OrderNotice(id=order_id, updated_at=at), seen_at or at)
        key = f"{shop.domain}/{order_id}".encode()
        source = SourceRecord(
            "shopify.orders", 0, 0, int(time.time() * 1000), key, encode(envelope), headers(envelope, "test")
        )
        self.lane.decide(lambda transaction: self.keeper.take(transaction, source))

    def order(self, shop: Shop, order_id: int) -> OrderRecord:
        return dict(self.lane.scan(self.keeper.orders))[f"{shop.domain}/{order_id}".encode()]

    def letters(self) -> list[DeadLetter]:
        topic = f"dead-letters.{self.lane.service}"
        found = [value for name, _, value in self.lane.out if name == topic and value is not None]
        return [msgspec.json.decode(value, type=DeadLetter) for value in found]


@asynccontextmanager
async def keeping(*shops: Shop, memory: Memory | None = None) -> AsyncIterator[Keeper]:
    """A running agent, ended in any case; its memory can be given to another."""
    clients = ShopClients({shop.domain: shop for shop in shops})
    made = Keeper(memory if memory is not None else Memory(), clients)
    made.lane.open()
    try:
        yield made
        assert not made.lane.failures, made.lane.failures
    finally:
        await made.lane.close()
        await clients.close()


def now() -> datetime:
    return datetime.now(UTC)


async def test_a_shop_that_does_not_answer_delays_no_read_of_another() -> None:
    asked: list[Any] = []

    async def never(data: dict[str, Any]) -> None:
        asked.append(data)
        if len(asked) > 1:  # the first answer tells what the shop's bucket has
            await asyncio.Event().wait()

    async with (
        simulated() as quick,
        simulated("slow.myshopify.com") as other,
        altered(other.shop, never) as slow,
        keeping(quick.shop, slow) as agent,
    ):
        for number in range(READS_AT_ONCE * 2):
            agent.notice(slow, 1000 + number, now())
        await agent.lane.until(lambda: len(asked) == READS_AT_ONCE)
        sold = await quick.sell((TEE, 1))
        agent.notice(quick.shop, sold["id"], now())
        await agent.lane.until(lambda: agent.order(quick.shop, sold["id"]).read_done)
        assert len(asked) == READS_AT_ONCE


def without(name: str) -> Alter:
    async def alter(data: dict[str, Any]) -> None:
        if "order" in data:
            data["order"][name] = None

    return alter


async def test_an_order_of_an_impossible_shape_is_told_once_and_read_with_its_next_notice() -> None:
    memory = Memory()
    async with simulated() as shop:
        sold = await shop.sell((TEE, 1))
        async with altered(shop.shop, without("lineItems")) as bad:
            async with keeping(bad, memory=memory) as agent:
                agent.notice(bad, sold["id"], now())
                await agent.lane.until(agent.letters)
                [letter] = agent.letters()
                assert letter.error == "Misshapen"
                assert f"order {bad.domain}/{sold['id']}" in letter.message
                await agent.lane.until(lambda: agent.lane.idle)  # nothing is asked again by itself
                assert agent.order(bad, sold["id"]).read_wanted
            async with keeping(bad, memory=memory) as agent:  # a restart asks, and tells nothing new
                await agent.lane.until(lambda: agent.lane.idle)
                assert agent.letters() == []
        async with keeping(shop.shop, memory=Memory(memory)) as agent:
            agent.notice(shop.shop, sold["id"], now())
            await agent.lane.until(lambda: agent.order(shop.shop, sold["id"]).read_done)


async def test_an_order_that_may_not_be_read_is_told_once_and_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agents.shop_queues.BACKOFF_S", (0.01,))
    refusals = 3

    def refuse(request: dict[str, Any]) -> dict[str, Any] | None:
        nonlocal refusals
        refusals -= 1
        error = {"message": "no", "extensions": {"code": "BAD_REQUEST"}}
        return {"data": None, "errors": [error]} if refusals >= 0 else None

    async with simulated() as shop, altered(shop.shop, instead=refuse) as other:
        sold = await shop.sell((TEE, 1))
        async with keeping(other) as agent:
            agent.notice(other, sold["id"], now())
            await agent.lane.until(lambda: agent.order(other, sold["id"]).read_done)
            assert [letter.error for letter in agent.letters()] == ["CallRefused"]
            assert refusals < 0


@pytest.mark.parametrize(("age_s", "missed"), [(5, 0), (90, 1)])
async def test_a_change_counts_as_missed_when_its_webhook_is_late(age_s: int, missed: int) -> None:
    async with simulated() as shop, keeping(shop.shop) as agent:
        sold = await shop.sell((TEE, 1))
        before = MISSED.labels(shop.shop.domain)._value.get()
        agent.notice(shop.shop, sold["id"], now() - timedelta(seconds=age_s), seen_at=now())
        assert MISSED.labels(shop.shop.domain)._value.get() - before == missed


async def test_an_order_whose_fulfilment_orders_are_refused_alone_is_not_asked_for_again_by_itself() -> None:
    refused: list[str] = []
    asked: list[Any] = []

    def refuse(request: dict[str, Any]) -> dict[str, Any] | None:
        if not set(refused) & set(request["variables"].get("ids", ())):
            return None
        asked.append(request)
        return {"data": None, "errors": [{"message": "no", "extensions": {"code": "BAD_REQUEST"}}]}

    memory = Memory()
    async with simulated() as shop, altered(shop.shop, instead=refuse) as other:
        sold, answered = await shop.sell((TEE, 1)), await shop.sell((TEE, 1))
        refused.append(f"gid://shopify/Order/{sold['id']}")
        async with keeping(other, memory=memory) as agent:
            for order in (sold, answered):
                agent.notice(other, order["id"], now())
            await agent.lane.until(lambda: asked and not agent.order(other, sold["id"]).routing_wanted)
            await agent.lane.until(lambda: agent.lane.idle)
        before = len(asked)
        async with keeping(other, memory=memory) as agent:  # nor by a restart
            await agent.lane.until(lambda: agent.lane.idle)
        assert len(asked) == before
