"""The catalog agent against the simulator over real HTTP: what webhooks about items lead to."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from msgspec.structs import replace
from support.one_lane import Memory, OneLane
from support.simulated import CAP, MAIN, STORE, TEE, Simulated, simulated

from agents import shop_queues
from agents.catalog import CatalogKeeper, item_key
from app.errors import Rejected
from app.exactly_once import SourceRecord
from app.records import Envelope, Listing, ListingChange, Listings, encode, headers, split_stock_key
from app.shops import Shop
from connectors.shopify.client import ShopClients
from tables.catalog import merge
from tables.listings import ListingIndex

pytestmark = pytest.mark.asyncio
DOMAIN = "sim.myshopify.com"
CODES = {MAIN: "main", STORE: "store"}


@pytest_asyncio.fixture
async def shop() -> AsyncIterator[Simulated]:
    async with simulated(subscribed="none") as running:
        yield running


class Bench:
    """The agent on one lane, and the listings as their owners unite them."""

    def __init__(self, shop: Shop, memory: Memory | None = None) -> None:
        self.lane = OneLane(memory if memory is not None else Memory())
        self.clients = ShopClients({shop.domain: shop})
        self.index = ListingIndex()
        self.keeper = CatalogKeeper(self.lane, self.clients, self.index, quiet_s=0.0)  # type: ignore[arg-type]  # one lane
        self._united = 0

    def list(self, key: str, *listings: Listing) -> None:
        """The listings of a key, as somebody wrote them."""
        sku, location = split_stock_key(key)
        self.index.put(key, Listings(sku=sku, location=location, listings=[*listings]))

    def hook(self, topic: str, key: str = DOMAIN, **body: Any) -> None:
        """A webhook comes in."""
        raw = msgspec.Raw(msgspec.json.encode(body))
        envelope = Envelope(shop=DOMAIN, topic=topic, received_at=datetime.now(UTC), body=raw)
        levels = topic.startswith("inventory_levels/")
        source = SourceRecord(
            "shopify.levels" if levels else "shopify.catalog", 0, 0, int(time.time() * 1000),
            f"{key}/1/2".encode() if levels else key.encode(), encode(envelope), headers(envelope, "test"),
        )  # fmt: skip
        self.lane.decide(lambda transaction: self.keeper.take(transaction, source))

    @property
    def changes(self) -> list[ListingChange]:
        """All that was sent."""
        values = [value for topic, _, value in self.lane.out if topic == "stock.listing-changes"]
        return [msgspec.json.decode(value, type=ListingChange) for value in values if value is not None]

    @property
    def steps(self) -> list[str]:
        """The same, as ``+key`` and ``-key``."""
        return [f"{'-' if one.removed else '+'}{one.key}" for one in self.changes]

    def come_round(self) -> None:
        """What was sent is united, and known to the agent."""
        for change in self.changes[self._united :]:
            known = self.index.of(change.key)
            self.index.put(change.key, replace(known, listings=merge(known.listings, change)))
        self._united = len(self.changes)

    async def until(self, condition: Callable[[], object], what: str) -> None:
        assert what
        await self.lane.until(condition)

    async def read(self) -> None:
        """Until everything that is wanted is read, and has come round."""
        await self.until(lambda: not (*self.wanted(), *self.ids()) and self.lane.idle, "all is read")
        self.come_round()

    def wanted(self) -> Iterator[bytes]:
        return (key for key, _ in self.lane.scan(self.keeper.item_reads))

    def ids(self) -> Iterator[int]:
        """How often the ids of all items are wanted, of every shop."""
        return (wanted.times for _, wanted in self.lane.scan(self.keeper.id_reads))


@asynccontextmanager
async def bench(shop: Simulated, memory: Memory | None = None, **fields: Any) -> AsyncIterator[Bench]:
    """A running agent of a shop that lists the cap."""
    made = Bench(replace(shop.shop, **{"locations": CODES, **fields}), memory)
    made.list("CAP@main", listing(CAP))
    made.lane.open()
    try:
        yield made
        assert not made.lane.failures, made.lane.failures
    finally:
        await made.lane.close()
        await made.clients.close()


def listing(item: int, location: int = MAIN, **more: Any) -> Listing:
    variant = {TEE: 9001, CAP: 9002}.get(item, item + 1)
    return Listing(shop=DOMAIN, item=item, variant=variant, location_id=location, **{"by_sku": True, **more})


async def calls(shop: Simulated) -> int:
    """How many calls the shop has answered."""
    return len(await shop.log("request"))


async def test_a_new_item_is_listed_where_it_is_stocked(shop: Simulated) -> None:
    async with bench(shop) as agent:
        began_ms = int(time.time() * 1000)
        agent.hook("inventory_items/create", id=TEE, sku="TEE", tracked=True)
        await agent.read()
        assert sorted(agent.steps) == ["+TEE@main", "+TEE@store"]
        main = next(one.listing for one in agent.changes if one.key == "TEE@main")
        assert main == listing(TEE, generation=main.generation)
        assert main.generation >= began_ms
        assert {one.correlation_id for one in agent.changes} == {"test"}


@pytest.mark.parametrize("fields", [{"locations": {}}, {"domain": "other.myshopify.com"}, {}])
async def test_nothing_is_read_of_a_shop_that_is_not_mapped(shop: Simulated, fields: Any) -> None:
    async with bench(shop, **fields) as agent:
        if not fields:
            agent.list("CAP@main")
        agent.hook("inventory_items/create", id=TEE, sku="TEE", tracked=True)
        assert list(agent.wanted()) == []


async def test_an_item_with_another_sku_moves_and_its_generation_rises(shop: Simulated) -> None:
    ahead = int(time.time() * 1000) + 60_000
    async with bench(shop) as agent:
        agent.list("CAP@main", listing(CAP, buffer=2, generation=ahead))
        await shop.act("edit-item", shop=DOMAIN, item=CAP, sku="HAT")
        agent.hook("inventory_items/update", id=CAP, sku="HAT", tracked=True)
        await agent.read()
        assert agent.steps == ["-CAP@main", "+HAT@main"]
        assert agent.index.of("HAT@main").listings == [listing(CAP, buffer=2, generation=ahead + 1)]
        assert agent.index.of("CAP@main").listings == []


async def test_webhooks_that_say_nothing_new_cost_no_call(shop: Simulated) -> None:
    async with bench(shop) as agent:
        agent.hook("inventory_items/update", id=CAP, sku="CAP", tracked=True)
        await agent.read()
        before = await calls(shop)
        agent.hook("inventory_items/update", id=CAP, sku="CAP", tracked=True)
        agent.hook("products/update", id=1, variants=[{"inventory_item_id": CAP, "sku": "CAP"}])
        agent.hook("locations/update", id=MAIN)
        assert list(agent.wanted()) == []
        agent.hook("products/update", id=1, variants=[{"inventory_item_id": TEE, "sku": "TEE"}, {"sku": "x"}])
        assert list(agent.wanted()) == [item_key(DOMAIN, TEE)]
        await agent.read()
        assert await calls(shop) == before + 1
        assert sorted(agent.steps) == ["+TEE@main", "+TEE@store"]


async def test_what_is_not_counted_or_not_stocked_any_more_is_not_listed(shop: Simulated) -> None:
    async with bench(shop) as agent:
        agent.list("TEE@store", listing(TEE, STORE))
        await shop.act("edit-item", shop=DOMAIN, item=CAP, tracked=False)
        agent.hook("inventory_items/update", id=CAP, sku="CAP", tracked=False)
        await shop.act("edit", shop=DOMAIN, item=TEE, location=STORE, active=False)
        agent.hook("inventory_levels/disconnect", inventory_item_id=TEE, location_id=STORE)
        await agent.read()
        assert sorted(agent.steps) == ["+TEE@main", "-CAP@main", "-TEE@store"]


async def test_the_listings_of_a_deleted_item_are_taken_away(shop: Simulated) -> None:
    async with bench(shop) as agent:
        agent.hook("inventory_items/update", id=CAP, sku="CAP", tracked=True)
        await agent.read()
        await shop.act("edit-item", shop=DOMAIN, item=CAP, deleted=True)
        agent.hook("inventory_items/delete", id=CAP)
        await agent.read()
        assert agent.steps == ["-CAP@main"]
        assert list(agent.lane.scan(agent.keeper.items)) == []


async def test_a_deleted_product_has_all_listed_items_looked_for_and_the_missing_ones_taken_away(
    shop: Simulated,
) -> None:
    async with bench(shop) as agent:
        agent.list("TEE@store", listing(TEE, STORE))
        await shop.act("edit-item", shop=DOMAIN, item=CAP, deleted=True)
        for number in range(3):  # only their ids come: nobody knows which items they had
            agent.hook("products/delete", id=788032119674292922 + number)
        assert (list(agent.wanted()), list(agent.ids())) == ([], [3])
        await agent.read()
        assert agent.steps == ["-CAP@main"]
        assert len(await shop.log("bulk_ended")) == 1


async def test_a_product_that_is_deleted_while_the_ids_are_read_has_them_read_again(shop: Simulated) -> None:
    async with bench(shop) as agent:
        agent.hook("products/delete", id=1)
        agent.hook("products/delete", id=2)
        agent.lane.decide(lambda transaction: agent.keeper.compare_ids(transaction, DOMAIN, {TEE, CAP}, 1))
        assert list(agent.ids()) == [2]
        await agent.read()
        assert agent.steps == []


async def test_a_location_that_changes_has_its_items_read(shop: Simulated) -> None:
    async with bench(shop) as agent:
        agent.list("TEE@store", listing(TEE, STORE))
        agent.hook("locations/deactivate", id=STORE)
        assert list(agent.wanted()) == [item_key(DOMAIN, TEE)]


async def test_what_was_sent_counts_as_made_before_it_has_come_round(shop: Simulated) -> None:
    async with bench(shop) as agent:
        for sku in ("TEE", "another"):  # the second one is news, but what is read is the same
            agent.hook("inventory_items/create", id=TEE, sku=sku, tracked=True)
            await agent.until(lambda: not list(agent.wanted()) and agent.lane.idle, "it is read")
        assert sorted(agent.steps) == ["+TEE@main", "+TEE@store"]


async def test_a_webhook_that_comes_while_its_item_is_read_has_it_read_again(shop: Simulated) -> None:
    async with bench(shop) as agent:
        agent.hook("inventory_items/create", id=TEE, sku="TEE", tracked=True)
        agent.hook("inventory_items/update", id=TEE, sku="SHIRT", tracked=True)
        [(key, wanted)] = agent.lane.scan(agent.keeper.item_reads)
        assert (key, wanted.times) == (item_key(DOMAIN, TEE), 2)
        early = {TEE: 1}
        agent.lane.decide(lambda transaction: agent.keeper.answer(transaction, DOMAIN, {TEE: None}, early))
        assert list(agent.wanted()) == [key]
        await agent.read()
        assert sorted(agent.steps) == ["+TEE@main", "+TEE@store"]


async def test_what_was_wanted_of_a_worker_that_is_gone_is_read_by_the_next(shop: Simulated) -> None:
    memory = Memory()
    first = Bench(replace(shop.shop, locations=CODES), memory)
    first.list("CAP@main", listing(CAP))
    first.hook("inventory_items/create", id=TEE, sku="TEE", tracked=True)
    first.hook("products/delete", id=1)
    await shop.act("edit-item", shop=DOMAIN, item=CAP, deleted=True)
    assert len([*first.wanted(), *first.ids()]) == 2  # its lane was never open: nothing is read
    async with bench(shop, memory) as agent:
        await agent.read()
        assert sorted(agent.steps) == ["+TEE@main", "+TEE@store", "-CAP@main"]


async def test_a_shop_that_does_not_answer_is_asked_again(
    shop: Simulated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shop_queues, "BACKOFF_S", (0.01,))
    async with bench(shop) as agent:
        await shop.act("faults", next={"error_before": 2})
        agent.hook("inventory_items/create", id=TEE, sku="TEE", tracked=True)
        await agent.read()
        assert sorted(agent.steps) == ["+TEE@main", "+TEE@store"]
        await shop.act("behave", shop=DOMAIN, door=423, door_s=0.3)
        agent.hook("products/delete", id=1)
        await agent.read()


async def test_webhooks_of_a_wrong_shape_or_under_another_shop_are_refused(shop: Simulated) -> None:
    async with bench(shop) as agent:
        with pytest.raises(Rejected, match="numeric id"):
            agent.hook("inventory_items/update", id="gid://shopify/InventoryItem/5")
        with pytest.raises(Rejected, match=r"other\.myshopify\.com"):
            agent.hook("inventory_items/update", key="other.myshopify.com", id=TEE)
