"""What a query string means, and pages that stay right while records change."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from graphql import GraphQLError
from hypothesis import given
from hypothesis import strategies as st
from support.simulated import TEE, simulated

from connectors.shopify.simulator.paging import Records
from connectors.shopify.simulator.search import search

RECORD = {
    "sku": "TEE-Red",
    "id": 5001,
    "tracked": True,
    "updated_at": datetime(2026, 11, 2, 8, 0, tzinfo=UTC),
    "nothing": None,
}


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (None, True),
        ("  ", True),
        ("sku:TEE-Red", True),
        ("sku:'tee-red'", True),
        ("sku:TEE", False),
        ("sku:tee*", True),
        ("-sku:tee*", False),
        ("NOT sku:CAP", True),
        ("sku:CAP OR id:5001", True),
        ("sku:CAP OR id:5001 AND tracked:false", False),
        ("(sku:CAP OR id:5001) tracked:true", True),
        ("id:>=5001 id:<5002", True),
        ("id:gid://shopify/InventoryItem/5001", True),
        ("updated_at:>='2026-11-02T09:00:00+01:00'", True),
        ("updated_at:>'2026-11-02T08:00:00Z'", False),
        ("updated_at:<=2026-11-02", False),
        ("updated_at:>2026-11-01", True),
        ("nothing:1", False),
    ],
)
def test_a_query_finds_what_it_says(query: str | None, found: bool) -> None:
    assert search(query)(RECORD) is found


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("sku", "not understood"),
        ("(sku:TEE", "nothing closes"),
        ("sku:TEE)", "nothing opens"),
        ("sku:TEE OR", "ends where a term"),
        ("colour:red", "'colour' is not simulated; known are id, nothing, sku"),
        ("id:abc", "cannot compare 5001 with 'abc'"),
        ("sku:" + "x" * 5000, "5004 characters; the limit is 4096"),
    ],
)
def test_what_is_not_understood_is_refused(query: str, why: str) -> None:
    with pytest.raises(GraphQLError, match=why.replace("(", r"\(")):
        search(query)(RECORD)


class Shelf:
    """Records of (id, value), shown as they are."""

    def __init__(self, values: dict[int, int]) -> None:
        self.values = values
        self.records: Records[tuple[int, int]] = Records(
            all=lambda: list(self.values.items()),
            get=lambda number: (number, self.values[number]) if number in self.values else None,
            id=lambda record: record[0],
            fields=lambda record: {"value": record[1]},
            show=lambda record: {"id": record[0]},
            sorts={"VALUE": lambda record: record[1]},
        )

    def page(self, **args: Any) -> tuple[list[int], Any]:
        page = self.records.connection(None, **args)
        return [node["id"] for node in page["nodes"]], page["pageInfo"]

    def walk(self, size: int, forward: bool, **args: Any) -> list[int]:
        seen: list[int] = []
        cursor = None
        while True:
            if forward:
                ids, info = self.page(first=size, after=cursor, **args)
                seen, cursor, more = seen + ids, info["endCursor"], info["hasNextPage"]
            else:
                ids, info = self.page(last=size, before=cursor, **args)
                seen, cursor, more = ids + seen, info["startCursor"], info["hasPreviousPage"]
            if not more:
                return seen


@given(
    values=st.dictionaries(st.integers(1, 99), st.integers(0, 5), max_size=20),
    size=st.integers(1, 7),
    forward=st.booleans(),
    reverse=st.booleans(),
)
def test_pages_show_every_record_once_in_order(
    values: dict[int, int], size: int, forward: bool, reverse: bool
) -> None:
    wanted = [number for number, _ in sorted(values.items(), key=lambda pair: (pair[1], pair[0]))]
    seen = Shelf(values).walk(size, forward, reverse=reverse)
    assert seen == (wanted[::-1] if reverse else wanted)


def test_a_record_that_moves_between_two_pages_hides_no_other() -> None:
    shelf = Shelf({1: 10, 2: 20, 3: 30, 4: 40})
    first, info = shelf.page(first=2)
    shelf.values[1] = 50  # updated meanwhile: it comes again, at its new place
    second, _ = shelf.page(first=3, after=info["endCursor"])
    assert (first, second) == ([1, 2], [3, 4, 1])


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ({}, "one of first or last"),
        ({"first": 1, "last": 1}, "one of first or last"),
        ({"first": 251}, "0 to 250 nodes, not 251"),
        ({"last": -1}, "0 to 250 nodes, not -1"),
        ({"first": 1, "after": "x"}, "Invalid cursor: x"),
        ({"first": 1, "after": "WzEsICJhIl0="}, "Invalid cursor"),
        ({"first": 1, "sortKey": "COLOUR"}, "COLOUR is not simulated; known are ID, VALUE"),
        ({"first": 1, "savedSearchId": "1"}, "saved searches"),
    ],
)
def test_a_page_that_cannot_be_is_refused(args: dict[str, Any], why: str) -> None:
    with pytest.raises(GraphQLError, match=why):
        Shelf({1: 1, 2: 2}).page(**args)


async def test_locations_that_are_inactive_are_shown_when_asked_for() -> None:
    async with simulated(subscribed="none") as shop:
        closed = [{"id": 73, "name": "Closed", "active": False}]
        await shop.act("shops", domain=shop.shop.domain, locations=closed)
        document = "query L($all: Boolean) { locations(first: 9, includeInactive: $all) { nodes { name } } }"
        names = [
            [node["name"] for node in (await shop.ask(document, {"all": every}))["locations"]["nodes"]]
            for every in (False, True)
        ]
        assert names == [["Default", "Store"], ["Closed", "Default", "Store"]]


async def test_orders_are_read_by_when_they_changed() -> None:
    async with simulated(subscribed="none") as shop:
        first = (await shop.sell((TEE, 1)))["id"]
        await shop.act("fulfil", shop=shop.shop.domain, order=first)
        document = """query Changed($query: String) {
          orders(first: 9, query: $query, sortKey: UPDATED_AT) { nodes { legacyResourceId } }
        }"""
        for query, found in (
            (None, 1),
            ("updated_at:>='2026-01-01T00:00:00Z'", 1),
            ("updated_at:<2026-01-01", 0),
        ):
            nodes = (await shop.ask(document, {"query": query}))["orders"]["nodes"]
            assert nodes == [{"legacyResourceId": str(first)}][:found]
