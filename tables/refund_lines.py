"""Which refund lines are the same, however they were told.

A refund is told by its own webhook, by each later snapshot of its order, and by reads. It has its id in all
of them and never changes, and each tells all of its lines. Webhooks give a line an id; in the GraphQL schema
the id may be null (``RefundLineItem.id``, 2026-10). So lines are the same when their ids are, and a line
without one is whichever of its refund's lines of the same order line nothing else was told to be.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from msgspec.structs import replace

from app.records import Refund, RefundLine
from tables.order_record import RefundLineState

REFUND_LINES = 100_000
"""More than a refund has: what tells made ids of one refund's lines from those of the next refund."""


def united_refund_lines(known: Mapping[str, RefundLineState], refund: Refund) -> dict[str, RefundLineState]:
    """The refund lines of an order by id, with those of one telling of a refund.

    What is known stays as it was first told, under its id, because units have moved by it; only the return
    that it pays for is learned later. A line that was never told with an id has one that is made of its
    refund's and negative: Shopify has no such ids.
    """
    united = dict(known)
    free: dict[int, list[str]] = defaultdict(list)  # by order line: known, and not told again yet
    for key, one in known.items():
        if one.refund == refund.id:
            free[one.line].append(key)
    told = [(_key_of(line), _state(refund, line)) for line in refund.refund_line_items]
    told.sort(key=lambda one: not one[0])  # one with an id has less to choose from
    for same in (_by_id, _by_all, _by_units, _by_line):
        rest = []
        for key, state in told:
            found = next((each for each in free[state.line] if same(each, known[each], key, state)), None)
            if found is None:
                rest.append((key, state))
            else:
                free[state.line].remove(found)
                united[found] = replace(known[found], return_id=known[found].return_id or state.return_id)
        told = rest
    for key, state in told:
        united[key or _made_key(united, refund.id)] = state
    return united


def _key_of(line: RefundLine) -> str:
    """The line's id; empty for none, and for one that a reader made."""
    return str(line.id) if line.id is not None and line.id > 0 else ""


def _made_key(known: Mapping[str, RefundLineState], refund_id: int) -> str:
    keys = (str(-(refund_id * REFUND_LINES + position)) for position in range(REFUND_LINES))
    return next(key for key in keys if key not in known)


def _by_id(known_key: str, known: RefundLineState, key: str, told: RefundLineState) -> bool:
    return known_key == key


def _by_all(known_key: str, known: RefundLineState, key: str, told: RefundLineState) -> bool:
    same_place = known.location_id == told.location_id
    return same_place and _by_units(known_key, known, key, told)


def _by_units(known_key: str, known: RefundLineState, key: str, told: RefundLineState) -> bool:
    same = (known.restock_type, known.quantity) == (told.restock_type, told.quantity)
    return same and _by_line(known_key, known, key, told)


def _by_line(known_key: str, known: RefundLineState, key: str, told: RefundLineState) -> bool:
    """Two ids of Shopify's are two lines; where one is missing, the order line is the same already."""
    return not key or known_key.startswith("-")


def _state(refund: Refund, line: RefundLine) -> RefundLineState:
    return RefundLineState(
        refund=refund.id,
        line=line.line_item_id,
        quantity=line.quantity,
        restock_type=line.restock_type,
        location_id=line.location_id,
        created_at=refund.created_at,
        return_id=refund.return_id,
    )
