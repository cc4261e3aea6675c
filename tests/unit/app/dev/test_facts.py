"""The demo's own books: what moved on_hand beside orders, and what explains oversold units."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.dev.facts import PutBack, Sale, Shown, explain_oversold, own_movements
from app.dev.shops import Key
from app.records import Cause, Listing, Movement, MovementKind, Outcome, StockRecord
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


NORTH, SOUTH = "north.myshopify.com", "south.myshopify.com"
TEE = Key(
    sku="TEE",
    location="main",
    opening=1,
    listings=tuple(Listing(shop=shop, item=1, variant=1, location_id=1) for shop in (NORTH, SOUTH)),
)


def sold(shop: str, clicked: float, version: int, oversold: int = 0) -> Sale:
    """A sale of one unit, ``clicked`` seconds after the count."""
    return Sale(
        shop=shop, key=TEE.name, quantity=1, clicked=clicked, version=version, before=1 - oversold,
        oversold=oversold, movement=f"{shop}-{version}", occurred_at=COUNTED_AT + timedelta(seconds=clicked),
    )  # fmt: skip


def put_back(shop: str, second: float, version: int) -> PutBack:
    return PutBack(shop=shop, units=1, version=version, occurred_at=COUNTED_AT + timedelta(seconds=second))


def shown(shop: str, version: int, at: float) -> dict[str, Shown]:
    listing = next(listing for listing in TEE.listings if listing.shop == shop)
    return {listing.key: Shown(versions=[version], applied=[at])}


@pytest.mark.parametrize(
    ("sales", "returns", "seen", "across_put_back_otherwise"),
    [
        pytest.param([sold(NORTH, 1, 2), sold(NORTH, 2, 3, 1)], [], {}, (0, 0, 1), id="nothing"),
        pytest.param([sold(SOUTH, 1, 2), sold(NORTH, 2, 3, 1)], [], {}, (1, 0, 0), id="the other shop"),
        pytest.param(
            [sold(SOUTH, 1, 2), sold(NORTH, 2, 3, 1)], [], shown(NORTH, 2, 1.5), (0, 0, 1), id="it knew"
        ),
        pytest.param(
            [sold(NORTH, 1, 2), sold(NORTH, 3, 4, 1)], [put_back(NORTH, 2, 3)], {}, (0, 1, 0), id="put back"
        ),
        pytest.param(
            [sold(NORTH, 1, 2), sold(NORTH, 3, 4, 1)], [put_back(SOUTH, 2, 3)], {}, (0, 0, 1),
            id="put back in the other shop",
        ),
        pytest.param(
            [sold(NORTH, 1, 2), sold(NORTH, 3, 4, 1)], [put_back(NORTH, 2, 3)],
            shown(NORTH, 3, 2.5), (0, 0, 1),
            id="taken away before it was sold",
        ),
        pytest.param(
            [sold(NORTH, 3, 2), sold(NORTH, 1, 3, 1)], [put_back(NORTH, 2, 4)], {}, (0, 1, 0),
            id="put back, and its sale heard of before the earlier one",
        ),
        pytest.param(
            [sold(NORTH, 2, 2), sold(NORTH, 1, 3, 1)], [put_back(NORTH, 3, 4)], {}, (0, 0, 1),
            id="put back after both",
        ),
    ],
)  # fmt: skip
def test_oversold_units_are_explained_by_what_a_shop_could_not_know_or_put_back(
    sales: list[Sale],
    returns: list[PutBack],
    seen: dict[str, Shown],
    across_put_back_otherwise: tuple[int, int, int],
) -> None:
    told = explain_oversold(sales, {TEE.name: returns}, seen, {TEE.name: TEE})
    assert (told.across, told.put_back, told.otherwise) == across_put_back_otherwise
    assert len(told.problems) == told.otherwise
