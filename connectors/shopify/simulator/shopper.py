"""What shoppers and merchants do, and the webhooks that follow from it.

How each act moves available, committed and on_hand: facts, section 6. Every function either does all of
it or raises ``NotPossible`` and has changed nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from connectors.shopify.simulator.bodies import order_body, refund_body
from connectors.shopify.simulator.model import (
    Fulfillment,
    Item,
    Level,
    Line,
    LogKind,
    NotPossible,
    Order,
    Part,
    Refund,
    RefundedPart,
    RestockType,
    Webhook,
)
from connectors.shopify.simulator.world import ShopState, World


class Wanted(Struct, frozen=True, kw_only=True):
    """A line that a shopper wants; the item by its id, its variant's id or its SKU."""

    quantity: int
    item: int | None = None
    variant: int | None = None
    sku: str | None = None


class Sale(Struct, frozen=True, kw_only=True):
    """What became of a shopper's click: no order when something was sold out."""

    order: Order | None
    webhooks: list[Webhook]


def sell(world: World, domain: str, wanted: Sequence[Wanted], location: int | None = None) -> Sale:
    """Place an order: all of it or, when a tracked DENY item has too few units, nothing.

    A web order is allocated at the shop's default location and does not say so; with ``location`` it is
    a till's order of that place.
    """
    shop = world.shop(domain)
    place = shop.config.default_location_id if location is None else _location(shop, location)
    asked = [(shop.find(item=w.item, variant=w.variant, sku=w.sku), _positive(w.quantity)) for w in wanted]
    if not asked:
        raise NotPossible(f"{domain}: an order needs a line")
    if _refuse(world, shop, asked, place):
        return Sale(order=None, webhooks=[])
    now = world.clock()
    order = Order(
        id=world.new_id(),
        number=next(shop.order_numbers),
        created_at=now,
        updated_at=now,
        location_id=location,
        lines=tuple(Line(id=world.new_id(), item=i, quantity=q, location_id=place) for i, q in asked),
    )
    shop.orders[order.id] = order
    act = _Act(world, shop, order.id)
    for line in order.lines:
        moved = {"available": -line.quantity, "committed": line.quantity}
        act.move(line, place, line.quantity, LogKind.SOLD, moved)
    return Sale(order=order, webhooks=act.webhooks(["orders/create"]))


def fulfil(
    world: World,
    domain: str,
    order_id: int,
    lines: Mapping[int, int] | None = None,
    location: int | None = None,
) -> list[Webhook]:
    """Ship units (line id to quantity; all open ones by default), from another location if one is given.

    Shopify moves the allocation first, so from elsewhere the units go back to available where they were
    committed and leave from the other place (facts 6: moved, then fulfilled).
    """
    shop, order = _open_order(world, domain, order_id)
    parts = _parts(order, lines)
    if location is not None:
        _location(shop, location)
    places = {order.line(line_id).location_id if location is None else location for line_id in parts}
    if len(places) > 1:
        raise NotPossible(f"order {order_id}: one fulfilment cannot leave from {sorted(places)}")
    place = places.pop()
    act = _Act(world, shop, order_id)
    for line_id, quantity in parts.items():
        line = order.line(line_id)
        if place == line.location_id:
            act.move(line, place, quantity, LogKind.FULFILLED, {"committed": -quantity})
        else:
            back = {"available": quantity, "committed": -quantity}
            act.move(line, line.location_id, quantity, LogKind.FULFILLED, back)
            act.move(line, place, quantity, LogKind.FULFILLED, {"available": -quantity})
    fulfillment = Fulfillment(
        id=world.new_id(),
        created_at=world.clock(),
        location_id=place,
        parts=tuple(Part(id=world.new_id(), line_id=n, quantity=q) for n, q in parts.items()),
    )
    order = act.save(
        replace(
            order,
            fulfillments=(*order.fulfillments, fulfillment),
            lines=tuple(replace(ln, fulfilled=ln.fulfilled + parts.get(ln.id, 0)) for ln in order.lines),
        )
    )
    done = not any(line.open for line in order.lines)
    return act.webhooks(["orders/updated", *(["orders/fulfilled"] if done else [])])


def cancel(world: World, domain: str, order_id: int, *, restock: bool, refund: bool = True) -> list[Webhook]:
    """Cancel an order of which nothing was fulfilled.

    Without ``restock`` the units leave committed and on_hand (arithmetical consequence, facts 6 [U]).
    A refund describes the same units, and ``refunds/create`` is sent too, when money goes back or units are
    restocked: refund lines are the only place where Shopify says that units were restocked, so a restock
    without money back is taken to make a refund of nothing (facts 6 [U]). Without either there is none.
    """
    shop, order = _open_order(world, domain, order_id)
    if any(line.fulfilled for line in order.lines):
        raise NotPossible(f"order {order_id} has fulfilled units; refund it instead")
    act = _Act(world, shop, order_id)
    parts = []
    for line in order.lines:
        if line.open:
            moved = {"committed": -line.open, **({"available": line.open} if restock else {})}
            act.move(line, line.location_id, line.open, LogKind.CANCELLED, moved)
            parts.append(_refunded(world, line, line.open, "cancel" if restock else "no_restock"))
    now = world.clock()
    told = refund or restock
    made = Refund(id=world.new_id(), created_at=now, parts=tuple(parts))
    order = act.save(
        replace(
            order,
            cancelled_at=now,
            refunds=(*order.refunds, made) if told else order.refunds,
            lines=tuple(replace(line, removed=line.removed + line.open) for line in order.lines),
        )
    )
    return act.webhooks(["orders/cancelled", "orders/updated"], made if told else None)


def refund(
    world: World,
    domain: str,
    order_id: int,
    lines: Mapping[int, int],
    restock_type: RestockType,
    location: int | None = None,
) -> list[Webhook]:
    """Take units out of an order: ``cancel`` open ones, ``return`` fulfilled ones, or restock nothing.

    ``no_restock`` takes open units first; those leave committed and on_hand (facts 6 [U]), fulfilled
    ones move nothing. A return goes to ``location``, by default where the line was allocated.
    """
    shop = world.shop(domain)
    order = shop.order(order_id)
    if not lines:
        raise NotPossible(f"order {order_id}: a refund needs a line")
    if location is not None:
        _location(shop, location)
    changed = {n: _after_refund(order.line(n), _positive(q), restock_type) for n, q in lines.items()}
    act = _Act(world, shop, order_id)
    parts = []
    for line_id, quantity in lines.items():
        line = order.line(line_id)
        removed = changed[line_id].removed - line.removed
        place = location if location is not None and restock_type == "return" else line.location_id
        moved = {"committed": -removed} if removed else {}
        if restock_type != "no_restock":
            moved["available"] = quantity
        act.move(line, place, quantity, LogKind.REFUNDED, moved)
        parts.append(_refunded(world, line, quantity, restock_type, place))
    made = Refund(id=world.new_id(), created_at=world.clock(), parts=tuple(parts))
    act.save(
        replace(
            order,
            refunds=(*order.refunds, made),
            lines=tuple(changed.get(line.id, line) for line in order.lines),
        )
    )
    return act.webhooks(["orders/updated"], made)


def edit_stock(
    world: World, domain: str, item_id: int, location: int, *,
    delta: int | None = None, available: int | None = None,
) -> list[Webhook]:  # fmt: skip
    """Change ``available`` by hand, by a delta or to a value; on_hand follows (facts 2.4)."""
    shop = world.shop(domain)
    item = shop.find(item=item_id)
    _location(shop, location)
    if (delta is None) == (available is None):
        raise NotPossible("an edit needs either delta or available")
    if delta is None:
        level = shop.levels.get((item_id, location))
        delta = (available or 0) - (level.available if level else 0)
    if delta == 0:
        return []
    level = world.move(shop, item.id, location, LogKind.EDITED, deltas={"available": delta})
    return [world.level_webhook(level, shop, world.new_uuid())]


def set_active(world: World, domain: str, item_id: int, location: int, active: bool) -> list[Webhook]:
    """Stock an item at a location, or stop stocking it there; the quantities stay (facts 2.5)."""
    shop = world.shop(domain)
    item = shop.find(item=item_id)
    level = world.set_active(shop, item.id, _location(shop, location), active)
    topic = "inventory_levels/connect" if active else "inventory_levels/disconnect"
    return [world.level_webhook(level, shop, world.new_uuid(), topic)]


class _Act:
    """One action on one order: collects what it touched, to tell of it in one event."""

    def __init__(self, world: World, shop: ShopState, order_id: int) -> None:
        self._world = world
        self._shop = shop
        self._order_id = order_id
        self._touched: dict[tuple[int, int], Level] = {}

    def move(
        self, line: Line, location: int, quantity: int, kind: LogKind, deltas: Mapping[str, int]
    ) -> None:
        about: dict[str, Any] = {"order": self._order_id, "line": line.id, "quantity": quantity}
        if not line.item.tracked:
            self._world.record(kind, self._shop, item=line.item.id, location=location, delta=0, **about)
            return
        level = self._world.move(self._shop, line.item.id, location, kind, deltas=deltas, **about)
        if deltas:
            self._touched[line.item.id, location] = level

    def save(self, order: Order) -> Order:
        self._shop.orders[order.id] = saved = replace(order, updated_at=self._world.clock())
        return saved

    def webhooks(self, topics: Sequence[str], made: Refund | None = None) -> list[Webhook]:
        world, shop, event = self._world, self._shop, self._world.new_uuid()
        order = shop.orders[self._order_id]
        body = order_body(shop, order)
        hooks = [world.webhook(shop, topic, event, body) for topic in topics]
        if made is not None:
            hooks.append(world.webhook(shop, "refunds/create", event, refund_body(shop, order, made)))
        return hooks + [world.level_webhook(level, shop, event) for level in self._touched.values()]


def _refuse(world: World, shop: ShopState, asked: Sequence[tuple[Item, int]], place: int) -> bool:
    """Whether an item is sold out for this order; what was refused is logged."""
    totals: Counter[int] = Counter()
    for item, quantity in asked:
        if item.tracked and item.policy == "DENY":
            totals[item.id] += quantity
    short = {i: q for i, q in totals.items() if shop.available(i, place) < q}
    for item_id, quantity in short.items():
        available = shop.available(item_id, place)
        world.record(
            LogKind.REFUSED, shop, item=item_id, location=place, quantity=quantity, available=available
        )
    return bool(short)


def _open_order(world: World, domain: str, order_id: int) -> tuple[ShopState, Order]:
    shop = world.shop(domain)
    order = shop.order(order_id)
    if order.cancelled_at is not None:
        raise NotPossible(f"order {order_id} is cancelled")
    return shop, order


def _parts(order: Order, lines: Mapping[int, int] | None) -> dict[int, int]:
    parts = {line.id: line.open for line in order.lines if line.open} if lines is None else dict(lines)
    for line_id, quantity in parts.items():
        if _positive(quantity) > order.line(line_id).open:
            open_units = order.line(line_id).open
            raise NotPossible(f"line {line_id}: {quantity} to fulfil, but {open_units} are open")
    if not parts:
        raise NotPossible(f"order {order.id} has nothing to fulfil")
    return parts


def _after_refund(line: Line, quantity: int, restock_type: RestockType) -> Line:
    kept = line.fulfilled - line.returned  # with the customer
    possible = {"cancel": line.open, "return": kept, "no_restock": line.open + kept}[restock_type]
    if quantity > possible:
        raise NotPossible(f"line {line.id}: {quantity} to refund as {restock_type}, but {possible} are there")
    removed = {"cancel": quantity, "return": 0, "no_restock": min(quantity, line.open)}[restock_type]
    return replace(line, removed=line.removed + removed, returned=line.returned + quantity - removed)


def _refunded(
    world: World, line: Line, quantity: int, restock_type: RestockType, place: int | None = None
) -> RefundedPart:
    where = None if restock_type == "no_restock" else place or line.location_id
    return RefundedPart(
        id=world.new_id(), line_id=line.id, quantity=quantity, restock_type=restock_type, location_id=where
    )


def _location(shop: ShopState, location_id: int) -> int:
    if location_id not in shop.locations:
        raise NotPossible(f"{shop.config.domain} has no location {location_id}")
    return location_id


def _positive(quantity: int) -> int:
    if quantity < 1:
        raise NotPossible(f"a quantity is at least 1, got {quantity}")
    return quantity
