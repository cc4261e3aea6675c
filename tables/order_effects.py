"""What the facts of an order imply, line by line: which units should have moved by now, how, and where.

Facts have effects at the place they name (a fulfilment leaves its location). The promise itself is kept by
difference: what should be committed at each location now, less what the other effects make of it, is
committed there or released. So a line that was taken to be at the default location, and whose fulfilment
orders then say otherwise, is released here and committed there, whatever came first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import NamedTuple

from msgspec.structs import replace

from app.records import Disposition, Fulfillment, MovementKind
from tables.listings import Directory, Listed
from tables.order_record import (
    GUESSED,
    JUST_ANSWERED,
    NOT_SHIPPING,
    LineState,
    OrderRecord,
    RefundLineState,
)

Units = dict[int, int]
"""Units by location id."""

COMMITS = {
    MovementKind.COMMITTED: 1,
    MovementKind.RELEASED: -1,
    MovementKind.SHIPPED: -1,
    MovementKind.WRITTEN_OFF: -1,
}
UNDONE_BY = {
    MovementKind.RELEASED: (MovementKind.COMMITTED,),
    MovementKind.WRITTEN_OFF: (MovementKind.COMMITTED, MovementKind.RETURNED),
    MovementKind.RETURNED: (MovementKind.COMMITTED, MovementKind.WRITTEN_OFF),
}
"""The movements that together take back one of a kind; a commitment comes before what needs it."""


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


class Gone(NamedTuple):
    """What became of a line's units beside shipping and restocking, and what is open."""

    edited: int  # taken out of the order and restocked
    written_off: int  # refunded without restock before they were shipped
    cancelled: int  # cancelled, or deleted with the order, without a word of restock
    open: int


def location_of(record: OrderRecord, fulfillment: Fulfillment | None, default_location_id: int) -> int:
    """The shop's location id of an order's units while its fulfilment orders are not known.

    Units that shipped left where the fulfilment says. Before that a till's order is taken to be at its own
    location, and any other at the shop's default.
    """
    shipped_from = fulfillment.location_id if fulfillment else None
    return shipped_from or record.location_id or default_location_id


def moved_units(record: OrderRecord, name: str) -> int:
    """How many units an effect has moved so far."""
    effect = record.moved.get(name)
    return effect.quantity if effect else 0


class Book:
    """One evaluation: the record's facts by line, and what was found missing on the way.

    ``routed``: fulfilment orders can be asked for, so a line nobody asked about may yet be elsewhere.
    """

    def __init__(
        self, record: OrderRecord, directory: Directory, default_location_id: int, *, routed: bool
    ) -> None:
        assert record.updated_at is not None
        self.record = record
        self.updated_at: datetime = record.updated_at
        self.created_at: datetime = record.created_at or record.updated_at
        self.unmapped: set[str] = set()
        self.unexplained = ""  # why only a read can tell
        self.unrouted = False  # only the fulfilment orders can tell where something is
        self.lines = dict(record.lines)
        self._directory = directory
        self._predicted = location_of(record, None, default_location_id)
        self._default_location_id = default_location_id
        self._routed = routed and record.deleted_at is None
        self._index()

    def line_effects(self, line_id: str) -> list[Effect]:
        """The effects of one line; none while it is untracked."""
        line = self.lines[line_id]
        if not line.tracked:
            return []
        gone, left, ended = self._gone(line_id, line), self._left(line_id), self._ended(line_id)
        line = self.lines[line_id] = self._settled(line_id, line, gone.open, left, len(ended))
        effects = list(self._facts(line_id, line, gone))
        places, explained = _open_places(line, gone.open, left, self._predicted)
        if gone.open and (len(ended) != line.ended_before or line.answered_open is None):
            places, explained = _with_back(places, ended), False
        self._note_unrouted(line, gone, explained)
        return effects + list(self._promise(line_id, line, effects, places))

    # -- the facts by line ----------------------------------------------------------------------

    def _index(self) -> None:
        self._shipments: dict[str, list[tuple[Fulfillment, int]]] = defaultdict(list)
        for fulfillment in self.record.fulfillments.values():
            for item in fulfillment.line_items:
                self._shipments[str(item.id)].append((fulfillment, item.quantity))
        self._refunds: dict[str, list[tuple[str, RefundLineState]]] = defaultdict(list)
        for refund_line_id, refund_line in self.record.refund_lines.items():
            self._refunds[str(refund_line.line)].append((refund_line_id, refund_line))
        self._disposed: dict[str, list[Disposition]] = defaultdict(list)
        for disposition in self.record.dispositions.values():
            self._disposed[str(disposition.line_item_id)].append(disposition)
        self._places_moved: dict[tuple[str, str], list[int]] = defaultdict(list)
        for name in self.record.moved:
            kind, *rest = name.rsplit("/", 2)
            if len(rest) == 2 and rest[0].isdigit():
                self._places_moved[kind, rest[1]].append(int(rest[0]))

    def _gone(self, line_id: str, line: LineState) -> Gone:
        refunds = [refund_line for _, refund_line in self._refunds.get(line_id, ())]
        open_units = line.quantity
        open_units -= sum(n for f, n in self._shipments.get(line_id, ()) if f.status not in NOT_SHIPPING)
        open_units -= sum(r.quantity for r in refunds if self._restock_type(line_id, r) == "cancel")
        edited = max(0, min(line.removed, open_units))
        open_units = max(0, open_units - edited)

        unstocked = sum(r.quantity for r in refunds if r.restock_type == "no_restock" and not r.return_id)
        written_off = min(unstocked, max(0, open_units - line.fulfillable))
        written_off = self._kept("written-off", line_id, written_off, open_units)
        open_units -= written_off
        if self.record.cancelled_at is None and self.record.deleted_at is None:
            return Gone(edited, written_off, 0, open_units)
        known = self._read_since(self.record.cancelled_at)
        cancelled = self._kept("cancelled", line_id, open_units if known else 0, open_units)
        if open_units > cancelled:
            self.unexplained = "cancelled"
        return Gone(edited, written_off, cancelled, open_units - cancelled)

    def _read_since(self, instant: datetime | None) -> bool:
        """Whether nothing that happened by then can be told any more."""
        read_done = self.record.read_done
        if self.record.deleted_at is not None:
            return True
        return read_done is not None and instant is not None and read_done >= instant

    def _restock_type(self, line_id: str, refund_line: RefundLineState) -> str:
        """The type; telling the old ``legacy_restock`` apart needs a snapshot as new as the refund."""
        if refund_line.restock_type != "legacy_restock":
            return refund_line.restock_type
        if self.record.noticed_at:
            return ""
        had_shipped = any(
            f.status not in NOT_SHIPPING and f.created_at <= refund_line.created_at
            for f, _ in self._shipments.get(line_id, ())
        )
        return "return" if had_shipped else "cancel"

    def _left(self, line_id: str) -> Units:
        """Units that facts say have left a location's promise."""
        left: Units = defaultdict(int)
        for fulfillment, units in self._shipments.get(line_id, ()):
            if fulfillment.status not in NOT_SHIPPING:
                left[location_of(self.record, fulfillment, self._default_location_id)] += units
        for _, refund_line in self._refunds.get(line_id, ()):
            if refund_line.location_id and self._restock_type(line_id, refund_line) == "cancel":
                left[refund_line.location_id] += refund_line.quantity
        return dict(left)

    def _ended(self, line_id: str) -> list[tuple[int, int]]:
        """(location id, units) of cancelled fulfilments: back where they left, until told otherwise."""
        return [
            (location_of(self.record, fulfillment, self._default_location_id), units)
            for fulfillment, units in self._shipments.get(line_id, ())
            if fulfillment.status in NOT_SHIPPING
        ]

    # -- where things are -----------------------------------------------------------------------

    def _settled(self, line_id: str, line: LineState, open_units: int, left: Units, ended: int) -> LineState:
        """The line with what an answer of its fulfilment orders is compared with, and with its pin."""
        if line.answered_open == JUST_ANSWERED:
            line = replace(
                line,
                answered_open=open_units,
                ordered_before=line.quantity,
                left_before=left,
                ended_before=ended,
            )
        if line.pin is None:
            line = replace(line, pin=self._place(line_id, line, self._home(line)))
        return line

    def _home(self, line: LineState) -> int:
        """The one location to name for a line where no fact names one."""
        return min(line.assigned, key=lambda place: (-line.assigned[place], place), default=self._predicted)

    def _spread(self, line: LineState, units: int) -> Units:
        """Where units were that are gone without a place: at the assigned locations, the fullest first."""
        if not units:
            return {}
        home, spread = self._home(line), Units()
        for place in sorted(line.assigned, key=lambda each: (-line.assigned[each], each)):
            spread[place] = min(line.assigned[place], units - sum(spread.values()))
        spread[home] = spread.get(home, 0) + units - sum(spread.values())
        return {place: n for place, n in spread.items() if n}

    def _place(self, line_id: str, line: LineState, location_id: int) -> Listed | None:
        if line.pin and line.pin.location_id == location_id:
            return line.pin
        place = self._directory.find(self.record.shop, line.variant_id, line.sku, location_id)
        if place is None:
            guessed = self._routed and line.answered_open is None and location_id == self._predicted
            self.unmapped.add(f"{line_id}@{location_id}{GUESSED if guessed else ''}")
        return place

    def _note_unrouted(self, line: LineState, gone: Gone, explained: bool) -> None:
        if line.answered_open is None:
            self.unrouted |= gone.open + gone.written_off + gone.cancelled > 0
        else:
            self.unrouted |= not explained

    # -- effects --------------------------------------------------------------------------------

    def _facts(self, line_id: str, line: LineState, gone: Gone) -> Iterator[Effect]:
        if line.pin is not None:
            yield self._effect(
                line_id, f"committed/{line_id}", MovementKind.COMMITTED, line.quantity, line.pin
            )
        for fulfillment, units in self._shipments.get(line_id, ()):
            yield from self._shipping(line_id, line, fulfillment, units)
        for refund_line_id, refund_line in self._refunds.get(line_id, ()):
            yield from self._refunded(line_id, line, refund_line_id, refund_line)
        yield from self._given_back(line_id, line)
        edited = {self._home(line): gone.edited} if gone.edited else {}
        edited_at = line.live_as_of or self.updated_at
        yield from self._swung(line_id, line, "edited", MovementKind.RELEASED, edited, edited_at)
        refunds = (r for _, r in self._refunds.get(line_id, ()) if r.restock_type == "no_restock")
        yield from self._swung(
            line_id,
            line,
            "written-off",
            MovementKind.WRITTEN_OFF,
            self._spread(line, gone.written_off),
            max((r.created_at for r in refunds), default=self.updated_at),
        )
        yield from self._swung(
            line_id,
            line,
            "cancelled",
            MovementKind.WRITTEN_OFF,
            self._spread(line, gone.cancelled),
            self.record.cancelled_at or self.record.deleted_at or self.updated_at,
        )

    def _effect(
        self,
        line_id: str,
        name: str,
        kind: MovementKind,
        total: int,
        at: Listed,
        *,
        when: datetime | None = None,
        fulfillment: int | None = None,
        refund: int | None = None,
    ) -> Effect:
        """An effect of a line; ``when`` is left out where the order's own instants say it."""
        moved = self.record.moved.get(name)
        # An effect stays where it began, or its steps would not add up at either key.
        at = moved.at if moved else at
        when = when or (self.updated_at if moved else self.created_at)
        return Effect(name, kind, total, at, when, int(line_id), fulfillment, refund)

    def _shipping(
        self, line_id: str, line: LineState, fulfillment: Fulfillment, units: int
    ) -> Iterator[Effect]:
        number, leaves = fulfillment.id, fulfillment.status not in NOT_SHIPPING
        name, undone = f"shipped/{number}/{line_id}", f"unshipped/{number}/{line_id}"
        shipped, unshipped = self._swing(name, undone, units if leaves else 0)
        if not shipped:
            return
        earlier = self.record.moved.get(name)
        location_id = location_of(self.record, fulfillment, self._default_location_id)
        place = earlier.at if earlier else self._place(line_id, line, location_id)
        if place is None:
            return
        left, back = fulfillment.created_at, fulfillment.updated_at or self.updated_at
        for each, kind, total, when in (
            (name, MovementKind.SHIPPED, shipped, left),
            (undone, MovementKind.RETURNED, unshipped, back),
            (f"recommit/{number}/{line_id}", MovementKind.COMMITTED, unshipped, back),
        ):
            yield self._effect(line_id, each, kind, total, place, when=when, fulfillment=number)

    def _refunded(
        self, line_id: str, line: LineState, refund_line_id: str, refund_line: RefundLineState
    ) -> Iterator[Effect]:
        restock = self._restock_type(line_id, refund_line)
        if restock not in ("cancel", "return") or (restock == "return" and refund_line.return_id):
            return
        location_id = refund_line.location_id or self._home(line)
        place = self._place(line_id, line, location_id) or (line.pin if restock == "cancel" else None)
        if place is None:
            return
        yield self._effect(
            line_id,
            f"refund/{refund_line_id}",
            MovementKind.RELEASED if restock == "cancel" else MovementKind.RETURNED,
            refund_line.quantity,
            place,
            when=refund_line.created_at,
            refund=refund_line.refund,
        )

    def _given_back(self, line_id: str, line: LineState) -> Iterator[Effect]:
        """Units of returns. Dispositions tell; refund lines only of units that no disposition is about."""
        disposed: dict[int, list[Disposition]] = defaultdict(list)
        for one in self._disposed.get(line_id, ()):
            disposed[one.return_id].append(one)
        refunds: dict[int, dict[str, RefundLineState]] = defaultdict(dict)
        for refund_line_id, refund_line in self._refunds.get(line_id, ()):
            if refund_line.return_id and refund_line.restock_type == "return":
                refunds[refund_line.return_id][refund_line_id] = refund_line
        for return_id in sorted(disposed.keys() | refunds.keys()):
            paid = refunds[return_id]
            units = self._restocked(line, disposed[return_id], paid)
            told = [one.created_at for one in disposed[return_id]]
            when = max([*told, *(r.created_at for r in paid.values())])
            name = f"given-back/{return_id}"
            yield from self._swung(line_id, line, name, MovementKind.RETURNED, units, when)

    def _restocked(
        self, line: LineState, disposed: list[Disposition], paid: Mapping[str, RefundLineState]
    ) -> Units:
        """Units of a return by location, less those that moved before its refund was known to pay for it."""
        units: Units = defaultdict(int)
        for one in disposed:
            if one.restocked:
                units[one.location_id or self._home(line)] += one.quantity
        rest = sum(r.quantity for r in paid.values()) - sum(one.quantity for one in disposed)
        waits = False
        for refund_line in paid.values():
            if rest > 0 and not self._read_since(refund_line.created_at):
                self.unexplained, waits = "return", True
                break
            counted = max(0, min(rest, refund_line.quantity))
            units[refund_line.location_id or self._home(line)] += counted
            rest -= counted
        for refund_line_id in paid:
            earlier = self.record.moved.get(f"refund/{refund_line_id}")
            if earlier is not None:
                units[earlier.at.location_id] -= earlier.quantity
        return {place: n for place, n in units.items() if n > 0 or (n and not waits)}

    def _swung(
        self,
        line_id: str,
        line: LineState,
        name: str,
        kind: MovementKind,
        net: Mapping[int, int],
        when: datetime,
    ) -> Iterator[Effect]:
        """An effect of ``net`` units by location; what newer facts have undone is taken back."""
        for location_id in sorted({*net, *self._places_moved.get((name, line_id), ())}):
            suffix = f"{location_id}/{line_id}"
            ahead, back = self._swing(f"{name}/{suffix}", f"{name}-undone/{suffix}", net.get(location_id, 0))
            moved = self.record.moved.get(f"{name}/{suffix}")
            place = moved.at if moved else self._place(line_id, line, location_id)
            if place is None:
                continue
            yield self._effect(line_id, f"{name}/{suffix}", kind, ahead, place, when=when)
            for how, undoing in zip(("undone", "found"), UNDONE_BY[kind], strict=False):
                yield self._effect(
                    line_id, f"{name}-{how}/{suffix}", undoing, back, place, when=self.updated_at
                )

    def _promise(
        self, line_id: str, line: LineState, effects: list[Effect], places: Units
    ) -> Iterator[Effect]:
        """What makes the units promised at each location those that are open there."""
        known: dict[int, Listed] = {}
        promised: Units = defaultdict(int)
        for effect in effects:
            known.setdefault(effect.at.location_id, effect.at)
            promised[effect.at.location_id] += COMMITS.get(effect.kind, 0) * effect.total
        for location_id in sorted({*promised, *places, *self._places_moved.get(("here", line_id), ())}):
            here, away = f"here/{location_id}/{line_id}", f"away/{location_id}/{line_id}"
            missing = places.get(location_id, 0) - promised.get(location_id, 0)
            ahead, back = self._swing(here, away, missing)
            place = known.get(location_id) or self._place(line_id, line, location_id)
            if place is not None:
                yield self._effect(line_id, here, MovementKind.COMMITTED, ahead, place, when=self.updated_at)
                yield self._effect(line_id, away, MovementKind.RELEASED, back, place, when=self.updated_at)

    def _kept(self, name: str, line_id: str, target: int, room: int) -> int:
        """The net units of a write-off: not below what moved, as long as the line has room for that."""
        net = 0
        for location_id in self._places_moved.get((name, line_id), ()):
            suffix = f"{location_id}/{line_id}"
            net += moved_units(self.record, f"{name}/{suffix}")
            net -= moved_units(self.record, f"{name}-undone/{suffix}")
        return max(target, min(net, room))

    def _swing(self, forward: str, backward: str, net: int) -> tuple[int, int]:
        """The two running totals whose difference is ``net``, neither below what has moved."""
        ahead, back = moved_units(self.record, forward), moved_units(self.record, backward)
        return max(ahead, net + back), max(back, ahead - net)


def _open_places(line: LineState, open_units: int, left: Units, predicted: int) -> tuple[Units, bool]:
    """Where the open units of a line are, and whether what was told explains all of it.

    They are where the fulfilment orders said, less what has left since. Units beyond that are taken to be
    where new ones go; fewer are taken away where most are, which is no guess when there is one location.
    """
    if open_units <= 0:
        return {}, True
    same = line.ordered_before == line.quantity
    asked = same and line.answered_open == open_units and line.left_before == left
    places = {
        place: line.assigned.get(place, 0) - left.get(place, 0) + line.left_before.get(place, 0)
        for place in line.assigned.keys() | left.keys() | line.left_before.keys()
    }
    known = all(units >= 0 for units in places.values())
    places = {place: units for place, units in places.items() if units > 0}
    surplus = sum(places.values()) - open_units
    explained = asked or (same and known and (surplus == 0 or (surplus > 0 and len(places) == 1)))
    if surplus < 0:
        places[predicted] = places.get(predicted, 0) - surplus
    for place in sorted(places, key=lambda each: (-places[each], each)) if surplus > 0 else ():
        taken = min(places[place], surplus)
        places[place] -= taken
        surplus -= taken
    return {place: units for place, units in places.items() if units}, explained


def _with_back(places: Units, ended: list[tuple[int, int]]) -> Units:
    """The open units with those of cancelled fulfilments where these left, as far as there are so many."""
    back: Units = defaultdict(int)
    for place, units in ended:
        back[place] += units
    after, free = dict(places), {place: n for place, n in places.items() if place not in back}
    for place, units in back.items():
        for other in sorted(free, key=lambda each: (-free[each], each)):
            moved = min(free[other], max(0, units - after.get(place, 0)))
            free[other] -= moved
            after[other] -= moved
            after[place] = after.get(place, 0) + moved
    return {place: units for place, units in after.items() if units}
