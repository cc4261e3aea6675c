"""Which orders have changed, asked of the simulator: every one, page by page, whatever their seconds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone

import pytest
from support.simulated import TEE, Simulated, simulated

from app.records import OrderNotice
from connectors.shopify import changed_orders as module
from connectors.shopify.changed_orders import changed_orders
from connectors.shopify.client import ShopClient, ShopUnavailable

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
ORDERS = 7


@pytest.fixture
async def shop() -> AsyncIterator[Simulated]:
    async with simulated() as running:
        yield running


@pytest.fixture
async def client(shop: Simulated) -> AsyncIterator[ShopClient]:
    made = ShopClient(shop.shop)
    yield made
    await made.close()


async def pages(client: ShopClient, since: datetime) -> list[list[OrderNotice]]:
    return [page async for page in changed_orders(client, since)]


async def sold(shop: Simulated, count: int) -> list[int]:
    return [(await shop.sell((TEE, 1)))["id"] for _ in range(count)]


@pytest.mark.parametrize("page", [1, 2, 3, ORDERS, 100])
async def test_every_order_is_told_though_many_are_of_one_second(
    shop: Simulated, client: ShopClient, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr(module, "PAGE", page)
    made = await sold(shop, ORDERS)
    found = await pages(client, LONG_AGO)
    assert {order.id for told in found for order in told} == set(made)
    times = [order.updated_at for told in found for order in told]
    assert times == sorted(times)
    assert len(found) <= ORDERS + 2, "it gets on with every page"


async def test_an_order_is_found_by_its_change_in_any_time_zone(shop: Simulated, client: ShopClient) -> None:
    await sold(shop, 2)
    [told] = await pages(client, LONG_AGO)
    newest = max(order.updated_at for order in told)
    assert await pages(client, newest + timedelta(seconds=1)) == [[]]
    elsewhere = newest.astimezone(timezone(timedelta(hours=-9)))
    assert newest in {order.updated_at for order in (await pages(client, elsewhere))[0]}


async def test_a_shop_that_does_not_let_us_see_orders_is_unavailable(
    shop: Simulated, client: ShopClient
) -> None:
    await shop.act("behave", shop=shop.shop.domain, scopes=["read_products"])
    with pytest.raises(ShopUnavailable, match="ACCESS_DENIED") as told:
        await pages(client, LONG_AGO)
    assert told.value.status == 403
