"""What an order should have moved by now, and the movements that are still missing.

Every webhook of an order is a snapshot or a part of one, and comes late, twice or out of order. So facts
are united by their ids (fulfilments, refund lines, dispositions of returns), what a snapshot says of a line
is taken from the newest snapshot, and ``evaluate`` compares the effects that the facts imply
(``tables.order_effects``) with the effects that have moved. An effect has a name made from its fact and a
running total in units; a movement is one step of that total, and its id names the step, so the same step has
the same id whoever takes it.

A total never goes down. Where newer facts prove a step wrong (a fulfilment cancelled, an edit undone, a
write-off that a late refund explains, another location), a second effect takes it back.

Every movement carries the instant at which the thing happened in the shop. That is all an order older than
a key's opening needs: the stock rules absorb what happened at or before the count.

How Shopify moves quantities: help.shopify.com "Inventory states" and shopify.dev "Inventory management
apps"; that a refund ``no_restock`` of unfulfilled units takes them off ``on_hand`` is a consequence of the
arithmetic, not documented. Neither is what becomes of a deleted order's open units: they are taken to be
gone in the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from msgspec.structs import replace

from app.records import (
    Cause,
    Disposition,
    Fulfillment,
    Movement,
    MovementKind,
    Order,
    OrderLine,
    OrderNotice,
    ReadOrder,
    Refund,
    Routing,
)
from tables.listings import Directory, sku_ref, variant_ref
from tables.order_effects import Book, Effect, moved_units
from tables.order_record import (
    EPOCH,
    GUESSED,
    JUST_ANSWERED,
    NOT_SHIPPING,
    LineState,
    MovedEffect,
    OrderRecord,
)
from tables.refund_lines import united_refund_lines


class Evaluation(NamedTuple):
    """The record after ``evaluate``, what to emit, and the places newly known to be unmapped."""

    record: OrderRecord
    movements: list[Movement]
    unmapped: list[str]


# --- taking facts in -----------------------------------------------------------------------


def take_order(record: OrderRecord | None, shop: str, order: Order, *, read: bool) -> OrderRecord:
    """Unite a snapshot with the record; ``read``: it answers everything asked so far.

    Any other snapshot answers what is older. Shopify's instants have whole seconds: one of the same second as
    a noticed change may be from before it.
    """
    record = record or OrderRecord(shop=shop, order_id=order.id)
    for refund in order.refunds:
        record = _unite_refund(record, refund)
    noticed_at = record.noticed_at
    if read or (noticed_at and order.updated_at > noticed_at):
        noticed_at = None
    return replace(
        record,
        created_at=record.created_at or order.created_at,
        updated_at=_latest(record.updated_at, order.updated_at),
        cancelled_at=record.cancelled_at or order.cancelled_at,
        location_id=record.location_id or order.location_id,
        lines={**record.lines, **_united_lines(record, order)},
        fulfillments={**record.fulfillments, **_united_fulfillments(record, order)},
        dispositions={**record.dispositions, **{str(one.id): one for one in _dispositions(order)}},
        noticed_at=noticed_at,
        unread=record.unread and not read,
        read_done=_latest(record.read_done, order.updated_at) if read else record.read_done,
    )


def _dispositions(order: Order) -> list[Disposition]:
    return order.dispositions if isinstance(order, ReadOrder) else []


def take_refund(record: OrderRecord | None, shop: str, refund: Refund) -> OrderRecord:
    """Unite a refund that came alone; where only a snapshot tells what it means, ask for one."""
    record = record or OrderRecord(shop=shop, order_id=refund.order_id)
    united = _unite_refund(record, refund)
    news = [united.refund_lines[line] for line in united.refund_lines.keys() - record.refund_lines.keys()]
    if any(line.restock_type in ("no_restock", "legacy_restock") and not line.return_id for line in news):
        return take_notice(united, shop, refund.order_id, at=refund.created_at)
    return united


def take_notice(
    record: OrderRecord | None, shop: str, order_id: int, *, at: datetime, unread: bool = False
) -> OrderRecord:
    """Note that the order had changed by ``at`` without the new state (an edit, a body over the limit).

    ``unread``: no snapshot tells of it (a return does not even change the order's ``updated_at``).
    """
    record = record or OrderRecord(shop=shop, order_id=order_id)
    if unread:
        return replace(record, unread=True, notices=record.notices + 1)
    if record.updated_at and record.updated_at > at:
        return record
    return replace(record, noticed_at=_latest(record.noticed_at, at), notices=record.notices + 1)


def take_seen(record: OrderRecord | None, shop: str, seen: OrderNotice) -> OrderRecord:
    """Note that a poll has seen an order as it was changed last, which may be what we have heard of.

    A snapshot of the same second may be from before the order's last change. What the poll tells of its stage
    must agree with it; if not, only a read will do. Gift cards are not among the units that a poll tells:
    orders with them are read.
    """
    same = record is not None and record.updated_at == seen.updated_at
    if record is not None and same and _agrees(record, seen):
        return record
    return take_notice(record, shop, seen.id, at=seen.updated_at, unread=same)


def _agrees(record: OrderRecord, seen: OrderNotice) -> bool:
    """Whether an order is as far as a poll has seen it."""
    if (record.cancelled_at is None) != (seen.cancelled_at is None):
        return False
    if seen.fulfillments not in (None, len(record.fulfillments)):
        return False
    if record.cancelled_at is None and seen.units not in (None, _units(record)):
        return False
    shipped = any(one.status == "success" for one in record.fulfillments.values())
    if seen.fulfillment_status in ("FULFILLED", "PARTIALLY_FULFILLED"):
        left = any(line.fulfillable > 0 for line in record.lines.values())
        return shipped and left == (seen.fulfillment_status == "PARTIALLY_FULFILLED")
    return not (shipped and seen.fulfillment_status)


def _units(record: OrderRecord) -> int:
    """The order's units, less what was edited out or refunded."""
    ordered = sum(line.quantity - line.removed for line in record.lines.values())
    return ordered - sum(one.quantity for one in record.refund_lines.values())


def take_missing(record: OrderRecord) -> OrderRecord:
    """A read found no such order: what we know is all there will be."""
    return replace(record, noticed_at=None, unread=False, read_done=record.updated_at or EPOCH)


def take_deleted(record: OrderRecord | None, shop: str, order_id: int, *, at: datetime) -> OrderRecord:
    """The order is gone; whatever of it is still open has left with it."""
    record = record or OrderRecord(shop=shop, order_id=order_id)
    return replace(record, deleted_at=record.deleted_at or at)


def take_routing_notice(record: OrderRecord | None, shop: str, order_id: int) -> OrderRecord:
    """The order's fulfilment orders have changed."""
    record = record or OrderRecord(shop=shop, order_id=order_id)
    return replace(record, routing_notices=record.routing_notices + 1)


def take_routing(record: OrderRecord, routing: Routing | None, asked: OrderRecord) -> OrderRecord:
    """What its fulfilment orders said when they were asked for because of ``asked``; None: there is no order.

    Locations of open units come first. Where a line has none left, those of cancelled fulfilment orders
    tell where its units were, and before them what was known.
    """
    told = routing or Routing(order_id=record.order_id)
    lines = {
        line_id: replace(
            line,
            assigned=told.open.get(line_id) or told.cancelled.get(line_id) or line.assigned,
            answered_open=JUST_ANSWERED,
        )
        for line_id, line in record.lines.items()
    }
    return replace(record, lines=lines, routing_answered=asked.routing_notices)


def _unite_refund(record: OrderRecord, refund: Refund) -> OrderRecord:
    return replace(record, refund_lines=united_refund_lines(record.refund_lines, refund))


class _Told(NamedTuple):
    """What one snapshot says of a line beside its own numbers, in units."""

    refunded: int = 0
    restocked_open: int = 0  # refunded as `cancel`
    shipped: int = 0


def _united_lines(record: OrderRecord, order: Order) -> dict[str, LineState]:
    refunded, restocked, shipped = dict[int, int](), dict[int, int](), dict[int, int]()
    for refund in order.refunds:
        for item in refund.refund_line_items:
            _add(refunded, item.line_item_id, item.quantity)
            _add(restocked, item.line_item_id, item.quantity if item.restock_type == "cancel" else 0)
    for fulfillment in order.fulfillments:
        for part in fulfillment.line_items if fulfillment.status not in NOT_SHIPPING else ():
            _add(shipped, part.id, part.quantity)
    return {
        str(line.id): _united_line(
            record.lines.get(str(line.id), LineState()),
            line,
            order,
            _Told(refunded.get(line.id, 0), restocked.get(line.id, 0), shipped.get(line.id, 0)),
        )
        for line in order.line_items
    }


def _add(totals: dict[int, int], line: int, units: int) -> None:
    totals[line] = totals.get(line, 0) + units


def _united_line(old: LineState, line: OrderLine, order: Order, told: _Told) -> LineState:
    fulfillable = line.quantity if line.fulfillable_quantity is None else line.fulfillable_quantity
    fulfillable, as_of = _newest(old.fulfillable, old.as_of, fulfillable, order.updated_at, tie=min)
    removed, live_as_of = old.removed, old.live_as_of
    if order.cancelled_at is None:  # a cancelled order shows 0 current units, which is no edit
        removed, live_as_of = _newest(removed, live_as_of, _removed(line, told), order.updated_at, tie=max)
    return replace(
        old,
        variant_id=line.variant_id or old.variant_id,
        sku=line.sku or old.sku,
        tracked=old.tracked or line.variant_inventory_management is not None,
        quantity=max(old.quantity, line.quantity),
        fulfillable=fulfillable,
        as_of=as_of,
        removed=removed,
        live_as_of=live_as_of,
    )


def _removed(line: OrderLine, told: _Told) -> int:
    """Units edited out: no longer current and not refunded, as far as they were not shipped.

    A return that nobody refunded takes shipped units out of ``current_quantity`` too.
    """
    current = line.quantity - told.refunded if line.current_quantity is None else line.current_quantity
    removed = line.quantity - current - told.refunded
    if line.fulfillable_quantity is not None:
        removed = min(removed, line.quantity - line.fulfillable_quantity - told.shipped - told.restocked_open)
    return max(0, removed)


def _newest(
    old: int, old_at: datetime | None, new: int, new_at: datetime, *, tie: Callable[[int, int], int]
) -> tuple[int, datetime]:
    """The value of the newer snapshot. Shopify's clock has seconds: ties are normal, and united."""
    if old_at is None or new_at > old_at:
        return new, new_at
    return (tie(old, new) if new_at == old_at else old), old_at


def _united_fulfillments(record: OrderRecord, order: Order) -> dict[str, Fulfillment]:
    told = {str(f.id): replace(f, updated_at=f.updated_at or order.updated_at) for f in order.fulfillments}
    return {
        key: max(new, record.fulfillments.get(key, new), key=_fulfillment_age) for key, new in told.items()
    }


def _fulfillment_age(fulfillment: Fulfillment) -> tuple[datetime, bool, bool]:
    # At equal instants the later stage of life wins: open before success before cancelled.
    ended = fulfillment.status in NOT_SHIPPING
    return fulfillment.updated_at or EPOCH, ended, fulfillment.status == "success"


def _latest(old: datetime | None, new: datetime) -> datetime:
    return new if old is None or new > old else old


# --- what should have moved ----------------------------------------------------------------


def waiting_refs(record: OrderRecord) -> list[str]:
    """The refs whose listing may map what is unmapped."""
    refs: set[str] = set()
    for place in record.unmapped:
        line = record.lines[place.partition("@")[0]]
        refs |= {variant_ref(record.shop, line.variant_id)} if line.variant_id else set()
        refs |= {sku_ref(record.shop, line.sku)} if line.sku else set()
    return sorted(refs)


def evaluate(
    record: OrderRecord,
    directory: Directory,
    *,
    default_location_id: int,
    correlation_id: str,
    routed: bool = True,
) -> Evaluation:
    """The movements that the facts imply and that have not moved yet; commits first.

    Evaluating again moves nothing, until a fact or a mapping is new. ``routed``: the shop can be asked where
    an order is to leave from; else it is where ``location_of`` takes it to be.
    """
    if record.updated_at is None:
        wanted = "" if record.read_done or record.deleted_at else "no snapshot"
        return Evaluation(replace(record, read_wanted=wanted), [], [])
    book = Book(record, directory, default_location_id, routed=routed)
    effects = [effect for line_id in record.lines for effect in book.line_effects(line_id)]
    effects.sort(key=lambda effect: effect.kind is not MovementKind.COMMITTED)
    steps = [effect for effect in effects if effect.total > moved_units(record, effect.name)]
    noticed = record.routing_notices != record.routing_answered
    after = replace(
        record,
        lines=book.lines,
        moved={**record.moved, **{step.name: MovedEffect(quantity=step.total, at=step.at) for step in steps}},
        unmapped=sorted(book.unmapped),
        read_wanted=_read_wanted(record, book),
        routing_wanted=routed and record.deleted_at is None and (noticed or book.unrouted),
    )
    movements = [_movement(record, step, correlation_id) for step in steps]
    certain = {place for place in book.unmapped if not place.endswith(GUESSED)}
    return Evaluation(after, movements, sorted(certain - set(record.unmapped)))


def _read_wanted(record: OrderRecord, book: Book) -> str:
    if record.deleted_at is not None:
        return ""
    return "noticed" if record.noticed_at or record.unread else book.unexplained


def _movement(record: OrderRecord, step: Effect, correlation_id: str) -> Movement:
    moved = moved_units(record, step.name)
    return Movement(
        id=f"shopify:{record.shop}/{record.order_id}/{step.name}/{moved}-{step.total}",
        kind=step.kind,
        sku=step.at.sku,
        location=step.at.location,
        quantity=step.total - moved,
        source=f"shopify:{record.shop}",
        occurred_at=step.occurred_at,
        correlation_id=correlation_id,
        cause=Cause(
            shop=record.shop,
            order=record.order_id,
            line=step.line,
            fulfillment=step.fulfillment,
            refund=step.refund,
            listing=step.at.listing,
        ),
    )
