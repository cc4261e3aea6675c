"""A refund line counts once, however often it is told and whether or not it has an id in the telling."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from itertools import permutations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from app.records import (
    Disposition,
    Fulfillment,
    FulfillmentLine,
    Listing,
    Listings,
    Order,
    OrderLine,
    ReadOrder,
    Refund,
    RefundLine,
    ReturnRef,
)
from tables.listings import ListingDirectory
from tables.order_record import OrderRecord, RefundLineState
from tables.orders import evaluate, take_order, take_refund
from tables.refund_lines import united_refund_lines

SHOP, MAIN = "north.myshopify.com", 71
CREATED, REFUNDED = datetime(2026, 11, 24, 9, tzinfo=UTC), datetime(2026, 11, 24, 10, tzinfo=UTC)


def told(refund: Refund, ids: bool) -> Refund:
    lines = refund.refund_line_items if ids else [replace(line, id=None) for line in refund.refund_line_items]
    return replace(refund, refund_line_items=lines)


def line(
    number: int, units: int, kind: str = "cancel", *, of: int = 1, place: int | None = MAIN
) -> RefundLine:
    return RefundLine(id=number, line_item_id=of, quantity=units, restock_type=kind, location_id=place)


def a_refund(*lines: RefundLine, number: int = 50, of_return: int | None = None) -> Refund:
    about = ReturnRef(id=of_return) if of_return else None
    return Refund(
        id=number, order_id=100, created_at=REFUNDED, refund_line_items=list(lines), of_return=about
    )


def an_order(*refunds: Refund, read: bool = False, shipped: bool = False) -> Order:
    sold = OrderLine(
        id=1, quantity=9, fulfillable_quantity=0, sku="TEE", variant_inventory_management="shopify"
    )
    gone = Fulfillment(
        id=7, status="success", created_at=CREATED, updated_at=CREATED, location_id=MAIN,
        line_items=[FulfillmentLine(id=1, quantity=9)],
    )  # fmt: skip
    kind = ReadOrder if read else Order
    return kind(
        id=100, created_at=CREATED, updated_at=REFUNDED, line_items=[sold], refunds=list(refunds),
        fulfillments=[gone] if shipped else [],
    )  # fmt: skip


class Telling:
    """An order as it is told, and the units that moved by kind."""

    def __init__(self) -> None:
        self.record: OrderRecord | None = None
        self.moved: Counter[str] = Counter()
        self._directory = ListingDirectory()
        listing = Listing(shop=SHOP, item=5001, variant=9001, location_id=MAIN)
        self._directory.put("TEE@main", Listings(sku="TEE", location="main", listings=[listing]))

    def webhook(self, refund: Refund) -> None:
        self._settle(take_refund(self.record, SHOP, refund))

    def order(self, order: Order) -> None:
        self._settle(take_order(self.record, SHOP, order, read=isinstance(order, ReadOrder)))

    def _settle(self, record: OrderRecord) -> None:
        done = evaluate(record, self._directory, default_location_id=MAIN, correlation_id="", routed=False)
        self.record = done.record
        self.moved.update({str(one.kind): 0 for one in done.movements})
        for one in done.movements:
            self.moved[str(one.kind)] += one.quantity


WAYS = {
    "its webhook": lambda telling, refund: telling.webhook(refund),
    "a snapshot": lambda telling, refund: telling.order(an_order(refund)),
    "a read": lambda telling, refund: telling.order(an_order(refund, read=True)),
}
CASES = [(way, ids) for way in WAYS for ids in (True, False)]


@pytest.mark.parametrize("first", CASES, ids=str)
@pytest.mark.parametrize("second", CASES, ids=str)
def test_a_refund_that_is_told_twice_in_any_two_ways_counts_once(
    first: tuple[str, bool], second: tuple[str, bool]
) -> None:
    telling, refund = Telling(), a_refund(line(901, 2), line(902, 3))
    telling.order(an_order())
    for way, ids in (first, second, first):
        WAYS[way](telling, told(refund, ids))
    assert telling.moved["released"] == 5
    assert telling.record is not None
    assert len(telling.record.refund_lines) == 2


def test_a_webhook_whose_refund_lines_have_no_ids_is_understood() -> None:
    body = b'{"id":50,"order_id":100,"created_at":"2026-11-24T10:00:00Z","refund_line_items":[%s]}'
    for given_id in (b"", b'"id":null,'):
        refund = msgspec.json.decode(body % (b'{%s"line_item_id":1,"quantity":2}' % given_id), type=Refund)
        assert refund.refund_line_items[0].id is None


def test_lines_of_other_refunds_are_other_lines_even_when_they_are_alike() -> None:
    known: dict[str, RefundLineState] = {}
    for number in (50, 51):
        known = united_refund_lines(known, a_refund(replace(line(1, 2), id=None), number=number))
    assert len(known) == 2
    assert len({one.refund for one in known.values()}) == 2


def test_an_id_that_a_reader_made_is_none() -> None:
    known = united_refund_lines({}, a_refund(line(901, 2)))
    assert united_refund_lines(known, a_refund(line(-5_000_000, 2))) == known


@pytest.mark.parametrize("first", [(0, 1), (1, 0)])
@pytest.mark.parametrize("second", [(0, 1), (1, 0)])
def test_of_two_equal_lines_each_telling_may_leave_out_the_id_of_another(
    first: tuple[int, int], second: tuple[int, int]
) -> None:
    lines = [line(901, 1, "return"), line(902, 1, "return")]
    once = [replace(lines[0], id=None), lines[1]]
    again = [lines[0], replace(lines[1], id=None)]
    known = united_refund_lines({}, a_refund(*(once[n] for n in first)))
    known = united_refund_lines(known, a_refund(*(again[n] for n in second)))
    assert len(known) == 2


@given(
    st.lists(
        st.tuples(
            st.integers(1, 3), st.integers(1, 4), st.sampled_from(["cancel", "return", "no_restock"]),
            st.sampled_from([MAIN, 72, None]),
        ),
        max_size=6,
    ),
    st.lists(st.tuples(st.randoms(use_true_random=False), st.sets(st.integers(0, 5))), max_size=4),
)  # fmt: skip
def test_whichever_ids_a_telling_leaves_out_and_in_whatever_order_all_lines_count_once(
    rows: list[tuple[int, int, str, int | None]], tellings: list[tuple[object, set[int]]]
) -> None:
    lines = [
        RefundLine(id=901 + n, line_item_id=of, quantity=units, restock_type=kind, location_id=place)
        for n, (of, units, kind, place) in enumerate(rows)
    ]
    known: dict[str, RefundLineState] = {}
    for random, without in tellings:
        some = [replace(one, id=None) if n in without else one for n, one in enumerate(lines)]
        random.shuffle(some)  # type: ignore[attr-defined]  # Hypothesis gives a Random
        known = united_refund_lines(known, a_refund(*some))
    counted = Counter((one.line, one.quantity, one.restock_type, one.location_id) for one in known.values())
    assert counted == (Counter(rows) if tellings else Counter())


def with_return(read: bool, told_return: bool) -> Order:
    """Two of nine shipped units come back by return 8, which refund 50 pays for."""
    refund = a_refund(line(901, 2, "return"), of_return=8 if told_return else None)
    order = an_order(refund, read=read, shipped=True)
    if not isinstance(order, ReadOrder):
        return order
    back = Disposition(
        id=3, return_id=8, line_item_id=1, restocked=True, quantity=2, location_id=MAIN, created_at=REFUNDED
    )
    return replace(order, dispositions=[back])


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_refund_that_is_told_without_its_return_first_does_not_count_beside_the_return(
    order: tuple[int, ...],
) -> None:
    telling = Telling()
    ways = [with_return(False, False), with_return(False, True), with_return(True, True)]
    for number in order:
        telling.order(ways[number])
    assert telling.moved["returned"] == 2
    assert telling.moved["written_off"] == 0
