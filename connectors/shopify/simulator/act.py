"""One action on one order: what it moves, and the webhooks that tell of it in one event."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from connectors.shopify.simulator.bodies import order_body, refund_body
from connectors.shopify.simulator.model import (
    Level,
    Line,
    LogKind,
    NotPossible,
    Order,
    Refund,
    RefundedPart,
    RestockType,
    Webhook,
)
from connectors.shopify.simulator.world import ShopState, World


class Act:
    """Collects what an action touches."""

    def __init__(self, world: World, shop: ShopState, order: Order) -> None:
        self.world = world
        self.shop = shop
        self._order = order
        self._touched: dict[tuple[int, int], Level] = {}

    def move(
        self, line: Line, location: int, quantity: int, kind: LogKind, deltas: Mapping[str, int]
    ) -> None:
        """Change the level of a line's item, unless nobody counts it."""
        about: dict[str, Any] = {"order": self._order.id, "line": line.id, "quantity": quantity}
        if not line.item.tracked or not self._order.moves:
            self.world.record(kind, self.shop, item=line.item.id, location=location, delta=0, **about)
            return
        level = self.world.move(self.shop, line.item.id, location, kind, deltas=deltas, **about)
        if deltas:
            self._touched[line.item.id, location] = level

    def release(self, line: Line, places: Mapping[int, int], kind: LogKind, *, restock: bool) -> None:
        """Open units leave the order; without ``restock`` they leave on_hand too (facts 6 [U])."""
        for location, units in places.items():
            back = {"available": units} if restock else {}
            self.move(line, location, units, kind, {"committed": -units, **back})

    def save(self, order: Order, *, touch: bool = True) -> Order:
        """Keep the new state; ``touch``: its ``updated_at`` is now."""
        saved = replace(order, updated_at=self.world.clock()) if touch else order
        self.shop.orders[order.id] = saved
        return saved

    def webhooks(self, topics: Sequence[str], made: Refund | None = None) -> list[Webhook]:
        """The order's own topics with the order as it is now, the refund that was made, and the levels."""
        event, order = self.world.new_uuid(), self.shop.orders[self._order.id]
        body = order_body(self.shop, order)
        told = [(topic, body) for topic in topics]
        if made is not None:
            told.append(("refunds/create", refund_body(self.shop, order, made)))
        return self._sent(event, told)

    def told(self, *bodies: tuple[str, Mapping[str, Any]], topics: Sequence[str] = ()) -> list[Webhook]:
        """Webhooks with bodies of their own, the order's topics, and the levels."""
        event = self.world.new_uuid()
        told = [(topic, msgspec.json.encode(fields)) for topic, fields in bodies]
        if topics:
            body = order_body(self.shop, self.shop.orders[self._order.id])
            told += [(topic, body) for topic in topics]
        return self._sent(event, told)

    def _sent(self, event: str, told: Iterable[tuple[str, bytes]]) -> list[Webhook]:
        hooks = [self.world.webhook(self.shop, topic, event, body) for topic, body in told]
        return hooks + [self.world.level_webhook(level, self.shop, event) for level in self._touched.values()]


def open_order(world: World, domain: str, order_id: int) -> tuple[ShopState, Order]:
    """An order that is not cancelled; raises NotPossible when it is."""
    shop = world.shop(domain)
    order = shop.order(order_id)
    if order.cancelled_at is not None:
        raise NotPossible(f"order {order_id} is cancelled")
    return shop, order


def refunded(
    world: World, line_id: int, quantity: int, restock_type: RestockType, place: int | None
) -> RefundedPart:
    """A refund line; it names a location when units were restocked."""
    where = None if restock_type == "no_restock" else place
    return RefundedPart(
        id=world.new_id(), line_id=line_id, quantity=quantity, restock_type=restock_type, location_id=where
    )


def with_lines(order: Order, changed: Mapping[int, Line]) -> Order:
    """The order with some of its lines replaced, by line id."""
    return replace(order, lines=tuple(changed.get(line.id, line) for line in order.lines))


def known_location(shop: ShopState, location_id: int) -> int:
    """The location; raises NotPossible when the shop has no such one."""
    if location_id not in shop.locations:
        raise NotPossible(f"{shop.config.domain} has no location {location_id}")
    return location_id


def positive(quantity: int) -> int:
    """The quantity; raises NotPossible below 1."""
    if quantity < 1:
        raise NotPossible(f"a quantity is at least 1, got {quantity}")
    return quantity
