"""The demo's own books: what moved on_hand beside orders."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.dev.facts import own_movements
from app.records import Cause, Movement, MovementKind, Outcome, StockRecord
from tables.stock import apply

COUNTED_AT = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
ORDER = Cause(shop="north.myshopify.com", order=7)


def told(*movements: Movement) -> list[Outcome]:
    record, outcomes = StockRecord(), []
    for movement in movements:
        applied = apply(record, movement, now=COUNTED_AT + timedelta(hours=1))
        record = applied.record
        outcomes.append(applied.outcome)
    return outcomes


def moved(kind: MovementKind, quantity: int, minutes: int = 0, **fields: Any) -> Movement:
    return Movement(
        id=f"{kind}-{minutes}", kind=kind, sku="TEE", location="main", quantity=quantity,
        source="shopify:north.myshopify.com", occurred_at=COUNTED_AT + timedelta(minutes=minutes), **fields,
    )  # fmt: skip


COUNT = moved(MovementKind.COUNTED, 12, as_of=COUNTED_AT)


@pytest.mark.parametrize(
    ("movements", "units"),
    [
        ([COUNT], 12),
        ([COUNT, moved(MovementKind.SHIPPED, 3, 5, cause=ORDER)], 12),
        ([COUNT, moved(MovementKind.SHIPPED, 3, -5, cause=ORDER)], 15),  # the count was after it
        ([COUNT, moved(MovementKind.RETURNED, 3, -5, cause=ORDER)], 9),
        ([moved(MovementKind.SHIPPED, 3, -5, cause=ORDER), COUNT], 15),  # heard of before: -3, then 12
        ([COUNT, moved(MovementKind.COMMITTED, 3, -5, cause=ORDER)], 12),
        ([COUNT, moved(MovementKind.RECEIVED, 4, 5)], 16),
    ],
)
def test_what_a_count_has_included_is_not_lost(movements: list[Movement], units: int) -> None:
    assert own_movements(told(*movements)) == {"TEE@main": units}
