"""What an order should have moved by now, and the movements that are still missing.

Every webhook of an order is a snapshot or a part of one, and comes late, twice or out of order. So facts
are united by their ids (fulfilments, refund lines), what a snapshot says of a line is taken from the newest
snapshot, and ``evaluate`` compares the effects that the facts imply with the effects that have moved. An
effect has a name made from its fact and a running total in units; a movement is one step of that total, and
its id names the step, so the same step has the same id whoever takes it.

A total never goes down. Where newer facts prove a step wrong (a fulfilment cancelled, an edit undone, a
write-off that a late refund explains), a second effect takes it back.

Every movement carries the instant at which the thing happened in the shop. That is all an order older than
a key's opening needs: the stock rules absorb what happened at or before the count.

How Shopify moves quantities: help.shopify.com "Inventory states" and shopify.dev "Inventory management
apps"; that a refund ``no_restock`` of unfulfilled units takes them off ``on_hand`` is a consequence of the
arithmetic, not documented.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from msgspec.structs import replace

from app.records import (
    Cause,
    Fulfillment,
    Instant,
    Movement,
    MovementKind,
    Order,
    OrderLine,
    Record,
    Refund,
    RefundLine,
)
from tables.listings import Directory, Listed, sku_ref, variant_ref

NOT_SHIPPING = frozenset({"cancelled", "error", "failure"})
"""Fulfilment statuses whose units did not leave, or came back."""

EPOCH = datetime.fromtimestamp(0, UTC)


class LineState(Record, frozen=True, kw_only=True):
    """What we know of a line, in units."""

    variant_id: int | None = None
    sku: str | None = None
    tracked: bool = False  # untracked lines move nothing
    quantity: int = 0  # the most ever ordered; Shopify counts removed units in
    fulfillable: int = 0  # of the newest snapshot
    as_of: Instant | None = None  # updated_at of the snapshot that told `fulfillable`
    removed: int = 0  # edited out, by the newest snapshot that is not cancelled
    live_as_of: Instant | None = None  # updated_at of the snapshot that told `removed`
    pin: Listed | None = None  # where the line is committed: the first mapping that was found


class RefundLineState(Record, frozen=True, kw_only=True):
    """A refund line with what it takes from its refund."""

    refund: int
    line: int
    quantity: int
    restock_type: str
    location_id: int | None = None
    created_at: Instant


class MovedEffect(Record, frozen=True, kw_only=True):
    """How many units an effect has moved so far, and at which place."""

    quantity: int
    at: Listed


class OrderRecord(Record, frozen=True, kw_only=True):
    """All that an order's webhooks have told, and what has moved because of it. Never expires."""

    shop: str
    order_id: int
    created_at: Instant | None = None
    updated_at: Instant | None = None  # of the newest snapshot; None: no snapshot yet
    cancelled_at: Instant | None = None
    location_id: int | None = None
    lines: dict[str, LineState] = {}  # by line id
    fulfillments: dict[str, Fulfillment] = {}  # by fulfilment id
    refund_lines: dict[str, RefundLineState] = {}  # by refund line id
    moved: dict[str, MovedEffect] = {}  # by effect name
    unmapped: list[str] = []  # "{line}@{location_id}" without a listing
    noticed_at: Instant | None = None  # a change by then that we know of, but not what it was
    notices: int = 0  # how many; tells a read asked before a notice from one asked after
    read_wanted: str = ""  # why the order must be read; empty: no need
    read_done: Instant | None = None  # updated_at of the newest read
    correlation_id: str = ""  # of the last webhook that changed the record


class Evaluation(NamedTuple):
    """The record after ``evaluate``, what to emit, and the places newly found to be unmapped."""

    record: OrderRecord
    movements: list[Movement]
    unmapped: list[str]


class Effect(NamedTuple):
    """Something that should have moved ``total`` units by now."""

    name: str
    kind: MovementKind
    total: int
    at: Listed
    occurred_at: datetime
    line: int
    fulfillment: int | None = None
    refund: int | None = None


# --- taking facts in -----------------------------------------------------------------------


def take_order(record: OrderRecord | None, shop: str, order: Order, *, read: bool) -> OrderRecord:
    """Unite a snapshot with the record; ``read``: it answers everything asked so far."""
    record = record or OrderRecord(shop=shop, order_id=order.id)
    for refund in order.refunds:
        record = _unite_refund(record, refund)
    noticed_at = record.noticed_at
    if read or (noticed_at and order.updated_at >= noticed_at):
        noticed_at = None
    return replace(
        record,
        created_at=record.created_at or order.created_at,
        updated_at=_latest(record.updated_at, order.updated_at),
        cancelled_at=record.cancelled_at or order.cancelled_at,
        location_id=record.location_id or order.location_id,
        lines={**record.lines, **_united_lines(record, order)},
        fulfillments={**record.fulfillments, **_united_fulfillments(record, order)},
        noticed_at=noticed_at,
        read_done=_latest(record.read_done, order.updated_at) if read else record.read_done,
    )


def take_refund(record: OrderRecord | None, shop: str, refund: Refund) -> OrderRecord:
    """Unite a refund that came alone; where only a snapshot tells what it means, ask for one."""
    record = record or OrderRecord(shop=shop, order_id=refund.order_id)
    united = _unite_refund(record, refund)
    news = united.refund_lines.keys() - record.refund_lines.keys()
    if any(united.refund_lines[line].restock_type in ("no_restock", "legacy_restock") for line in news):
        return take_notice(united, shop, refund.order_id, at=refund.created_at)
    return united


def take_notice(record: OrderRecord | None, shop: str, order_id: int, *, at: datetime) -> OrderRecord:
    """Note that the order had changed by ``at`` without the new state (an edit, a body over the limit)."""
    record = record or OrderRecord(shop=shop, order_id=order_id)
    if record.updated_at and record.updated_at >= at:
        return record
    return replace(record, noticed_at=_latest(record.noticed_at, at), notices=record.notices + 1)


def take_missing(record: OrderRecord) -> OrderRecord:
    """A read found no such order: what we know is all there will be."""
    return replace(record, noticed_at=None, read_done=record.updated_at or EPOCH)


def _unite_refund(record: OrderRecord, refund: Refund) -> OrderRecord:
    told = {str(line.id): _refund_line(refund, line) for line in refund.refund_line_items}
    return replace(record, refund_lines={**told, **record.refund_lines})


def _refund_line(refund: Refund, line: RefundLine) -> RefundLineState:
    return RefundLineState(
        refund=refund.id,
        line=line.line_item_id,
        quantity=line.quantity,
        restock_type=line.restock_type,
        location_id=line.location_id,
        created_at=refund.created_at,
    )


def _united_lines(record: OrderRecord, order: Order) -> dict[str, LineState]:
    refunded: dict[int, int] = {}
    for refund in order.refunds:
        for item in refund.refund_line_items:
            refunded[item.line_item_id] = refunded.get(item.line_item_id, 0) + item.quantity
    return {
        str(line.id): _united_line(
            record.lines.get(str(line.id), LineState()), line, order, refunded.get(line.id, 0)
        )
        for line in order.line_items
    }


def _united_line(old: LineState, line: OrderLine, order: Order, refunded: int) -> LineState:
    fulfillable = line.quantity if line.fulfillable_quantity is None else line.fulfillable_quantity
    current = line.quantity - refunded if line.current_quantity is None else line.current_quantity
    fulfillable, as_of = _newest(old.fulfillable, old.as_of, fulfillable, order.updated_at, tie=min)
    removed, live_as_of = old.removed, old.live_as_of
    if order.cancelled_at is None:  # a cancelled order shows 0 current units, which is no edit
        told = max(0, line.quantity - current - refunded)
        removed, live_as_of = _newest(removed, live_as_of, told, order.updated_at, tie=max)
    return LineState(
        variant_id=line.variant_id or old.variant_id,
        sku=line.sku or old.sku,
        tracked=old.tracked or line.variant_inventory_management is not None,
        quantity=max(old.quantity, line.quantity),
        fulfillable=fulfillable,
        as_of=as_of,
        removed=removed,
        live_as_of=live_as_of,
        pin=old.pin,
    )


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


def location_of(record: OrderRecord, fulfillment: Fulfillment | None, default_location_id: int) -> int:
    """The shop's location id of an order's units: the one place that decides it.

    Units that shipped left where the fulfilment says. Before that a till's order is at its own location,
    and any other at the shop's default.
    """
    shipped_from = fulfillment.location_id if fulfillment else None
    return shipped_from or record.location_id or default_location_id


def waiting_refs(record: OrderRecord) -> list[str]:
    """The refs whose listing may map what is unmapped."""
    refs: set[str] = set()
    for place in record.unmapped:
        line = record.lines[place.partition("@")[0]]
        refs |= {variant_ref(record.shop, line.variant_id)} if line.variant_id else set()
        refs |= {sku_ref(record.shop, line.sku)} if line.sku else set()
    return sorted(refs)


def evaluate(
    record: OrderRecord, directory: Directory, *, default_location_id: int, correlation_id: str
) -> Evaluation:
    """The movements that the facts imply and that have not moved yet; commits first.

    Evaluating again moves nothing, until a fact or a mapping is new.
    """
    if record.updated_at is None:
        wanted = "" if record.read_done else "no snapshot"
        return Evaluation(replace(record, read_wanted=wanted), [], [])
    book = _Book(record, directory, default_location_id)
    effects = [effect for line_id in book.lines for effect in book.line_effects(line_id)]
    effects.sort(key=lambda effect: effect.kind is not MovementKind.COMMITTED)
    steps = [effect for effect in effects if effect.total > _moved(record, effect.name)]
    wanted = "noticed" if record.noticed_at else "cancelled" if book.unexplained else ""
    after = replace(
        record,
        lines=book.lines,
        moved={**record.moved, **{step.name: MovedEffect(quantity=step.total, at=step.at) for step in steps}},
        unmapped=sorted(book.unmapped),
        read_wanted=wanted,
    )
    movements = [_movement(record, step, correlation_id) for step in steps]
    return Evaluation(after, movements, sorted(book.unmapped - set(record.unmapped)))


def _moved(record: OrderRecord, name: str) -> int:
    effect = record.moved.get(name)
    return effect.quantity if effect else 0


def _movement(record: OrderRecord, step: Effect, correlation_id: str) -> Movement:
    moved = _moved(record, step.name)
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


class _Book:
    """One evaluation: the record's facts by line, and what was found missing on the way."""

    def __init__(self, record: OrderRecord, directory: Directory, default_location_id: int) -> None:
        assert record.updated_at is not None
        self.record = record
        self.updated_at: datetime = record.updated_at
        self.created_at: datetime = record.created_at or record.updated_at
        self.unmapped: set[str] = set()
        self.unexplained = False
        self._directory = directory
        self._default_location_id = default_location_id
        self._shipments: dict[str, list[tuple[Fulfillment, int]]] = {}
        for fulfillment in record.fulfillments.values():
            for item in fulfillment.line_items:
                self._shipments.setdefault(str(item.id), []).append((fulfillment, item.quantity))
        self._refunds: dict[str, list[tuple[str, RefundLineState]]] = {}
        for refund_line_id, refund_line in record.refund_lines.items():
            self._refunds.setdefault(str(refund_line.line), []).append((refund_line_id, refund_line))
        self.lines = {line_id: self._pinned(line_id, line) for line_id, line in record.lines.items()}

    def line_effects(self, line_id: str) -> Iterator[Effect]:
        """The effects of one line; none while it is untracked or unmapped."""
        line = self.lines[line_id]
        if line.pin is None:
            return
        yield self._effect(line_id, "committed", MovementKind.COMMITTED, line.quantity, at=line.pin)
        for fulfillment, quantity in self._shipments.get(line_id, []):
            yield from self._shipping(line_id, fulfillment, quantity)
        for refund_line_id, refund_line in self._refunds.get(line_id, []):
            yield from self._restocked(line_id, refund_line_id, refund_line)
        yield from self._not_restocked(line_id, line, line.pin)

    def _pinned(self, line_id: str, line: LineState) -> LineState:
        if line.pin or not line.tracked:
            return line
        location_id = location_of(self.record, None, self._default_location_id)
        return replace(line, pin=self._place(line_id, line, location_id))

    def _place(self, line_id: str, line: LineState, location_id: int) -> Listed | None:
        if line.pin and line.pin.location_id == location_id:
            return line.pin
        place = self._directory.find(self.record.shop, line.variant_id, line.sku, location_id)
        if place is None:
            self.unmapped.add(f"{line_id}@{location_id}")
        return place

    def _effect(
        self,
        line_id: str,
        name: str,
        kind: MovementKind,
        total: int,
        *,
        at: Listed,
        when: datetime | None = None,
        fulfillment: int | None = None,
        refund: int | None = None,
    ) -> Effect:
        """An effect of a line; ``when`` is left out where the order's own instants say it."""
        full_name = f"{name}/{line_id}" if refund is None or "/" not in name else name
        moved = self.record.moved.get(full_name)
        # An effect stays where it began, or its steps would not add up at either key.
        at = moved.at if moved else at
        when = when or (self.updated_at if moved else self.created_at)
        return Effect(full_name, kind, total, at, when, int(line_id), fulfillment, refund)

    def _shipping(self, line_id: str, fulfillment: Fulfillment, quantity: int) -> Iterator[Effect]:
        line, number = self.lines[line_id], fulfillment.id
        assert line.pin is not None
        leaves = fulfillment.status not in NOT_SHIPPING
        shipped, unshipped = self._swing(
            f"shipped/{number}/{line_id}", f"unshipped/{number}/{line_id}", quantity if leaves else 0
        )
        if not shipped:
            return
        earlier = self.record.moved.get(f"shipped/{number}/{line_id}")
        location_id = location_of(self.record, fulfillment, self._default_location_id)
        place = earlier.at if earlier else self._place(line_id, line, location_id)
        if place is None:
            return

        def effect(name: str, kind: MovementKind, total: int, at: Listed, when: datetime) -> Effect:
            return self._effect(
                line_id, f"{name}/{number}", kind, total, at=at, when=when, fulfillment=number
            )

        left, back = fulfillment.created_at, fulfillment.updated_at or self.updated_at
        if place != line.pin:
            yield effect("shift-release", MovementKind.RELEASED, shipped, line.pin, left)
            yield effect("shift-commit", MovementKind.COMMITTED, shipped, place, left)
        yield effect("shipped", MovementKind.SHIPPED, shipped, place, left)
        yield effect("unshipped", MovementKind.RETURNED, unshipped, place, back)
        # Promised again where the line is pinned, where a later cancel or shipment will look for it.
        yield effect("recommit", MovementKind.COMMITTED, unshipped, line.pin, back)

    def _restocked(self, line_id: str, refund_line_id: str, refund_line: RefundLineState) -> Iterator[Effect]:
        line = self.lines[line_id]
        assert line.pin is not None
        restock = self._restock_type(line_id, refund_line)
        if restock not in ("cancel", "return"):
            return
        place: Listed | None = line.pin
        if restock == "return" and refund_line.location_id:
            place = self._place(line_id, line, refund_line.location_id)
        if place is None:
            return
        yield self._effect(
            line_id,
            f"refund/{refund_line_id}",
            MovementKind.RELEASED if restock == "cancel" else MovementKind.RETURNED,
            refund_line.quantity,
            at=place,
            when=refund_line.created_at,
            refund=refund_line.refund,
        )

    def _restock_type(self, line_id: str, refund_line: RefundLineState) -> str:
        """The type; telling the old ``legacy_restock`` apart needs a snapshot as new as the refund."""
        if refund_line.restock_type != "legacy_restock":
            return refund_line.restock_type
        if self.record.noticed_at:
            return ""
        had_shipped = any(
            f.status not in NOT_SHIPPING and f.created_at <= refund_line.created_at
            for f, _ in self._shipments.get(line_id, [])
        )
        return "return" if had_shipped else "cancel"

    def _not_restocked(self, line_id: str, line: LineState, pin: Listed) -> Iterator[Effect]:
        """The rest of the promise: edited out, refunded without restock, or cancelled without a word."""
        refunds = [refund_line for _, refund_line in self._refunds.get(line_id, [])]
        open_units = line.quantity
        open_units -= sum(n for f, n in self._shipments.get(line_id, []) if f.status not in NOT_SHIPPING)
        open_units -= sum(r.quantity for r in refunds if self._restock_type(line_id, r) == "cancel")
        edited = max(0, min(line.removed, open_units))
        yield from self._taken_back(
            line_id, "edited", MovementKind.RELEASED, edited, pin, line.live_as_of or self.updated_at
        )
        open_units = max(0, open_units - edited)

        gone = [r for r in refunds if r.restock_type == "no_restock"]
        written_off = min(sum(r.quantity for r in gone), max(0, open_units - line.fulfillable))
        written_off = self._kept("written-off", line_id, written_off, open_units)
        when = max((r.created_at for r in gone), default=self.updated_at)
        yield from self._taken_back(line_id, "written-off", MovementKind.WRITTEN_OFF, written_off, pin, when)
        open_units -= written_off

        cancelled_at, read_done = self.record.cancelled_at, self.record.read_done
        if cancelled_at is None:
            return
        known = read_done is not None and read_done >= cancelled_at
        cancelled = self._kept("cancelled", line_id, open_units if known else 0, open_units)
        self.unexplained |= open_units > cancelled
        yield from self._taken_back(
            line_id, "cancelled", MovementKind.WRITTEN_OFF, cancelled, pin, cancelled_at
        )

    def _taken_back(
        self, line_id: str, name: str, kind: MovementKind, net: int, pin: Listed, when: datetime
    ) -> Iterator[Effect]:
        """An effect of ``net`` units; what newer facts have undone is promised again."""
        ahead, back = self._swing(f"{name}/{line_id}", f"{name}-undone/{line_id}", net)
        yield self._effect(line_id, name, kind, ahead, at=pin, when=when)
        yield self._effect(
            line_id, f"{name}-undone", MovementKind.COMMITTED, back, at=pin, when=self.updated_at
        )
        if kind is MovementKind.WRITTEN_OFF:
            yield self._effect(
                line_id, f"{name}-found", MovementKind.RETURNED, back, at=pin, when=self.updated_at
            )

    def _kept(self, name: str, line_id: str, target: int, room: int) -> int:
        """The net units of a write-off: not below what moved, as long as the line has room for that."""
        ahead = _moved(self.record, f"{name}/{line_id}")
        back = _moved(self.record, f"{name}-undone/{line_id}")
        return max(target, min(ahead - back, room))

    def _swing(self, forward: str, backward: str, net: int) -> tuple[int, int]:
        """The two running totals whose difference is ``net``, neither below what has moved."""
        ahead, back = _moved(self.record, forward), _moved(self.record, backward)
        return max(ahead, net + back), max(back, ahead - net)
