"""The state of all simulated shops, in memory, and the log of everything that happened to it.

Levels change in one place, ``World.move``, which writes the log; no clock but the given one is read.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from itertools import count
from random import Random
from typing import Any, Literal

from msgspec.structs import replace

from connectors.shopify.simulator.behaviour import Behaviour
from connectors.shopify.simulator.model import (
    TOPICS,
    Item,
    Level,
    Location,
    LogEntry,
    LogKind,
    NotPossible,
    Order,
    ShopConfig,
    Subscription,
    Webhook,
)

FIRST_ID = 2**53 + 1
"""Made ids start where floats stop being exact: a reader that takes them for floats is caught (facts 5.2)."""

FIRST_ORDER_NUMBER = 1001
"""Shopify's own first order number."""


class ShopState:
    """Everything one shop holds."""

    def __init__(self, config: ShopConfig) -> None:
        self.config = config
        self.locations: dict[int, Location] = {}
        self.items: dict[int, Item] = {}
        self.item_of_variant: dict[int, int] = {}
        self.levels: dict[tuple[int, int], Level] = {}
        self.locations_of_item: dict[int, list[int]] = {}  # where the item has a level, active or not
        self.items_of_sku: dict[str, list[int]] = {}  # a SKU is not unique in Shopify
        self.level_of_id: dict[int, tuple[int, int]] = {}
        self.orders: dict[int, Order] = {}
        self.subscriptions: dict[int, Subscription] = {}
        self.behaviour = Behaviour()
        self.order_numbers = count(FIRST_ORDER_NUMBER)

    def find(self, *, item: int | None = None, variant: int | None = None, sku: str | None = None) -> Item:
        """The item by the first of the given names; raises NotPossible when there is none."""
        if item is None and variant is not None:
            item = self.item_of_variant.get(variant)
        if item is None and sku is not None:
            item = next(iter(self.items_of_sku.get(sku, ())), None)
        if item not in self.items:
            raise NotPossible(
                f"{self.config.domain} has no such item: item {item} variant {variant} SKU {sku}"
            )
        return self.items[item]

    def order(self, order_id: int) -> Order:
        """The order; raises NotPossible when there is none."""
        if order_id not in self.orders:
            raise NotPossible(f"{self.config.domain} has no order {order_id}")
        return self.orders[order_id]

    def levels_of(self, item_id: int) -> list[Level]:
        """Every level of an item, active or not."""
        return [self.levels[item_id, place] for place in self.locations_of_item.get(item_id, ())]

    def available(self, item_id: int, location_id: int) -> int:
        """Units that a shopper can buy there; an inactive or absent level sells nothing."""
        level = self.levels.get((item_id, location_id))
        return level.available if level is not None and level.active else 0


class World:
    """All shops and the log."""

    def __init__(self, *, clock: Callable[[], float], monotonic: Callable[[], float], random: Random) -> None:
        self.clock = clock
        self.random = random
        self.shops: dict[str, ShopState] = {}
        self.log: list[LogEntry] = []
        self.monotonic = monotonic
        self._ids = count(FIRST_ID)

    def shop(self, domain: str) -> ShopState:
        """The shop; raises NotPossible when there is none."""
        if domain not in self.shops:
            raise NotPossible(f"no shop {domain}; there are {', '.join(sorted(self.shops)) or 'none'}")
        return self.shops[domain]

    def new_id(self) -> int:
        """A number that nothing else in this world has."""
        return next(self._ids)

    def new_uuid(self) -> str:
        """A random UUID from the world's own seed."""
        return str(uuid.UUID(int=self.random.getrandbits(128), version=4))

    def add_shop(self, config: ShopConfig) -> ShopState:
        """A new shop with its default location and subscriptions; raises NotPossible when it is there."""
        if config.domain in self.shops:
            raise NotPossible(f"there is a shop {config.domain} already")
        self.shops[config.domain] = shop = ShopState(config)
        self.add_location(config.domain, config.default_location_id, "Default")
        if config.subscribed != "none":
            self._subscribe_all(shop, by_api=config.subscribed == "api")
        return shop

    def _subscribe_all(self, shop: ShopState, *, by_api: bool) -> None:
        now = self.clock()
        for topic in TOPICS:
            made = Subscription(
                id=self.new_id(),
                topic=topic,
                uri=shop.config.webhook_url,
                created_at=now,
                updated_at=now,
                by_api=by_api,
            )
            shop.subscriptions[made.id] = made

    def add_location(self, domain: str, location_id: int, name: str, *, active: bool = True) -> Location:
        """A location of a shop, or another name or state for one that is there."""
        shop = self.shop(domain)
        created_at = shop.locations[location_id].created_at if location_id in shop.locations else self.clock()
        shop.locations[location_id] = Location(
            id=location_id, name=name, created_at=created_at, active=active
        )
        return shop.locations[location_id]

    def add_item(
        self,
        domain: str,
        sku: str,
        *,
        item_id: int | None = None,
        variant_id: int | None = None,
        tracked: bool = True,
        policy: Literal["DENY", "CONTINUE"] = "DENY",
        price: str = "19.90",
        gift_card: bool = False,
        available: Mapping[int, int] | None = None,
    ) -> Item:
        """A new item with its levels (location id to units). It is set-up: nothing is sent or logged.

        Raises:
            NotPossible: when an id is taken or a location is unknown.
        """
        shop = self.shop(domain)
        unknown = sorted(set(available or {}) - set(shop.locations))
        if unknown:
            raise NotPossible(f"{domain}: SKU {sku}: no location {unknown[0]}")
        if item_id in shop.items or variant_id in shop.item_of_variant:
            raise NotPossible(f"{domain}: SKU {sku}: item {item_id} or variant {variant_id} is there already")
        item = Item(
            id=self.new_id() if item_id is None else item_id,
            variant_id=self.new_id() if variant_id is None else variant_id,
            product_id=self.new_id(),
            sku=sku,
            tracked=tracked,
            policy=policy,
            price=price,
            created_at=self.clock(),
            gift_card=gift_card,
        )
        shop.items[item.id] = item
        shop.item_of_variant[item.variant_id] = item.id
        shop.items_of_sku.setdefault(sku, []).append(item.id)
        for location_id, units in (available or {}).items():
            self._store(shop, replace(self._new_level(item.id, location_id, active=True), available=units))
        return item

    def set_active(self, shop: ShopState, item_id: int, location_id: int, active: bool) -> Level:
        """Activate or deactivate a level; its quantities stay (2026-04 and later, facts 2.5)."""
        level = shop.levels.get((item_id, location_id)) or self._new_level(item_id, location_id, active)
        level = replace(level, active=active, updated_at=self.clock())
        self._store(shop, level)
        self.record(LogKind.ACTIVATED if active else LogKind.DEACTIVATED, shop, level)
        return level

    def move(
        self, shop: ShopState, item_id: int, location_id: int, kind: LogKind, *,
        deltas: Mapping[str, int], **about: Any,
    ) -> Level:  # fmt: skip
        """Change the quantities of a level by deltas, and log it with what it was about.

        A level that was never activated comes into being inactive (2026-10: a write anywhere is
        accepted, facts 0).
        """
        level = shop.levels.get((item_id, location_id)) or self._new_level(item_id, location_id, active=False)
        changed = {name: level.quantity(name) + delta for name, delta in deltas.items()}
        level = replace(level, updated_at=self.clock(), **changed)
        self._store(shop, level)
        self.record(kind, shop, level, delta=deltas.get("available", 0), **about)
        return level

    def record(self, kind: LogKind, shop: ShopState, level: Level | None = None, **about: Any) -> None:
        """Append to the log, with the level as it is now."""
        if level is not None:
            about = {
                "item": level.item_id, "location": level.location_id, "available": level.available,
                "committed": level.committed, "on_hand": level.on_hand, **about,
            }  # fmt: skip
        entry = LogEntry(
            seq=len(self.log) + 1,
            kind=kind,
            shop=shop.config.domain,
            wall_ms=int(self.clock() * 1000),
            monotonic_s=self.monotonic(),
            **about,
        )
        self.log.append(entry)

    def webhook(self, shop: ShopState, topic: str, event_id: str, body: bytes) -> Webhook:
        """A webhook whose body is of now."""
        return Webhook(
            id=self.new_uuid(),
            event_id=event_id,
            shop=shop.config.domain,
            topic=topic,
            triggered_at=self.clock(),
            body=body,
        )

    def level_webhook(
        self, level: Level, shop: ShopState, event_id: str, topic: str = "inventory_levels/update"
    ) -> Webhook:
        """A notice that a level changed; its body is rendered when it is sent."""
        return Webhook(
            id=self.new_uuid(),
            event_id=event_id,
            shop=shop.config.domain,
            topic=topic,
            triggered_at=self.clock(),
            level=(level.item_id, level.location_id),
        )

    def _new_level(self, item_id: int, location_id: int, active: bool) -> Level:
        now = self.clock()
        return Level(
            id=self.new_id(),
            item_id=item_id,
            location_id=location_id,
            created_at=now,
            updated_at=now,
            active=active,
        )

    def _store(self, shop: ShopState, level: Level) -> None:
        if (level.item_id, level.location_id) not in shop.levels:
            shop.locations_of_item.setdefault(level.item_id, []).append(level.location_id)
        shop.levels[level.item_id, level.location_id] = level
        shop.level_of_id[level.id] = (level.item_id, level.location_id)
