"""Reads take their points from the shop's budget, and leave the writer what it needs, as it does for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from graphql import get_operation_ast
from hypothesis import given, settings
from hypothesis import strategies as st
from support.altered import altered
from support.simulated import CAP, MAIN, STORE, TEE, Simulated, simulated

from connectors.shopify import catalog, changed_orders, client, documents, levels
from connectors.shopify.budget import KEPT_SHARE, READ_COSTS, Budget
from connectors.shopify.client import CALLS, ShopClient, Throttled
from connectors.shopify.simulator.cost import Bucket, Pricer
from connectors.shopify.simulator.graphql import load_schema

STANDARD_POINTS, STANDARD_RATE = 2000.0, 100.0
"""The smallest bucket (shopify.dev "API limits")."""

ENTRIES = ["gid"] * 3
ASKED: dict[str, tuple[Any, dict[str, Any], int]] = {
    "Order": (documents.ORDER, {"first": client.ORDER_PAGE}, 1),
    "FulfillmentLines": (documents.FULFILLMENT_LINES, {"first": client.ORDER_PAGE}, 1),
    "RefundLines": (documents.REFUND_LINES, {"first": client.ORDER_PAGE}, 1),
    "Returns": (documents.RETURNS, {"first": client.RETURNS_A_READ}, 1),
    "Dispositions": (documents.DISPOSITIONS, {"first": client.DISPOSED_A_READ}, 1),
    "Routing": (
        documents.ROUTING,
        {
            "ids": ENTRIES,
            "orders": client.FULFILLMENT_ORDERS_A_READ,
            "lines": client.FULFILLMENT_LINES_A_READ,
        },
        client.ROUTED_A_READ,
    ),
    "FulfillmentOrders": (documents.FULFILLMENT_ORDERS, {"first": client.ORDER_PAGE}, 1),
    "FulfillmentOrderLines": (documents.FULFILLMENT_ORDER_LINES, {"first": client.ORDER_PAGE}, 1),
    "OrderOf": (documents.ORDER_OF, {}, 1),
    "ChangedOrders": (documents.CHANGED_ORDERS, {"first": changed_orders.PAGE}, 1),
    "Items": (documents.ITEMS, {"items": ENTRIES, "levels": catalog.LEVELS_A_CALL}, catalog.ITEMS_A_CALL),
    "ItemLevels": (documents.ITEM_LEVELS, {"first": catalog.LEVELS_A_PAGE}, 1),
    "Levels": (documents.LEVELS, {"items": ENTRIES}, client.LEVELS_A_READ),
}
"""Each read with the sizes that it is asked with, and how many entries one call has at most."""


@pytest.mark.parametrize("name", READ_COSTS)
def test_a_read_is_priced_as_the_simulator_prices_it_and_fits_into_what_a_writer_leaves(name: str) -> None:
    request, variables, entries = ASKED[name]
    operation = get_operation_ast(request.document)
    assert operation is not None
    assert operation.name is not None
    assert operation.name.value == name
    asked_for = 3 if ENTRIES in variables.values() else 1
    points = Pricer(load_schema(), request.document, operation, variables).requested()
    assert Budget().expected(name, asked_for) == points
    assert READ_COSTS[name] * entries <= KEPT_SHARE * STANDARD_POINTS


@pytest.fixture
async def shop() -> AsyncIterator[Simulated]:
    async with simulated() as running:
        yield running


def throttled(shop: Simulated) -> float:
    """How often the shop has throttled us."""
    metrics = [sample for metric in CALLS.collect() for sample in metric.samples]
    return sum(
        sample.value
        for sample in metrics
        if sample.labels.get("shop") == shop.shop.domain and sample.labels.get("result") == "Throttled"
    )


async def sold_and_returned(shop: Simulated) -> int:
    """An order with everything that a read asks for."""
    sold = await shop.sell((TEE, 2), (CAP, 1))
    about = {"shop": shop.shop.domain, "order": sold["id"]}
    line = sold["line_items"][0]["id"]
    await shop.act("fulfil", **about)
    given_back = await shop.act("return", **about, lines={line: 2})
    decide = {**about, "return_id": given_back["return"]}
    await shop.act("return/decide", **decide, act="process", location=STORE)
    await shop.act("return/decide", **decide, act="refund", restock_type="return")
    return int(sold["id"])


@pytest.mark.asyncio
async def test_all_reads_go_through_a_bucket_that_never_has_more_than_the_writer_leaves(
    shop: Simulated,
) -> None:
    order = await sold_and_returned(shop)
    left = KEPT_SHARE * STANDARD_POINTS
    await shop.act("shops", domain=shop.shop.domain, bucket_capacity=left, restore_rate=20_000)
    caller = ShopClient(shop.shop)
    before = throttled(shop)
    read = await caller.order(order)
    assert read is not None
    assert len(read.dispositions) == 1
    assert (await caller.routing([order, order + 1, order + 2]))[order] is not None
    items = await catalog.read_items(caller, range(TEE, TEE + 2 * catalog.ITEMS_A_CALL))
    assert items[TEE] is not None
    listings = [f"{shop.shop.domain}/{item}/{MAIN}" for item in range(TEE, TEE + 100)]
    assert len(await levels.read_levels(caller, listings)) == 100
    assert throttled(shop) == before
    await caller.close()


@pytest.mark.asyncio
async def test_many_reads_at_once_wait_for_their_points_and_are_never_throttled(shop: Simulated) -> None:
    orders = [int((await shop.sell((TEE, 1)))["id"]) for _ in range(8)]
    await shop.act("shops", domain=shop.shop.domain, bucket_capacity=190, restore_rate=400)
    caller = ShopClient(shop.shop)
    before = throttled(shop)
    found = await asyncio.gather(*(caller.order(order) for order in orders), caller.routing(orders))
    assert None not in found
    assert throttled(shop) == before
    await caller.close()


@pytest.mark.asyncio
async def test_a_large_read_is_not_overtaken_by_small_ones(shop: Simulated) -> None:
    order = int((await shop.sell((TEE, 1)))["id"])
    asked: list[str] = []

    async def note(data: dict[str, Any]) -> None:
        asked.extend(data)

    async with altered(shop.shop, note) as watched:
        caller = ShopClient(watched)
        status = {"maximumAvailable": 400, "currentlyAvailable": 60, "restoreRate": 1000}
        caller.budget.learn({"throttleStatus": status})  # pays for a small read at once, not for a large one
        large = asyncio.create_task(caller.order(order))
        await asyncio.sleep(0)
        await asyncio.gather(*(caller.read(documents.CLOCK, {}) for _ in range(3)), large)
        await caller.close()
    assert asked.index("order") == 0


def cost(bucket: Bucket, points: float) -> dict[str, Any]:
    return bucket.extension(int(points), int(points))


@settings(deadline=None, max_examples=30)
@given(st.integers(20, 260), st.sampled_from(sorted(READ_COSTS)))
def test_a_writer_and_a_reader_of_two_processes_both_get_on_when_each_takes_all_that_it_may(
    write_points: int, name: str
) -> None:
    now = 0.0
    bucket = Bucket(lambda: now, capacity=STANDARD_POINTS, restore_rate=STANDARD_RATE)
    writer, reader = Budget(lambda: now), Budget(lambda: now)
    spent, refused_until = {"write": 0.0, "read": 0.0}, 0.0
    read_points = ASKED[name][2] * READ_COSTS[name]
    for _ in range(3_000):  # five minutes in tenths of a second
        now += 0.1
        for budget, kind, points in ((writer, "write", write_points), (reader, "read", read_points)):
            if budget.wait_s(points) or (kind == "read" and now < refused_until):
                continue
            call = budget.begin(kind, 1)
            if bucket.available >= points:
                bucket.take(points)
                spent[kind] += points
            elif kind == "read":  # throttled: it waits as long as the answer says
                refused_until = now + (points - bucket.available) / STANDARD_RATE
            budget.learn(cost(bucket, points), call)
            budget.end(call)
    fair = (STANDARD_POINTS + 300 * STANDARD_RATE) / 2
    assert spent["write"] > 0.4 * fair
    assert spent["read"] > 0.4 * fair


@pytest.mark.asyncio
async def test_a_read_waits_as_long_as_the_answer_that_throttles_it_says(shop: Simulated) -> None:
    order = int((await shop.sell((TEE, 1)))["id"])
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    caller = ShopClient(shop.shop, sleep=sleep)
    await shop.act("faults", next={"http_429": 2, "throttled": 2})
    assert await caller.order(order) is not None
    assert sum(wait >= 1 for wait in waits) == 4
    waits.clear()
    await shop.act("faults", next={"throttled": client.THROTTLED_TRIES})
    with pytest.raises(Throttled):
        await caller.order(order)
    assert len(waits) == client.THROTTLED_TRIES - 1
    await caller.close()
