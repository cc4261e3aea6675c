"""A small world with a clock that only moves when it is told to."""

from __future__ import annotations

from random import Random

import pytest

from connectors.shopify.simulator.model import Item, Level, ShopConfig
from connectors.shopify.simulator.world import ShopState, World

DOMAIN = "demo-a.myshopify.com"
MAIN, STORE = 71, 72  # locations
STARTED = 1_793_000_000.0


class Clock:
    """Epoch seconds, set by hand."""

    def __init__(self) -> None:
        self.now = STARTED

    def __call__(self) -> float:
        return self.now


class Shop:
    """A shop with two locations, a tee (10 in MAIN, 3 in STORE) and an untracked gift wrap."""

    domain = DOMAIN
    main = MAIN
    store = STORE

    def __init__(self, clock: Clock, webhook_url: str = "http://127.0.0.1:1/webhooks/shopify") -> None:
        self.world = World(clock=clock, monotonic=clock, random=Random(7))
        config = ShopConfig(
            domain=DOMAIN,
            access_token="shpat_demo",
            webhook_secret="shpss_demo",
            webhook_url=webhook_url,
            default_location_id=MAIN,
        )
        self.world.add_shop(config)
        self.world.add_location(DOMAIN, STORE, "Store")
        self.tee: Item = self.world.add_item(DOMAIN, "TEE", item_id=5001, available={MAIN: 10, STORE: 3})
        self.wrap: Item = self.world.add_item(DOMAIN, "WRAP", tracked=False, available={MAIN: 0})

    @property
    def state(self) -> ShopState:
        return self.world.shop(DOMAIN)

    def level(self, location: int = MAIN) -> Level:
        return self.state.levels[self.tee.id, location]

    def quantities(self, location: int = MAIN) -> tuple[int, int, int]:
        """(available, committed, on_hand) of the tee."""
        level = self.level(location)
        return level.available, level.committed, level.on_hand


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def shop(clock: Clock) -> Shop:
    return Shop(clock)


@pytest.fixture
def make_shop(clock: Clock) -> type[Shop]:
    return Shop
