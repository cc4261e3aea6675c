"""Order records that version 1 of the rules wrote: they move nothing twice and go on where they were."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from support.one_lane import Memory, OneLane

from agents.orders import OrderKeeper
from app.exactly_once.store import VERSION_HEADER
from app.records import Fulfillment, FulfillmentLine, Listing, Listings, Order, OrderLine, Refund, RefundLine
from connectors.shopify.client import ShopClients
from tables.listings import ListingDirectory
from tables.order_record import OrderRecord
from tables.order_upgrade import ORDERS_VERSION, upgraded
from tables.orders import evaluate, take_order

RECORDS: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "support" / "orders_version_1.json").read_text()
)
"""By case; each is of order 100, with three units on line 1, as version 1 encoded it."""

SHOP, MAIN, STORE = "north.myshopify.com", 71, 72
BEGAN = datetime(2026, 11, 24, 9, tzinfo=UTC)


class Changelogged(NamedTuple):
    """A record of the changelog, without a header of a version: version 1."""

    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


def at(minutes: int) -> datetime:
    return BEGAN + timedelta(minutes=minutes)


def shipment(
    status: str = "success", *, minutes: int = 3, location: int = STORE, units: int = 3
) -> Fulfillment:
    return Fulfillment(
        id=7, status=status, created_at=at(3), updated_at=at(minutes), location_id=location,
        line_items=[FulfillmentLine(id=1, quantity=units)],
    )  # fmt: skip


def refund(kind: str, units: int) -> Refund:
    line = RefundLine(id=51, line_item_id=1, quantity=units, restock_type=kind, location_id=MAIN)
    return Refund(id=50, order_id=100, created_at=at(3), refund_line_items=[line])


def order(minutes: int, *, open_units: int = 3, current: int = 3, **more: Any) -> Order:
    line = OrderLine(
        id=1, quantity=3, current_quantity=current, fulfillable_quantity=open_units, variant_id=9001,
        sku="TEE", variant_inventory_management="shopify",
    )  # fmt: skip
    return Order(id=100, created_at=BEGAN, updated_at=at(minutes), line_items=[line], **more)


def directory() -> ListingDirectory:
    made = ListingDirectory()
    for location_id, location in ((MAIN, "main"), (STORE, "store")):
        listing = Listing(shop=SHOP, item=5001, variant=9001, location_id=location_id)
        made.put(f"TEE@{location}", Listings(sku="TEE", location=location, listings=[listing]))
    return made


def settled(record: OrderRecord) -> tuple[OrderRecord, dict[str, int]]:
    """The record after the rules, and the units that they moved."""
    done = evaluate(record, directory(), default_location_id=MAIN, correlation_id="", routed=False)
    moved: Counter[str] = Counter()
    for one in done.movements:
        moved[f"{one.kind} {one.location}"] += one.quantity
    return done.record, dict(moved)


def old(case: str) -> OrderRecord:
    return msgspec.json.decode(upgraded(msgspec.json.encode(RECORDS[case]), 1), type=OrderRecord)


CASES: dict[str, tuple[Order, Order, dict[str, int]]] = {
    # the last snapshot that version 1 has seen; one that comes later; and what that moves
    "shipped from elsewhere": (
        order(3, open_units=0, fulfillments=[shipment()]),
        order(9, fulfillments=[shipment("cancelled", minutes=9)]),
        {"returned store": 3, "committed store": 3},
    ),
    "edited and edited back": (order(4), order(9, open_units=1, current=1), {"released main": 2}),
    "written off": (
        order(3, open_units=2, current=2, refunds=[refund("no_restock", 1)]),
        order(
            9, open_units=0, current=2, refunds=[refund("no_restock", 1)],
            fulfillments=[shipment(location=MAIN, units=2)],
        ),
        {"shipped main": 2},
    ),
    "cancelled without a word": (
        order(3, open_units=0, current=0, cancelled_at=at(3)),
        order(9, open_units=0, current=0, cancelled_at=at(3), refunds=[refund("cancel", 3)]),
        {"committed main": 3, "returned main": 3, "released main": 3},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_moved_under_an_old_name_does_not_move_again_and_can_be_taken_back(case: str) -> None:
    last, later, expected = CASES[case]
    record, moved = settled(old(case))
    assert moved == {}
    record, moved = settled(take_order(record, SHOP, last, read=False))
    assert moved == {}
    record, moved = settled(take_order(record, SHOP, later, read=False))
    assert moved == expected
    assert settled(record)[1] == {}


@pytest.mark.parametrize("case", ["shipped from elsewhere", "written off", "cancelled without a word"])
def test_read_without_the_upgrade_an_old_record_would_move_units_twice(case: str) -> None:
    assert settled(msgspec.convert(RECORDS[case], OrderRecord))[1] != {}


@pytest.mark.parametrize("case", CASES)
def test_records_with_the_names_of_now_stay_as_they_are(case: str) -> None:
    now = upgraded(msgspec.json.encode(RECORDS[case]), 1)
    assert upgraded(now, 1) == now


def test_the_orders_service_upgrades_its_changelog_and_writes_its_version() -> None:
    lane = OneLane(Memory())
    table = OrderKeeper(lane, ShopClients({})).orders  # type: ignore[arg-type]  # one lane
    assert table.headers == [(VERSION_HEADER, str(ORDERS_VERSION).encode())]
    written = Changelogged(b"k", msgspec.json.encode(RECORDS["shipped from elsewhere"]))
    [restored] = table.restored([written]).values()
    assert restored is not None
    assert set(table.decode(restored).moved) == {"committed/1", "shipped/7/1", "away/71/1", "here/72/1"}
