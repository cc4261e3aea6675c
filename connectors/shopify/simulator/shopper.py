"""What shoppers and merchants do, and the webhooks that follow from it.

How each act moves available, committed and on_hand: facts, section 6. Every function either does all of
it or raises ``NotPossible`` and has changed nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from connectors.shopify.simulator.act import (
    Act,
    known_location,
    open_order,
    positive,
    refunded,
    with_lines,
)
from connectors.shopify.simulator.allocation import Places, allocated, closed, open_places, routed, taken
from connectors.shopify.simulator.bodies import fulfillment_order_fields
from connectors.shopify.simulator.model import (
    Fulfillment,
    Item,
    Line,
    LogKind,
    NotPossible,
    Order,
    Part,
    Refund,
    RefundedPart,
    RestockType,
    Source,
    Webhook,
)
from connectors.shopify.simulator.world import ShopState, World


class Wanted(Struct, frozen=True, kw_only=True):
    """A line that a shopper wants; the item by its id, its variant's id or its SKU."""

    quantity: int
    item: int | None = None
    variant: int | None = None
    sku: str | None = None
    places: dict[int, int] | None = None  # location id to units: how order routing decided


class Sale(Struct, frozen=True, kw_only=True):
    """What became of a shopper's click: no order when something was sold out."""

    order: Order | None
    webhooks: list[Webhook]


class Checkout(Struct, frozen=True, kw_only=True):
    """How an order is placed."""

    location: int | None = None  # a till's order of that place, or of a draft made there
    source: Source | None = None  # by default web, or pos with a location
    spread: bool = False  # order routing looks at all locations, not only at the default one
    taken: bool = False  # the customer takes the goods along: fulfilled at once
    test: bool = False
    bypass: bool = False  # imported past the inventory: moves nothing, and does not say so


WEB = Checkout()


def sell(
    world: World, domain: str, wanted: Sequence[Wanted], location: int | None = None, how: Checkout = WEB
) -> Sale:
    """Place an order: all of it or, when a tracked DENY item has too few units, nothing.

    A web order does not say where it is allocated; with ``location`` it is a till's order of that place.
    """
    shop = world.shop(domain)
    how = replace(how, location=location if how.location is None else how.location)
    asked = _asked(shop, wanted, how)
    if not how.bypass and _refuse(world, shop, asked):
        return Sale(order=None, webhooks=[])
    now = world.clock()
    order = Order(
        id=world.new_id(),
        number=next(shop.order_numbers),
        created_at=now,
        updated_at=now,
        location_id=how.location,
        lines=tuple(Line(id=world.new_id(), item=i, quantity=sum(p.values())) for i, p in asked),
        source=how.source or ("web" if how.location is None else "pos"),
        test=how.test,
        moves=not how.bypass,
    )
    where = [(line.id, places) for line, (_, places) in zip(order.lines, asked, strict=True)]
    shop.orders[order.id] = order = allocated(world, order, where)
    act = Act(world, shop, order)
    commit(act, order.lines, [places for _, places in asked], LogKind.SOLD)
    if how.taken:
        _fulfil(act, order, {line.id: line.open for line in order.lines}, None)
    return Sale(order=shop.orders[order.id], webhooks=_sale_webhooks(act, shop.orders[order.id], how))


def commit(act: Act, lines: Sequence[Line], places: Sequence[Mapping[int, int]], kind: LogKind) -> None:
    """Units of new or longer lines are promised where they are allocated."""
    for line, allocation in zip(lines, places, strict=True):
        for location, units in allocation.items():
            act.move(line, location, units, kind, {"available": -units, "committed": units})


def asked_places(shop: ShopState, wanted: Wanted, item: Item, *, spread: bool, default: int) -> Places:
    """Where a wanted line is allocated."""
    if wanted.places is not None:
        if sum(wanted.places.values()) != wanted.quantity or min(wanted.places.values()) < 1:
            raise NotPossible(f"places {wanted.places} are not the quantity {wanted.quantity}")
        return {known_location(shop, location): units for location, units in wanted.places.items()}
    if spread:
        return routed(shop, item.id, positive(wanted.quantity))
    return {default: positive(wanted.quantity)}


def fulfil(
    world: World,
    domain: str,
    order_id: int,
    lines: Mapping[int, int] | None = None,
    location: int | None = None,
) -> list[Webhook]:
    """Ship units (line id to quantity; all open ones by default): a fulfilment for each place they leave.

    They leave where they are allocated, or from ``location``. Shopify moves the allocation first, so from
    elsewhere the units go back to available where they were committed and leave from the other place
    (facts 6: moved, then fulfilled).
    """
    shop, order = open_order(world, domain, order_id)
    parts = _parts(order, lines)
    if location is not None:
        known_location(shop, location)
    act = Act(world, shop, order)
    done = not any(line.open for line in _fulfil(act, order, parts, location).lines)
    return act.webhooks(["orders/updated", *(["orders/fulfilled"] if done else [])])


def cancel(world: World, domain: str, order_id: int, *, restock: bool, refund: bool = True) -> list[Webhook]:
    """Cancel an order of which nothing was fulfilled.

    Without ``restock`` the units leave committed and on_hand (arithmetical consequence, facts 6 [U]).
    A refund describes the same units, and ``refunds/create`` is sent too, when money goes back or units are
    restocked: refund lines are the only place where Shopify says that units were restocked, so a restock
    without money back is taken to make a refund of nothing (facts 6 [U]). Without either there is none.
    """
    shop, order = open_order(world, domain, order_id)
    if any(line.fulfilled for line in order.lines):
        raise NotPossible(f"order {order_id} has fulfilled units; refund it instead")
    act = Act(world, shop, order)
    parts: list[RefundedPart] = []
    for line in order.lines:
        if line.open:
            places = open_places(order, line.id)
            act.release(line, places, LogKind.CANCELLED, restock=restock)
            parts += _refund_parts(world, line.id, places, "cancel" if restock else "no_restock")
    now = world.clock()
    told = refund or restock
    made = Refund(id=world.new_id(), created_at=now, parts=tuple(parts))
    act.save(
        replace(
            closed(world, order),
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
    ones move nothing. A return goes to ``location``, by default to where the units left. Without ``lines``
    only money goes back.
    """
    shop = world.shop(domain)
    order = shop.order(order_id)
    if location is not None:
        known_location(shop, location)
    changed = {n: _after_refund(order.line(n), positive(q), restock_type) for n, q in lines.items()}
    act = Act(world, shop, order)
    parts: list[RefundedPart] = []
    for line_id, quantity in lines.items():
        line = order.line(line_id)
        removed = changed[line_id].removed - line.removed
        order, places = taken(world, order, line_id, removed, first=location)
        act.release(line, places, LogKind.REFUNDED, restock=restock_type == "cancel")
        if restock_type == "return":
            place = left_from(order, line_id) if location is None else location
            places = {place: quantity}
            act.move(line, place, quantity, LogKind.REFUNDED, {"available": quantity})
        if restock_type == "no_restock":
            parts.append(refunded(world, line_id, quantity, restock_type, None))
        else:
            parts += _refund_parts(world, line_id, places, restock_type)
    made = Refund(id=world.new_id(), created_at=world.clock(), parts=tuple(parts))
    act.save(replace(with_lines(order, changed), refunds=(*order.refunds, made)))
    return act.webhooks(["orders/updated"], made)


def edit_stock(
    world: World, domain: str, item_id: int, location: int, *,
    delta: int | None = None, available: int | None = None,
) -> list[Webhook]:  # fmt: skip
    """Change ``available`` by hand, by a delta or to a value; on_hand follows (facts 2.4)."""
    shop = world.shop(domain)
    item = shop.find(item=item_id)
    known_location(shop, location)
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
    level = world.set_active(shop, item.id, known_location(shop, location), active)
    topic = "inventory_levels/connect" if active else "inventory_levels/disconnect"
    return [world.level_webhook(level, shop, world.new_uuid(), topic)]


def _asked(shop: ShopState, wanted: Sequence[Wanted], how: Checkout) -> list[tuple[Item, Places]]:
    default = shop.config.default_location_id if how.location is None else known_location(shop, how.location)
    asked = []
    for each in wanted:
        item = shop.find(item=each.item, variant=each.variant, sku=each.sku)
        asked.append((item, asked_places(shop, each, item, spread=how.spread, default=default)))
    if not asked:
        raise NotPossible(f"{shop.config.domain}: an order needs a line")
    return asked


def _refuse(world: World, shop: ShopState, asked: Sequence[tuple[Item, Places]]) -> bool:
    """Whether an item is sold out for this order; what was refused is logged."""
    totals: Counter[tuple[int, int]] = Counter()
    for item, places in asked:
        if item.tracked and item.policy == "DENY":
            totals.update({(item.id, location): units for location, units in places.items()})
    short = {key: units for key, units in totals.items() if shop.available(*key) < units}
    for (item_id, location), quantity in short.items():
        available = shop.available(item_id, location)
        world.record(
            LogKind.REFUSED, shop, item=item_id, location=location, quantity=quantity, available=available
        )
    return bool(short)


def _sale_webhooks(act: Act, order: Order, how: Checkout) -> list[Webhook]:
    if not how.spread:
        return act.webhooks(["orders/create"])
    routed_to = [
        ("fulfillment_orders/order_routing_complete", {"fulfillment_order": fulfillment_order_fields(each)})
        for each in order.fulfillment_orders
    ]
    return act.told(*routed_to, topics=["orders/create"])


def _fulfil(act: Act, order: Order, parts: Mapping[int, int], location: int | None) -> Order:
    """Ship and save."""
    leaving: dict[int, dict[int, int]] = {}  # by the place they leave: line id to units
    for line_id, quantity in parts.items():
        order, places = taken(act.world, order, line_id, quantity, first=location, shipped=True)
        for allocated_at, units in places.items():
            place = allocated_at if location is None else location
            _ship(act, order.line(line_id), allocated_at, place, units)
            here = leaving.setdefault(place, {})
            here[line_id] = here.get(line_id, 0) + units
    now = act.world.clock()
    made = tuple(
        Fulfillment(
            id=act.world.new_id(),
            created_at=now,
            updated_at=now,
            location_id=place,
            parts=tuple(Part(id=act.world.new_id(), line_id=n, quantity=q) for n, q in units.items()),
        )
        for place, units in leaving.items()
    )
    lines = tuple(replace(each, fulfilled=each.fulfilled + parts.get(each.id, 0)) for each in order.lines)
    return act.save(replace(order, lines=lines, fulfillments=(*order.fulfillments, *made)))


def _ship(act: Act, line: Line, allocated_at: int, place: int, units: int) -> None:
    if place == allocated_at:
        act.move(line, place, units, LogKind.FULFILLED, {"committed": -units})
        return
    act.move(line, allocated_at, units, LogKind.FULFILLED, {"available": units, "committed": -units})
    act.move(line, place, units, LogKind.FULFILLED, {"available": -units})


def _parts(order: Order, lines: Mapping[int, int] | None) -> dict[int, int]:
    parts = {line.id: line.open for line in order.lines if line.open} if lines is None else dict(lines)
    for line_id, quantity in parts.items():
        if positive(quantity) > order.line(line_id).open:
            open_units = order.line(line_id).open
            raise NotPossible(f"line {line_id}: {quantity} to fulfil, but {open_units} are open")
    if not parts:
        raise NotPossible(f"order {order.id} has nothing to fulfil")
    return parts


def left_from(order: Order, line_id: int) -> int:
    """The location that units of a line left last; raises NotPossible when none has left."""
    for each in reversed(order.fulfillments):
        if each.status == "success" and any(part.line_id == line_id for part in each.parts):
            return each.location_id
    raise NotPossible(f"line {line_id} of order {order.id} has no fulfilment")


def _refund_parts(
    world: World, line_id: int, places: Mapping[int, int], restock_type: RestockType
) -> list[RefundedPart]:
    return [refunded(world, line_id, units, restock_type, place) for place, units in places.items()]


def _after_refund(line: Line, quantity: int, restock_type: RestockType) -> Line:
    kept = line.fulfilled - line.returned  # with the customer
    possible = {"cancel": line.open, "return": kept, "no_restock": line.open + kept}[restock_type]
    if quantity > possible:
        raise NotPossible(f"line {line.id}: {quantity} to refund as {restock_type}, but {possible} are there")
    removed = {"cancel": quantity, "return": 0, "no_restock": min(quantity, line.open)}[restock_type]
    return replace(line, removed=line.removed + removed, returned=line.returned + quantity - removed)
