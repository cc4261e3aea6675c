"""Onboarding and upkeep on real Kafka: catalogs become listings, stock is adopted, published, kept up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import msgspec
import pytest
import pytest_asyncio

from app import opening
from app.catalog import sync
from app.dev.shops import DOMAINS, SimulatorAdmin, location_id
from app.dev.supervisor import Stack
from app.kafka_tools import all_listings, levels, read_topic, send_listing_changes
from app.records import DeadLetter, StockRecord
from app.settings import Settings, load_settings
from app.shops import Shop, load_shops
from tables import pushes
from tables.pushes import PushState

pytestmark = [pytest.mark.kafka, pytest.mark.asyncio(loop_scope="module")]

LIMIT_S = 60.0
NORTH, SOUTH = DOMAINS
TEE, CAP, MUG, PEN = 1, 2, 3, 4
QUIET_S = 3.0


class Running:
    """The stack, whose shops have stock and open orders before we know anything of them."""

    def __init__(self, stack: Stack, admin: SimulatorAdmin) -> None:
        self.settings: Settings = stack.settings
        self.admin = admin
        self.shops = load_shops(stack.shops_file)
        self.reconcile_url = stack.processes["reconcile"].state.url

    def shop(self, domain: str) -> Shop:
        return self.shops[domain]

    async def sell(self, domain: str, item: int, quantity: int) -> dict[str, Any]:
        answer = await self.admin.act("sell", shop=domain, lines=[{"item": item, "quantity": quantity}])
        order: dict[str, Any] = answer["order"]
        return order

    async def shown(self, domain: str, item: int) -> dict[str, int]:
        """What the shop has at its main location."""
        rows = (await self.admin.see("stock"))["levels"]
        place = (domain, item, location_id(DOMAINS.index(domain), 0))
        row = next(one for one in rows if (one["shop"], one["item"], one["location"]) == place)
        return {name: row[name] for name in ("available", "committed", "on_hand")}

    async def record(self, key: str) -> StockRecord:
        return (await levels(self.settings)).get(key, StockRecord())

    async def listed(self) -> dict[str, list[str]]:
        """The listings of every key that has some."""
        return {
            f"{one.sku}@{one.location}": sorted(each.key for each in one.listings)
            for one in await all_listings(self.settings)
            if one.listings
        }

    async def agrees(self, domain: str, item: int, key: str) -> bool:
        """Whether our key has what the shop has, and nothing is oversold."""
        shown, level = await self.shown(domain, item), (await self.record(key)).level
        return shown == {"available": level.available, "committed": level.committed, "on_hand": level.on_hand}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    stack = Stack(tmp_path_factory.mktemp("stack"), load_settings())
    try:
        await stack.start()
        await stack.wait_healthy(LIMIT_S)
        async with SimulatorAdmin(stack.simulator_url) as admin:
            running = Running(stack, admin)
            for number, domain in enumerate(DOMAINS):
                main = str(location_id(number, 0))
                items = [
                    {"sku": "TEE", "item": TEE, "variant": 101, "available": {main: 20 + number}},
                    {"sku": "CAP", "item": CAP, "variant": 102, "available": {main: 5}},
                ]
                await admin.act("items", shop=domain, items=items)
            yield running
    finally:
        await stack.stop()


async def until(condition: Callable[[], Awaitable[object]], what: str) -> None:
    try:
        async with asyncio.timeout(LIMIT_S):
            while not await condition():  # each look is a request, which gives way to everything else
                pass
    except TimeoutError:
        raise AssertionError(f"not within {LIMIT_S} s: {what}") from None


def key_of(domain: str, item: int) -> str:
    return f"{domain}/{item}/{location_id(DOMAINS.index(domain), 0)}"


async def test_orders_of_before_wait_for_the_listings_that_sync_sends(running: Running) -> None:
    waiting = await running.sell(NORTH, CAP, 2)
    await until(lambda: _dead_letter(running.settings, f"/{waiting['id']}"), "the order has no listing")
    [found] = await sync(running.settings, [running.shop(NORTH)], set(), move=False)
    assert found.comparison.counts == {"new": 2}
    assert await running.listed() == {}
    await send_listing_changes(running.settings, found.changes)
    await until(lambda: _is(running.listed(), _keys(NORTH)), "the listings are there")
    await until(lambda: _committed(running, "CAP@main", 2), "the order counts now")
    [again] = await sync(running.settings, [running.shop(NORTH)], set(), move=False)
    assert (again.comparison.unchanged, again.changes) == (2, [])


async def test_adopted_stock_with_open_orders_ends_right(running: Running) -> None:
    orders = [await running.sell(NORTH, TEE, quantity) for quantity in (1, 2, 3, 4)]
    fulfilled, cancelled, refunded, _kept = (order["id"] for order in orders)
    plan = await opening.adopt(running.settings, [running.shop(NORTH)], quiet_s=QUIET_S)
    assert plan.plan.counts == {"adopt": 2}
    assert {one.key: one.available for one in plan.plan.keys} == {"TEE@main": 10, "CAP@main": 3}
    assert (await running.record("TEE@main")).opened_at is None
    await opening.carry_out(running.settings, plan)
    # At once: whatever the writer knows of the listing by then, a shipment is subtracted once.
    await running.admin.act("fulfil", shop=NORTH, order=fulfilled)
    await running.admin.act("cancel", shop=NORTH, order=cancelled, restock=True)
    line = orders[2]["line_items"][0]["id"]
    await running.admin.act("refund", shop=NORTH, order=refunded, lines={line: 2}, restock_type="no_restock")
    await until(lambda: _on_hand(running, "TEE@main", 17), "what became of the open orders")
    await until(lambda: running.agrees(NORTH, TEE, "TEE@main"), "our stock is the shop's")
    await until(lambda: _believed(running, NORTH, TEE), "the writer believes what the shop has")
    assert not await _pushed(running, NORTH)


async def test_a_second_shop_waits_until_it_is_published(running: Running) -> None:
    held_by = await running.sell(SOUTH, TEE, 2)
    opened = {key for key, record in (await levels(running.settings)).items() if record.opened_at}
    [found] = await sync(running.settings, [running.shop(SOUTH)], opened, move=False)
    assert (found.changes, len(found.held)) == ([], 2)
    plan = await opening.publish(running.settings, [running.shop(SOUTH)])
    shows = {one.key: (one.shows, one.will_show) for one in plan.plan.listings}
    assert shows == {"TEE@main": (19, 10), "CAP@main": (5, 3)}
    await opening.carry_out(running.settings, plan)
    await until(lambda: _available(running, SOUTH, TEE, 10), "the second shop shows what we have")
    await until(lambda: _available(running, NORTH, TEE, 10), "less what its order holds")
    await running.admin.act("fulfil", shop=SOUTH, order=held_by["id"])
    await until(lambda: _on_hand(running, "TEE@main", 15), "its order ends")


async def test_what_a_merchant_does_to_items_reaches_the_listings(running: Running) -> None:
    both = sorted([key_of(NORTH, CAP), key_of(SOUTH, CAP)])
    assert (await running.listed())["CAP@main"] == both
    # In both shops at once: the changes of one key are united, whoever finds them first.
    await asyncio.gather(*(_renamed(running, domain, CAP, "HAT") for domain in DOMAINS))
    await until(lambda: _has(running, "HAT@main", both), "the listings follow the SKU")
    await until(lambda: _has(running, "CAP@main", None), "they are listed under the new SKU alone")
    before = await running.listed()
    await _renamed(running, NORTH, CAP, "TEE")
    await until(lambda: _found(running, "duplicate_sku"), "a SKU that is taken is reported")
    assert await running.listed() == before


async def test_new_and_disconnected_and_deleted_items(running: Running) -> None:
    main = str(location_id(0, 0))
    for item in (MUG, PEN):
        new = {"sku": f"NEW-{item}", "item": item, "variant": 100 + item, "available": {main: 1}}
        await running.admin.act("items", shop=NORTH, items=[new], told=True)
    await until(lambda: _has(running, f"NEW-{MUG}@main", [key_of(NORTH, MUG)]), "a new item is listed")
    await until(lambda: _has(running, f"NEW-{PEN}@main", [key_of(NORTH, PEN)]), "and another")
    await running.admin.act("edit", shop=NORTH, item=MUG, location=int(main), active=False)
    await running.admin.act("edit-item", shop=NORTH, item=PEN, deleted=True)
    await until(lambda: _has(running, f"NEW-{MUG}@main", None), "where it is not stocked it is not listed")
    await until(lambda: _has(running, f"NEW-{PEN}@main", None), "what is deleted is not listed")
    await running.admin.act("edit", shop=NORTH, item=MUG, location=int(main), active=True)
    await until(lambda: _has(running, f"NEW-{MUG}@main", [key_of(NORTH, MUG)]), "stocked again")


async def _renamed(running: Running, domain: str, item: int, sku: str) -> None:
    await running.admin.act("edit-item", shop=domain, item=item, sku=sku)


async def _has(running: Running, key: str, listings: list[str] | None) -> bool:
    return (await running.listed()).get(key) == listings


async def _found(running: Running, finding: str) -> bool:
    """Whether the catalog agent has counted such a finding."""
    async with aiohttp.ClientSession() as session, session.get(f"{running.reconcile_url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return any(
        line.startswith("skustream_catalog_findings_total{") and f'"{finding}"' in line for line in lines
    )


def _keys(*domains: str) -> dict[str, list[str]]:
    return {
        name: sorted(key_of(domain, item) for domain in domains)
        for name, item in (("TEE@main", TEE), ("CAP@main", CAP))
    }


async def _is(value: Awaitable[object], wanted: object) -> bool:
    return await value == wanted


async def _committed(running: Running, key: str, units: int) -> bool:
    return (await running.record(key)).level.committed == units


async def _on_hand(running: Running, key: str, units: int) -> bool:
    return (await running.record(key)).level.on_hand == units


async def _available(running: Running, domain: str, item: int, units: int) -> bool:
    return (await running.shown(domain, item))["available"] == units


async def _pushed(running: Running, domain: str) -> list[Any]:
    entries = (await running.admin.see("log"))["entries"]
    return [one for one in entries if one["kind"] == "pushed" and one["shop"] == domain]


async def _believed(running: Running, domain: str, item: int) -> bool:
    """Whether the writer believes of a listing what the shop has."""
    newest: PushState | None = None
    async for records in read_topic(running.settings, "skustream.shopify.pushes"):
        for record in records:
            if record.key == key_of(domain, item).encode() and record.value is not None:
                newest = msgspec.json.decode(record.value, type=PushState)
    shown = await running.shown(domain, item)
    return newest is not None and pushes.units(newest) == shown["available"] + shown["committed"]


async def _dead_letter(settings: Settings, text: str) -> bool:
    async for records in read_topic(settings, "dead-letters.orders"):
        if any(text in msgspec.json.decode(one.value, type=DeadLetter).message for one in records):
            return True
    return False
