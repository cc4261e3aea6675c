"""A shop with planted differences: each gets its class, and only what should be corrected is."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta

import pytest_asyncio
from aiohttp import web
from msgspec.structs import replace

from agents.comparison import Comparison, Limits, small
from app.local_kafka import free_port
from app.records import Drift, DriftClass
from benchmarks.planted import (
    CLASS_OF,
    DOMAIN,
    LEARNED_S,
    Plant,
    Planted,
    plants,
    shop_at,
    state_of,
    world_of,
    wrongly_classified,
)
from connectors.shopify.client import ShopClient
from connectors.shopify.simulator.model import LogKind
from connectors.shopify.simulator.server import make_app
from connectors.shopify.simulator.world import World
from tables.drift import Belief, belief_of

LISTINGS, EACH = 2_000, 50
NOW = float(int(time.time()))
LIMITS = Limits(settle_s=900, units=10)
PLANTS = plants(LISTINGS, EACH)


class Believed:
    """What is believed, in memory; the planted listings that move are learned of by the second look."""

    shop = DOMAIN

    def __init__(self, planted: Iterable[Plant], moving: Iterable[str] = ()) -> None:
        learned_ms = int((NOW - LEARNED_S) * 1000)
        states = ((plant.listing, state_of(plant)) for plant in planted)
        self.listings: dict[str, Belief] = {
            listing: belief_of(state, learned_ms) for listing, state in states if state is not None
        }
        self._moving = [set[str](), set(moving)]

    async def catch_up(self) -> set[str]:
        return self._moving.pop(0) if self._moving else set()


class Planting:
    """The served world, and a client for it."""

    def __init__(self, world: World, client: ShopClient) -> None:
        self.world = world
        self.client = client
        self.meanwhile: list[Plant] = []  # what is edited between two readings

    def comparison(self, *moving: str) -> Comparison:
        return Comparison(
            self.client, Believed(PLANTS, moving), LIMITS, clock=lambda: NOW, sleep=self._between
        )

    async def _between(self, seconds: float) -> None:
        for plant in self.meanwhile:
            edit = {"available": 1}
            self.world.move(
                self.world.shop(DOMAIN), plant.item, plant.location_id, LogKind.EDITED, deltas=edit
            )


@pytest_asyncio.fixture
async def planting() -> AsyncIterator[Planting]:
    shop = shop_at(free_port())
    world = world_of(PLANTS, shop, NOW)
    runner = web.AppRunner(make_app(world))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(shop.api_url.split(":")[2].split("/")[0])).start()
    client = ShopClient(shop)
    try:
        yield Planting(world, client)
    finally:
        await client.close()
        await runner.cleanup()


def of(*what: Planted) -> list[Plant]:
    return [plant for plant in PLANTS if plant.what in what]


def an_hour_old(found: Iterable[Drift]) -> dict[str, Drift]:
    return {one.key: replace(one, since=one.since - timedelta(hours=1)) for one in found}


async def test_every_planted_difference_is_found_in_its_class_and_no_other(planting: Planting) -> None:
    moving = [plant.listing for plant in of(Planted.MOVING)]
    comparison = planting.comparison(*moving)
    compared = await comparison.sweep(dict)
    assert wrongly_classified(PLANTS, compared.found) == []
    assert len(compared.found) == EACH * len(set(CLASS_OF.values()))
    assert (compared.moving, compared.gone) == (EACH, [])
    assert small(compared.found, LIMITS, comparison.beliefs.listings, "overrule") == [], "all of it is new"


async def test_only_small_old_unexplained_differences_of_quiet_listings_are_corrected(
    planting: Planting,
) -> None:
    few = of(Planted.OFF_BY_FEW)
    young, planting.meanwhile, correctable = few[:5], few[5:10], few[10:]
    listings = [plant.listing for plant in PLANTS if plant.what not in (Planted.NOTHING, Planted.MOVING)]
    comparison = planting.comparison()
    found = (await comparison.sample(listings, dict)).found
    known = an_hour_old(one for one in found if one.key not in {plant.listing for plant in young})
    found = (await comparison.sample(listings, lambda: known)).found
    few = small(found, LIMITS, comparison.beliefs.listings, comparison.policy)
    corrected = await comparison.correctable(few)
    assert {one.found.key for one in corrected} == {plant.listing for plant in correctable}
    available = {plant.listing: plant.available for plant in correctable}
    for one in corrected:
        assert one.correction.available == one.correction.units == available[one.found.key]
        assert (one.correction.hops, one.found.hops, one.correction.target_version) == (0, 1, 9)


def test_a_listing_with_a_reported_edit_is_not_corrected_unasked() -> None:
    at = datetime.fromtimestamp(NOW, UTC)
    found = Drift(
        shop=DOMAIN, item=1, location_id=2, kind=DriftClass.UNEXPLAINED, found_at=at,
        since=at - timedelta(hours=1), by="sample", units_off=3,
    )  # fmt: skip
    belief = Belief(
        sku="A", location="main", wanted=1, available=1, committed=0, physical_total=0, version=1, units=1,
        changed_ms=0,
    )  # fmt: skip
    assert small([found], LIMITS, {found.key: belief}, "overrule") == [found]
    assert small([found], LIMITS, {found.key: replace(belief, accepted=2)}, "overrule") == []


async def test_what_was_known_and_is_not_there_any_more_is_told_once(planting: Planting) -> None:
    fine, off = of(Planted.NOTHING)[0].listing, of(Planted.OFF_BY_FEW)[0].listing
    comparison = planting.comparison()
    found = (await comparison.sample([off], dict)).found
    known = {off: found[0], fine: replace(found[0], item=of(Planted.NOTHING)[0].item,
                                          location_id=of(Planted.NOTHING)[0].location_id)}  # fmt: skip
    compared = await comparison.sample([fine, off], lambda: known)
    assert [(one.key, one.kind) for one in compared.gone] == [(fine, DriftClass.NONE)]
    assert [one.key for one in compared.found] == [off]
