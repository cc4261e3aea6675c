"""What becomes of an order after it was placed, beyond shipping, cancelling and refunding (``shopper``).

How each act moves available, committed and on_hand: facts, section 6; which webhooks tell of it: 5.2. A
function either does all of it or raises ``NotPossible`` and has changed nothing.
"""

from __future__ import annotations

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
from connectors.shopify.simulator.allocation import Places, allocated, open_places, taken
from connectors.shopify.simulator.bodies import (
    assigned_fields,
    dispose_fields,
    edit_fields,
    fulfillment_order_fields,
    return_fields,
)
from connectors.shopify.simulator.model import (
    Disposed,
    Disposition,
    FulfillmentOrder,
    Item,
    Line,
    LogKind,
    NotPossible,
    Order,
    Refund,
    RefundedPart,
    RestockType,
    Return,
    ReturnedPart,
    Webhook,
    gid,
)
from connectors.shopify.simulator.shopper import Wanted, asked_places, commit, left_from
from connectors.shopify.simulator.world import ShopState, World


class Given(Struct, frozen=True, kw_only=True):
    """A return and the webhooks that tell of it."""

    return_id: int
    webhooks: list[Webhook]


# --- fulfilment orders and fulfilments -----------------------------------------------------


def cancel_fulfillment(world: World, domain: str, order_id: int, fulfillment_id: int) -> list[Webhook]:
    """A shipment is cancelled: its units are back where they left, and still promised [U]."""
    shop, order = open_order(world, domain, order_id)
    known = next((each for each in order.fulfillments if each.id == fulfillment_id), None)
    if known is None or known.status != "success":
        raise NotPossible(f"order {order_id} has no fulfilment {fulfillment_id} that could be cancelled")
    lines = {part.line_id: order.line(part.line_id) for part in known.parts}
    back = {part.line_id: part.quantity for part in known.parts}
    given_back = [n for n, line in lines.items() if line.fulfilled - back[n] < line.returned]
    if given_back:
        raise NotPossible(f"line {given_back[0]} of order {order_id}: units of it were returned")
    act = Act(world, shop, order)
    for part in known.parts:
        act.move(
            lines[part.line_id],
            known.location_id,
            part.quantity,
            LogKind.UNFULFILLED,
            {"committed": part.quantity},
        )
    ended = replace(known, status="cancelled", updated_at=world.clock())
    order = replace(
        with_lines(order, {n: replace(ln, fulfilled=ln.fulfilled - back[n]) for n, ln in lines.items()}),
        fulfillments=tuple(ended if each.id == known.id else each for each in order.fulfillments),
    )
    where = [(line_id, {known.location_id: units}) for line_id, units in back.items()]
    act.save(allocated(world, order, where))
    return act.webhooks(["orders/updated"])


def move_allocation(
    world: World, domain: str, order_id: int, destination: int, lines: Mapping[int, int] | None = None
) -> list[Webhook]:
    """Open units (line id to quantity; all by default) are to leave from another location (facts 6 [U]).

    Only ``fulfillment_orders/moved`` tells, and it does not name the order.
    """
    shop, order = open_order(world, domain, order_id)
    known_location(shop, destination)
    source = _open_fulfillment_order(order)
    wanted = {line.id: line.open for line in order.lines if line.open} if lines is None else lines
    act, leaving = Act(world, shop, order), dict[int, Places]()
    for line_id, quantity in wanted.items():
        order, leaving[line_id] = taken(world, order, line_id, positive(quantity), first=source.location_id)
    for line_id, places in leaving.items():
        line, quantity = order.line(line_id), wanted[line_id]
        for place, units in places.items():
            act.move(line, place, units, LogKind.MOVED, {"available": units, "committed": -units})
        act.move(line, destination, quantity, LogKind.MOVED, {"available": -quantity, "committed": quantity})
    where = [(line_id, {destination: quantity}) for line_id, quantity in wanted.items()]
    order = act.save(allocated(world, order, where), touch=False)
    moved = order.fulfillment_orders[-1]
    original = next(each for each in order.fulfillment_orders if each.id == source.id)
    body = {
        "original_fulfillment_order": assigned_fields(original),
        "moved_fulfillment_order": assigned_fields(moved),
        "source_location": {"id": gid("Location", source.location_id)},
        "destination_location_id": gid("Location", destination),
        "fulfillment_order_line_items_requested": [
            {"id": gid("FulfillmentOrderLineItem", part.id), "quantity": part.total} for part in moved.parts
        ],
    }
    return act.told(("fulfillment_orders/moved", body))


def split_allocation(world: World, domain: str, order_id: int, lines: Mapping[int, int]) -> list[Webhook]:
    """Units of an open fulfilment order get one of their own at the same location; no quantity moves."""
    shop, order = open_order(world, domain, order_id)
    source = _open_fulfillment_order(order)
    act = Act(world, shop, order)
    for line_id, quantity in lines.items():
        order, places = taken(world, order, line_id, positive(quantity), first=source.location_id)
        if places != {source.location_id: quantity}:
            raise NotPossible(f"fulfilment order {source.id} has no {quantity} of line {line_id} to split")
    where = [(line_id, {source.location_id: quantity}) for line_id, quantity in lines.items()]
    order = act.save(allocated(world, order, where), touch=False)
    rest = next(each for each in order.fulfillment_orders if each.id == source.id)
    body = {
        "fulfillment_order": fulfillment_order_fields(rest),
        "remaining_fulfillment_order": fulfillment_order_fields(order.fulfillment_orders[-1]),
    }
    return act.told(("fulfillment_orders/split", body))


def _open_fulfillment_order(order: Order) -> FulfillmentOrder:
    for each in order.fulfillment_orders:
        if each.status == "OPEN":
            return each
    raise NotPossible(f"order {order.id} has no open fulfilment order")


# --- edits ---------------------------------------------------------------------------------


def edit_order(
    world: World,
    domain: str,
    order_id: int,
    *,
    add: Sequence[Wanted] = (),
    change: Mapping[int, int] | None = None,
    restock: bool = True,
    as_refund: bool = False,
) -> list[Webhook]:
    """Add lines, and change lines by a number of units; removed units are restocked or gone.

    Whether Shopify also makes refund lines of removed units is not documented: ``as_refund`` does.
    """
    shop, order = open_order(world, domain, order_id)
    deltas = dict(change or {})
    if not deltas and not add:
        raise NotPossible(f"order {order_id}: nothing to edit")
    for line_id, delta in deltas.items():
        if delta == 0 or -delta > order.line(line_id).open:
            raise NotPossible(f"line {line_id}: {delta:+} of {order.line(line_id).open} open units")
    act, new, parts = Act(world, shop, order), _looked_up(shop, add), list[RefundedPart]()
    for line_id, delta in deltas.items():
        line = order.line(line_id)
        if delta > 0:
            place = {shop.config.default_location_id: delta}
            order = allocated(world, with_lines(order, {line_id: _longer(line, delta)}), [(line_id, place)])
            commit(act, [line], [place], LogKind.CHANGED)
            continue
        order, places = taken(world, order, line_id, -delta)
        act.release(line, places, LogKind.CHANGED, restock=restock)
        order = with_lines(order, {line_id: replace(line, removed=line.removed - delta)})
        kind: RestockType = "cancel" if restock else "no_restock"
        parts += [refunded(world, line_id, units, kind, place) for place, units in places.items()]
    order, added = _with_new_lines(act, order, new)
    made = Refund(id=world.new_id(), created_at=world.clock(), parts=tuple(parts)) if as_refund else None
    order = act.save(replace(order, refunds=(*order.refunds, *([made] if made and parts else []))))
    body = edit_fields(
        shop.config, world.new_id(), order, deltas | {line.id: line.quantity for line in added}
    )
    return act.told(("orders/edited", body), topics=["orders/updated"])


def _longer(line: Line, delta: int) -> Line:
    return replace(line, quantity=line.quantity + delta)


def _looked_up(shop: ShopState, add: Sequence[Wanted]) -> list[tuple[Item, Places]]:
    """The items and places of lines to be added."""
    default = shop.config.default_location_id
    items = [shop.find(item=each.item, variant=each.variant, sku=each.sku) for each in add]
    return [
        (item, asked_places(shop, each, item, spread=False, default=default))
        for each, item in zip(add, items, strict=True)
    ]


def _with_new_lines(act: Act, order: Order, new: Sequence[tuple[Item, Places]]) -> tuple[Order, list[Line]]:
    """The order with more lines, promised where they are allocated."""
    places = [where for _, where in new]
    lines = [Line(id=act.world.new_id(), item=item, quantity=sum(where.values())) for item, where in new]
    commit(act, lines, places, LogKind.CHANGED)
    allocations = [(line.id, where) for line, where in zip(lines, places, strict=True)]
    return allocated(act.world, replace(order, lines=(*order.lines, *lines)), allocations), lines


# --- returns -------------------------------------------------------------------------------


def open_return(world: World, domain: str, order_id: int, lines: Mapping[int, int]) -> Given:
    """A customer may give fulfilled units back; nothing has moved yet."""
    shop = world.shop(domain)
    order = shop.order(order_id)
    if not lines:
        raise NotPossible(f"order {order_id}: a return needs a line")
    for line_id, quantity in lines.items():
        line = order.line(line_id)
        under_way = sum(p.quantity for r in order.returns for p in r.parts if p.line_id == line_id)
        if positive(quantity) > line.fulfilled - max(line.returned, under_way):
            raise NotPossible(f"line {line_id}: {quantity} to return, but fewer are with the customer")
    made = Return(
        id=world.new_id(),
        reverse_id=world.new_id(),
        created_at=world.clock(),
        parts=tuple(ReturnedPart(id=world.new_id(), line_id=n, quantity=q) for n, q in lines.items()),
    )
    act = Act(world, shop, order)
    order = act.save(replace(order, returns=(*order.returns, made)), touch=False)
    return Given(
        return_id=made.id, webhooks=act.told(("returns/approve", return_fields(order, made, "open")))
    )


def dispose(
    world: World,
    domain: str,
    order_id: int,
    return_id: int,
    kind: Disposition = "RESTOCKED",
    location: int | None = None,
    quantity: int | None = None,
) -> list[Webhook]:
    """Decide what becomes of returned units of each line: at most ``quantity``, by default what is left."""
    shop = world.shop(domain)
    act = Act(world, shop, shop.order(order_id))
    order, disposed = _disposed(act, shop.order(order_id), return_id, kind, location, quantity)
    if not disposed:
        raise NotPossible(f"return {return_id} has nothing to dispose of")
    act.save(order, touch=False)
    body = dispose_fields(order.returned(return_id), disposed)
    return act.told(("reverse_fulfillment_orders/dispose", body))


def process_return(
    world: World,
    domain: str,
    order_id: int,
    return_id: int,
    kind: Disposition = "RESTOCKED",
    location: int | None = None,
    exchange: Sequence[Wanted] = (),
) -> list[Webhook]:
    """Finish a return: what is undecided becomes ``kind``; exchanged goods are new lines of the order.

    ``orders/updated`` does not tell of it (facts 5.2).
    """
    shop = world.shop(domain)
    known = shop.order(order_id)
    if known.returned(return_id).processed:
        raise NotPossible(f"return {return_id} is processed")
    act, new = Act(world, shop, known), _looked_up(shop, exchange)
    order, _ = _disposed(act, known, return_id, kind, location, None)
    order, _ = _with_new_lines(act, _processed(order, return_id), new)
    order = act.save(order, touch=bool(exchange))
    return act.told(("returns/process", return_fields(order, order.returned(return_id), "closed")))


def refund_return(
    world: World, domain: str, order_id: int, return_id: int, restock_type: RestockType = "no_restock"
) -> list[Webhook]:
    """Money goes back for a return; its stock was decided by its dispositions.

    Which ``restock_type`` such refund lines have is not documented, so it is a parameter.
    """
    shop = world.shop(domain)
    order = shop.order(order_id)
    given = order.returned(return_id)
    if any(refund.return_id == return_id for refund in order.refunds):
        raise NotPossible(f"return {return_id} is refunded")
    act = Act(world, shop, order)
    parts = tuple(
        refunded(world, part.line_id, part.quantity, restock_type, left_from(order, part.line_id))
        for part in given.parts
    )
    made = Refund(id=world.new_id(), created_at=world.clock(), parts=parts, return_id=return_id)
    order = order if given.processed else _processed(order, return_id)
    act.save(replace(order, refunds=(*order.refunds, made)))
    return act.webhooks(["orders/updated"], made)


def _disposed(
    act: Act, order: Order, return_id: int, kind: Disposition, location: int | None, limit: int | None
) -> tuple[Order, list[tuple[int, Disposed]]]:
    """Units of every line of a return disposed of, and restocked ones back on the shelf."""
    given, parts, made = order.returned(return_id), [], []
    if location is not None:
        known_location(act.shop, location)
    for part in given.parts:
        units = part.undecided if limit is None else min(limit, part.undecided)
        if units:
            place = left_from(order, part.line_id) if location is None else location
            restocked = kind == "RESTOCKED"
            one = Disposed(
                id=act.world.new_id(), type=kind, quantity=units,
                location_id=place if restocked else None, created_at=act.world.clock(),
            )  # fmt: skip
            moved = {"available": units} if restocked else {}
            act.move(order.line(part.line_id), place, units, LogKind.RETURNED, moved)
            made.append((part.id, one))
            part = replace(part, disposed=(*part.disposed, one))
        parts.append(part)
    return _with_return(order, replace(given, parts=tuple(parts))), made


def _processed(order: Order, return_id: int) -> Order:
    """The units of the return are no longer part of the order."""
    given, lines = order.returned(return_id), dict[int, Line]()
    for part in given.parts:
        line = lines.get(part.line_id, order.line(part.line_id))
        lines[part.line_id] = replace(line, returned=line.returned + part.quantity)
    return _with_return(with_lines(order, lines), replace(given, processed=True))


def _with_return(order: Order, changed: Return) -> Order:
    return replace(order, returns=tuple(changed if each.id == changed.id else each for each in order.returns))


# --- deletion ------------------------------------------------------------------------------


def delete(world: World, domain: str, order_id: int) -> list[Webhook]:
    """The order is gone; units that were still promised leave committed, and nothing restocks them [U]."""
    shop = world.shop(domain)
    order = shop.order(order_id)
    act = Act(world, shop, order)
    for line in order.lines:
        if line.open:
            act.release(line, open_places(order, line.id), LogKind.DELETED, restock=False)
    del shop.orders[order_id]
    return act.told(("orders/delete", {"id": order_id}))
