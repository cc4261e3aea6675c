"""Questions about fulfilment orders: a refused, slow or throttling shop, and a lane that closes meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from support.altered import altered
from support.one_lane import Memory, OneLane
from support.simulated import MAIN, TEE, Simulated, simulated

from agents.order_routing import EMPTY_TRIES, GATHER_S, GIVEN_UP, Answers, RoutingReader
from agents.shop_queues import BACKOFF_S
from app.exactly_once import App, Lane, Transaction
from app.records import Routing
from app.shops import Shop
from connectors.shopify.client import ShopClients
from tables.order_record import OrderRecord

pytestmark = pytest.mark.asyncio


class Desk:
    """A routing reader on one lane, the orders that want an answer, and what they got."""

    def __init__(self, clients: ShopClients) -> None:
        self.lane = OneLane(Memory())
        self.wanted: dict[bytes, OrderRecord] = {}
        self.answered: dict[bytes, Routing | None] = {}
        self.pauses: list[float] = []
        self.reader = RoutingReader(
            cast(App, self.lane), clients, self._unrouted, self._answer, sleep=self._sleep
        )
        self.reader.open(self._lane, [])
        self.lane.on_lane_closed(self.reader.close)

    @property
    def _lane(self) -> Lane:
        return cast(Lane, self.lane)

    def ask(self, shop: Shop, *order_ids: int) -> list[bytes]:
        keys = [f"{shop.domain}/{order_id}".encode() for order_id in order_ids]
        for key, order_id in zip(keys, order_ids, strict=True):
            self.wanted[key] = OrderRecord(shop=shop.domain, order_id=order_id)
            self.reader.want(self._lane, key)
        return keys

    async def idle(self) -> None:
        await self.lane.until(lambda: self.lane.idle)

    def _unrouted(self, transaction: Transaction, keys: Iterable[bytes]) -> dict[bytes, OrderRecord]:
        return {key: self.wanted[key] for key in keys if key in self.wanted}

    def _answer(self, transaction: Transaction, answers: Answers) -> None:
        for key, (routing, _) in answers.items():
            self.wanted.pop(key, None)  # it may have been answered otherwise meanwhile
            self.answered[key] = routing

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await asyncio.sleep(0)


@asynccontextmanager
async def desk(*shops: Shop) -> AsyncIterator[Desk]:
    clients = ShopClients({shop.domain: shop for shop in shops})
    made = Desk(clients)
    try:
        yield made
        assert not made.lane.failures, made.lane.failures
    finally:
        await made.lane.close()
        await clients.close()


def given_up(shop: Shop) -> float:
    return GIVEN_UP.labels(shop.domain)._value.get()  # type: ignore[no-any-return]  # what it would expose


async def sold(shop: Simulated, count: int) -> list[int]:
    return [int((await shop.sell((TEE, 1)))["id"]) for _ in range(count)]


def routed(routing: Routing | None) -> dict[int, int]:
    assert routing is not None
    [places] = routing.open.values()
    return places


async def test_of_a_call_that_is_refused_only_the_order_that_is_to_blame_is_given_up_on() -> None:
    async with simulated() as shop:
        orders = await sold(shop, 3)
        calls: list[int] = []

        def refuse(request: dict[str, Any]) -> dict[str, Any] | None:
            ids = request["variables"]["ids"]
            calls.append(len(ids))
            if f"gid://shopify/Order/{orders[1]}" not in ids:
                return None
            return {"data": None, "errors": [{"message": "no", "extensions": {"code": "BAD_REQUEST"}}]}

        async with altered(shop.shop, instead=refuse) as other, desk(other) as asking:
            before = given_up(other)
            first, refused, last = asking.ask(other, *orders)
            await asking.idle()
            assert routed(asking.answered[first]) == routed(asking.answered[last]) == {MAIN: 1}
            assert asking.answered[refused] is None
            assert given_up(other) == before + 1
            assert calls == [3, 1, 1, 1]


async def test_an_order_of_an_impossible_shape_takes_no_other_with_it() -> None:
    async with simulated() as shop:
        orders = await sold(shop, 2)

        async def spoil(data: dict[str, Any]) -> None:
            for node in data["nodes"]:
                if node["legacyResourceId"] == str(orders[0]):
                    node["fulfillmentOrders"] = 7

        async with altered(shop.shop, spoil) as other, desk(other) as asking:
            before = given_up(other)
            spoilt, good = asking.ask(other, *orders)
            await asking.idle()
            assert asking.answered[spoilt] is None
            assert routed(asking.answered[good]) == {MAIN: 1}
            assert given_up(other) == before + 1


@pytest.mark.parametrize(
    "codes",
    [("BAD_REQUEST", "INTERNAL_SERVER_ERROR"), ("BAD_REQUEST", "BAD_REQUEST", "BAD_REQUEST")],
    ids=["the shop goes away while a refused call is taken apart", "the question is refused for every order"],
)
async def test_a_refusal_that_is_no_orders_fault_gives_none_up(codes: tuple[str, ...]) -> None:
    async with simulated() as shop:
        orders = await sold(shop, 2)
        answers = iter(codes)

        def refuse(request: dict[str, Any]) -> dict[str, Any] | None:
            code = next(answers, None)
            return code and {"data": None, "errors": [{"message": "no", "extensions": {"code": code}}]}

        async with altered(shop.shop, instead=refuse) as other, desk(other) as asking:
            before = given_up(other)
            keys = asking.ask(other, *orders)
            await asking.idle()
            assert [routed(asking.answered[key]) for key in keys] == [{MAIN: 1}, {MAIN: 1}]
            assert given_up(other) == before
            assert asking.pauses == [GATHER_S, BACKOFF_S[0]]


async def test_a_throttled_question_is_asked_again_and_a_failed_one_after_a_pause() -> None:
    async with simulated() as shop, desk(shop.shop) as asking:
        [order] = await sold(shop, 1)
        await shop.act("faults", next={"throttled": 1, "error_before": 2})
        [key] = asking.ask(shop.shop, order)
        await asking.idle()
        assert routed(asking.answered[key]) == {MAIN: 1}
        assert asking.pauses == [GATHER_S, *BACKOFF_S[:2]]


async def test_a_shop_that_does_not_answer_delays_no_other_and_a_closed_lane_takes_no_answer() -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def hold(data: dict[str, Any]) -> None:
        asked.set()
        await answer.wait()

    async with (
        simulated() as quick,
        simulated("slow.myshopify.com") as other,
        altered(other.shop, hold) as slow,
        desk(quick.shop, slow) as asking,
    ):
        [late] = asking.ask(slow, *await sold(other, 1))
        await asked.wait()
        [soon] = asking.ask(quick.shop, *await sold(quick, 1))
        await asking.lane.until(lambda: soon in asking.answered)
        asking.lane.lose()
        answer.set()
        await asking.idle()
        assert late not in asking.answered
        assert late in asking.wanted  # for the lane's next owner


async def test_an_order_without_fulfilment_orders_is_asked_for_a_few_times_and_nothing_of_it_is_kept() -> (
    None
):
    async with simulated() as shop:
        orders, calls = await sold(shop, 2), []

        async def empty(data: dict[str, Any]) -> None:
            calls.append(data)
            for node in data["nodes"]:
                node["fulfillmentOrders"]["nodes"] = []

        async with altered(shop.shop, empty) as other, desk(other) as asking:
            keys = asking.ask(other, *orders)
            await asking.idle()
            assert len(calls) == EMPTY_TRIES
            assert asking.answered == {
                key: Routing(order_id=order) for key, order in zip(keys, orders, strict=True)
            }
            asking.ask(other, orders[0])
            await asking.lane.until(lambda: len(calls) > EMPTY_TRIES)
            asking.wanted.clear()  # answered otherwise: there is no more to ask
            await asking.idle()
            asking.ask(other, orders[1])
            await asking.lane.until(lambda: len(calls) > EMPTY_TRIES + 1)
            asking.lane.lose()
            await asking.idle()
            assert not any(asking.reader._empty.values())
