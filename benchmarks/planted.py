"""A shop and what we believe of it, with planted differences of every class, for reconcile.

``python -m benchmarks.planted PORT LISTINGS EACH NOW`` serves the shop, so that its memory is not that of
the comparison.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterable, Iterator
from enum import StrEnum
from random import Random
from typing import NamedTuple

from aiohttp import web

from app.records import Drift, DriftClass, Target, listing_key
from app.shops import Shop
from connectors.shopify.simulator.model import LogKind
from connectors.shopify.simulator.server import make_app, shop_config
from connectors.shopify.simulator.world import ShopState, World
from tables.pushes import PushState

DOMAIN = "planted.myshopify.com"
LOCATIONS = (71, 72)
FIRST_ITEM, FIRST_VARIANT, ABSENT = 10_000_000, 50_000_000, 90_000_000
OPENED_S, LEARNED_S, EDITED_S, ORDERED_S, RECENT_S = 10_800.0, 7_200.0, 3_600.0, 600.0, 60.0
"""So long ago, in seconds: the levels were made, we last learned of them, and things happened in the shop."""
SMALL, LARGE = 3, 40
"""Unexplained units: fewer and more than what is corrected without being asked."""


class Planted(StrEnum):
    """What is wrong with a listing."""

    NOTHING = "nothing"
    MOVING = "moving"  # it is off, and we learn something of it while the shop is read
    OPEN_WRITE = "open_write"
    TO_BE_WRITTEN = "to_be_written"
    ORDER = "order"
    NO_LISTING = "no_listing"
    NO_LEVEL = "no_level"
    DEACTIVATED = "deactivated"
    SHIPPED = "shipped"
    RECENT = "recent"
    EDITED = "edited"
    OFF_BY_FEW = "off_by_few"
    OFF_BY_MANY = "off_by_many"


CLASS_OF = {
    Planted.OPEN_WRITE: DriftClass.PUSH_IN_FLIGHT,
    Planted.TO_BE_WRITTEN: DriftClass.PUSH_IN_FLIGHT,
    Planted.ORDER: DriftClass.ORDER_IN_FLIGHT,
    Planted.NO_LISTING: DriftClass.UNMAPPED,
    Planted.NO_LEVEL: DriftClass.UNMAPPED,
    Planted.DEACTIVATED: DriftClass.INACTIVE,
    Planted.SHIPPED: DriftClass.LATE_WEBHOOK,
    Planted.RECENT: DriftClass.LATE_WEBHOOK,
    Planted.EDITED: DriftClass.MERCHANT_EDIT,
    Planted.OFF_BY_FEW: DriftClass.UNEXPLAINED,
    Planted.OFF_BY_MANY: DriftClass.UNEXPLAINED,
}
"""What reconcile should call it."""


class Plant(NamedTuple):
    """One listing."""

    item: int
    location_id: int
    available: int
    what: Planted

    @property
    def listing(self) -> str:
        """Its key."""
        return listing_key(DOMAIN, self.item, self.location_id)


def plants(listings: int, each: int) -> list[Plant]:
    """So many listings, ``each`` of them with a difference of each class (and as many that move), mixed."""
    kinds = [*CLASS_OF, Planted.MOVING]
    sizes = {kind: list(CLASS_OF.values()).count(CLASS_OF.get(kind, DriftClass.NONE)) or 1 for kind in kinds}
    wrong = [kind for kind in kinds for _ in range(each // sizes[kind])]
    what = [*wrong, *[Planted.NOTHING] * (listings - len(wrong))]
    random = Random(5)
    random.shuffle(what)
    return [
        Plant(
            item=(ABSENT if kind is Planted.NO_LEVEL else FIRST_ITEM) + number // len(LOCATIONS),
            location_id=LOCATIONS[number % len(LOCATIONS)],
            available=random.randint(5, 60),
            what=kind,
        )
        for number, kind in enumerate(what)
    ]


def state_of(plant: Plant) -> PushState | None:
    """What the writer believes of the listing."""
    if plant.what is Planted.NO_LISTING:
        return None
    committed = 1 if plant.what is Planted.SHIPPED else 0
    off = {Planted.OFF_BY_FEW: SMALL, Planted.OFF_BY_MANY: -LARGE, Planted.MOVING: SMALL}.get(plant.what, 0)
    shown = plant.available - committed - off
    target = Target(
        shop=DOMAIN,
        item=plant.item,
        location_id=plant.location_id,
        sku=f"SKU-{plant.item}",
        location="main",
        available=max(0, shown),
        wanted=max(0, shown) + (5 if plant.what is Planted.TO_BE_WRITTEN else 0),
        committed=committed,
        physical_total=-2,
        version=9,
    )
    intent = "open" if plant.what is Planted.OPEN_WRITE else ""
    return PushState(target=target, offset=max(0, shown) + committed + 2, intent=intent)


def world_of(planted: Iterable[Plant], shop: Shop, now: float) -> World:
    """The shop, as all of it is at ``now`` (epoch seconds)."""
    at = [now - OPENED_S]
    world = World(clock=lambda: at[0], monotonic=time.monotonic, random=Random(7))
    state = world.add_shop(shop_config(shop, "http://127.0.0.1:9/none"))
    for location_id in LOCATIONS:
        world.add_location(DOMAIN, location_id, str(location_id))
    there = [plant for plant in planted if plant.what is not Planted.NO_LEVEL]
    for item, levels in _by_item(there):
        world.add_item(
            DOMAIN,
            f"SKU-{item}",
            item_id=item,
            variant_id=item - FIRST_ITEM + FIRST_VARIANT,
            available=levels,
        )
    for plant in there:
        if plant.what is Planted.SHIPPED:
            _move(world, state, plant, LogKind.SOLD, available=-1, committed=1)
        for ago_s, kind, deltas in _happened(plant):
            at[0] = now - ago_s
            _move(world, state, plant, kind, **deltas)
        if plant.what is Planted.DEACTIVATED:
            world.set_active(state, plant.item, plant.location_id, active=False)
        at[0] = now - OPENED_S
    at[0] = now
    return world


def _happened(plant: Plant) -> Iterator[tuple[float, LogKind, dict[str, int]]]:
    """What moved in the shop after we last learned of the listing."""
    if plant.what is Planted.ORDER:
        yield ORDERED_S, LogKind.SOLD, {"available": -2, "committed": 2}
    if plant.what is Planted.SHIPPED:
        yield EDITED_S, LogKind.FULFILLED, {"committed": -1}
    if plant.what is Planted.RECENT:
        yield RECENT_S, LogKind.EDITED, {"available": 3}
    if plant.what is Planted.EDITED:
        yield EDITED_S, LogKind.EDITED, {"available": 4}


def _move(world: World, state: ShopState, plant: Plant, kind: LogKind, **deltas: int) -> None:
    world.move(state, plant.item, plant.location_id, kind, deltas=deltas)


def _by_item(planted: Iterable[Plant]) -> Iterator[tuple[int, dict[int, int]]]:
    levels: dict[int, dict[int, int]] = {}
    for plant in planted:
        levels.setdefault(plant.item, {})[plant.location_id] = plant.available
    yield from levels.items()


def shop_at(port: int) -> Shop:
    """The shop, served at a port of this machine; what nothing explains may be corrected there."""
    return Shop(
        domain=DOMAIN,
        api_url=f"http://127.0.0.1:{port}/{DOMAIN}",
        access_token="example-token",
        webhook_secrets=("example-secret",),
        default_location_id=LOCATIONS[0],
        hand_edits="overrule",
    )


def wrongly_classified(planted: Iterable[Plant], found: Iterable[Drift]) -> list[str]:
    """Every listing whose class is not that of what was planted, in words."""
    told = {one.key: one.kind for one in found}
    wanted = {plant.listing: CLASS_OF.get(plant.what) for plant in planted}
    return [
        f"{listing}: expected {wanted.get(listing)}, found {told.get(listing)}"
        for listing in sorted(told.keys() | wanted.keys())
        if told.get(listing) != wanted.get(listing)
    ]


async def _serve(port: int, listings: int, each: int, now: float) -> None:
    runner = web.AppRunner(make_app(world_of(plants(listings, each), shop_at(port), now)))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
