"""What a shop's catalog means for its listings: a table of findings, and properties of what follows."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.records import ItemLevel, Listing, ListingChange, Listings, ShopItem, split_stock_key
from tables.catalog import Comparison, Finding, changes, compare, fits, merge

SHOP, OTHER = "a.myshopify.com", "b.myshopify.com"
CODES = {1: "main", 2: "store"}
NOW_MS = 1_800_000_000_000


def item(number: int, sku: str, *locations: int, tracked: bool = True, inactive: int = 0) -> ShopItem:
    """An item with an active level at each location, and maybe one that is not."""
    levels = [ItemLevel(location_id=location, active=True) for location in locations]
    if inactive:
        levels.append(ItemLevel(location_id=inactive, active=False))
    return ShopItem(
        item=number, sku=sku, tracked=tracked, variants=(number + 100, number + 200), levels=tuple(levels)
    )


def listing(number: int, location: int, shop: str = SHOP, **rules: Any) -> Listing:
    variant = rules.pop("variant", number + 100)
    return Listing(shop=shop, item=number, variant=variant, location_id=location, **rules)


def listed(**keys: list[Listing]) -> list[Listings]:
    """Listings by key, with ``_at_`` for the ``@``."""
    made = []
    for name, listings in keys.items():
        sku, location = split_stock_key(name.replace("_at_", "@"))
        made.append(Listings(sku=sku, location=location, listings=listings))
    return made


def apply(known: list[Listings], steps: list[ListingChange]) -> list[Listings]:
    """The listings after the changes, as the owners of the keys unite them."""
    by_key = {(one.sku, one.location): one.listings for one in known}
    for step in steps:
        where = step.sku, step.location
        by_key[where] = merge(by_key.get(where, []), step)
    return [Listings(sku=sku, location=code, listings=found) for (sku, code), found in by_key.items()]


TABLE = [
    ("a new item at two locations", [item(1, "A", 1, 2)], listed(), ["new A@main", "new A@store"]),
    ("as it should be", [item(1, "A", 1)], listed(A_at_main=[listing(1, 1)]), []),
    (
        "another variant",
        [item(1, "A", 1)],
        listed(A_at_main=[listing(1, 1, variant=7)]),
        ["changed A@main"],
    ),
    ("the SKU says another key", [item(1, "A", 1)], listed(X_at_main=[listing(1, 1)]), ["elsewhere X@main"]),
    (
        "listed under two keys",
        [item(1, "A", 1)],
        listed(A_at_main=[listing(1, 1)], X_at_main=[listing(1, 1)]),
        ["elsewhere X@main"],
    ),
    ("no such item any more", [], listed(A_at_main=[listing(1, 1)]), ["vanished A@main"]),
    (
        "no level there any more",
        [item(1, "A", 2)],
        listed(A_at_main=[listing(1, 1)]),
        ["vanished A@main", "new A@store"],
    ),
    (
        "two items with one SKU",
        [item(1, "A", 1), item(2, "A", 1)],
        listed(),
        ["duplicate_sku A@main", "duplicate_sku A@main"],
    ),
    (
        "a second item with the SKU of a listed one",
        [item(1, "A", 1), item(2, "A", 1)],
        listed(A_at_main=[listing(1, 1)]),
        ["duplicate_sku A@main"],
    ),
    (
        "the key is another item's by hand",
        [item(1, "A", 1), item(2, "B", 1)],
        listed(B_at_main=[listing(1, 1)]),
        ["elsewhere B@main", "duplicate_sku B@main"],
    ),
    ("no SKU", [item(1, "", 1)], listed(), ["missing_sku "]),
    ("a SKU that is no key", [item(1, " A", 1)], listed(), ["missing_sku "]),
    ("not counted by the shop", [item(1, "A", 1, tracked=False)], listed(), ["untracked "]),
    (
        "not counted any more",
        [item(1, "A", 1, tracked=False)],
        listed(A_at_main=[listing(1, 1)]),
        ["untracked "],
    ),
    ("an inactive level is not proposed", [item(1, "A", inactive=1)], listed(), []),
    (
        "a listed level is not active",
        [item(1, "A", inactive=1)],
        listed(A_at_main=[listing(1, 1)]),
        ["inactive A@main"],
    ),
    (
        "listed by its SKU, and the level is not active any more",
        [item(1, "A", inactive=1)],
        listed(A_at_main=[listing(1, 1, by_sku=True)]),
        ["vanished A@main"],
    ),
    (
        "listed by its SKU, and it has none any more",
        [item(1, "", 1)],
        listed(A_at_main=[listing(1, 1, by_sku=True)]),
        ["missing_sku ", "vanished A@main"],
    ),
    (
        "listed by its SKU, and not counted any more",
        [item(1, "A", 1, tracked=False)],
        listed(A_at_main=[listing(1, 1, by_sku=True)]),
        ["untracked ", "vanished A@main"],
    ),
    ("a location without a code", [item(1, "A", 1, 3)], listed(), ["new A@main", "unmapped_location "]),
    ("another shop's listings", [item(1, "A", 1)], listed(A_at_main=[listing(9, 1, OTHER)]), ["new A@main"]),
    ("nothing at all", [], listed(), []),
]


@pytest.mark.parametrize(
    ("items", "known", "rows"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_findings(items: list[ShopItem], known: list[Listings], rows: list[str]) -> None:
    found = compare(SHOP, items, CODES, known)
    assert [f"{row.finding} {row.key}" for row in found.rows] == rows


def test_two_locations_with_one_code_cannot_be_told_apart() -> None:
    found = compare(SHOP, [item(1, "A", 1, 2)], {1: "main", 2: "main"}, [])
    assert found.counts == {"duplicate_sku": 2}
    assert "item 1 at location 2 is not listed: the key belongs to item 1 at location 1 too" in [
        row.detail for row in found.rows
    ]


def test_what_is_listed_elsewhere_moves_with_its_rules_only_when_told() -> None:
    known = listed(X_at_main=[listing(1, 1, buffer=3), listing(5, 1, OTHER)])
    assert changes(compare(SHOP, [item(1, "A", 1)], CODES, known), NOW_MS) == []
    steps = changes(compare(SHOP, [item(1, "A", 1)], CODES, known, move=True), NOW_MS)
    assert apply(known, steps) == listed(
        X_at_main=[listing(5, 1, OTHER)],
        A_at_main=[listing(1, 1, buffer=3, by_sku=True, generation=NOW_MS)],
    )


def test_what_is_listed_by_its_sku_follows_it_untold() -> None:
    known = listed(X_at_main=[listing(1, 1, buffer=3, by_sku=True)])
    steps = changes(compare(SHOP, [item(1, "A", 1)], CODES, known), NOW_MS)
    assert apply(known, steps) == listed(
        X_at_main=[], A_at_main=[listing(1, 1, buffer=3, by_sku=True, generation=NOW_MS)]
    )


def test_the_generation_of_a_listing_rises_when_it_moves_whatever_the_clock_says() -> None:
    ahead = NOW_MS + 5_000
    known = listed(X_at_main=[listing(1, 1, by_sku=True, generation=ahead)])
    _, put = changes(compare(SHOP, [item(1, "A", 1)], CODES, known), NOW_MS)
    assert (put.key, put.listing.generation) == ("A@main", ahead + 1)


def test_of_two_keys_that_list_an_item_the_one_that_keeps_it_has_the_higher_generation() -> None:
    known = listed(
        A_at_main=[listing(1, 1, by_sku=True, generation=5)],
        X_at_main=[listing(1, 1, by_sku=True, generation=NOW_MS + 1)],
    )
    after = apply(known, changes(compare(SHOP, [item(1, "A", 1)], CODES, known), NOW_MS))
    assert after == listed(A_at_main=[listing(1, 1, by_sku=True, generation=NOW_MS + 2)], X_at_main=[])


def test_a_changed_variant_does_not_change_the_generation() -> None:
    known = listed(A_at_main=[listing(1, 1, variant=7, generation=5)])
    after = apply(known, changes(compare(SHOP, [item(1, "A", 1)], CODES, known), NOW_MS))
    assert after == listed(A_at_main=[listing(1, 1, generation=5)])


def test_items_that_nobody_asked_for_are_left_alone() -> None:
    known = listed(A_at_main=[listing(1, 1)], B_at_main=[listing(2, 1)])
    found = compare(SHOP, [item(1, "A", 1, 2)], CODES, known, asked={1, 3})
    assert [row.key for row in found.rows] == ["A@store"]
    gone = compare(SHOP, [], CODES, known, asked={1})
    assert [(str(row.finding), row.key) for row in gone.rows] == [("vanished", "A@main")]
    second = compare(SHOP, [item(3, "B", 1)], CODES, known, asked={3})
    assert second.counts == {"duplicate_sku": 1}
    assert changes(second, NOW_MS) == []


def test_two_items_that_swap_their_skus_swap_their_keys() -> None:
    known = listed(A_at_main=[listing(1, 1, buffer=1)], B_at_main=[listing(2, 1, buffer=2)])
    swapped = [item(1, "B", 1), item(2, "A", 1)]
    steps = changes(compare(SHOP, swapped, CODES, known, move=True), NOW_MS)
    assert apply(known, steps) == listed(
        A_at_main=[listing(2, 1, buffer=2, by_sku=True, generation=NOW_MS)],
        B_at_main=[listing(1, 1, buffer=1, by_sku=True, generation=NOW_MS)],
    )


def test_what_cannot_move_keeps_its_key_for_itself() -> None:
    # Item 1 wants B, which item 3 wants as well; so it stays at A, and item 2 cannot have A.
    known = listed(A_at_main=[listing(1, 1)])
    found = compare(SHOP, [item(1, "B", 1), item(2, "A", 1), item(3, "B", 1)], CODES, known, move=True)
    assert found.counts == {"duplicate_sku": 3}
    assert changes(found, NOW_MS) == []


def test_a_changed_variant_keeps_the_rules_that_a_person_changed_meanwhile() -> None:
    known = listed(A_at_main=[listing(1, 1, variant=7)])
    [step] = changes(compare(SHOP, [item(1, "A", 1)], CODES, known), NOW_MS)
    ruled = listing(1, 1, variant=7, buffer=9, maximum=4)
    assert merge([ruled], step) == [listing(1, 1, buffer=9, maximum=4)]


@pytest.mark.parametrize("sku", ["", " ", "A ", "A\n", "A\x00", "x" * 256])
def test_skus_that_are_no_keys(sku: str) -> None:
    assert not fits(sku)


skus = st.sampled_from(["A", "B", "C", "", "A@x"])
locations = st.sampled_from([1, 2, 3])
shop_items = st.builds(
    ShopItem,
    item=st.integers(1, 5),
    sku=skus,
    tracked=st.booleans(),
    variants=st.lists(st.integers(1, 3), max_size=2).map(tuple),
    levels=st.lists(
        st.builds(ItemLevel, location_id=locations, active=st.booleans()),
        max_size=3,
        unique_by=lambda level: level.location_id,
    ).map(tuple),
)
some_listings = st.builds(
    Listing,
    shop=st.sampled_from([SHOP, OTHER]),
    item=st.integers(1, 6),
    variant=st.integers(1, 3),
    location_id=locations,
    buffer=st.integers(0, 2),
    by_sku=st.booleans(),
)
known_listings = st.lists(
    st.builds(
        Listings,
        sku=st.sampled_from(["A", "B", "C", "X"]),
        location=st.sampled_from(["main", "store"]),
        listings=st.lists(some_listings, max_size=3, unique_by=lambda one: one.key),
    ),
    max_size=6,
    unique_by=lambda one: (one.sku, one.location),
)


@given(st.lists(shop_items, max_size=5, unique_by=lambda one: one.item), known_listings, st.booleans())
def test_after_the_changes_nothing_is_left_to_change(
    items: list[ShopItem], known: list[Listings], move: bool
) -> None:
    before = compare(SHOP, items, CODES, known, move=move)
    after = apply(known, changes(before, NOW_MS))
    again = compare(SHOP, items, CODES, after, move=move)
    assert changes(again, NOW_MS) == []
    _nobody_is_merged(known, after)
    _others_are_left_alone(known, after)
    _rules_stay(known, after)


def _nobody_is_merged(before: list[Listings], after: list[Listings]) -> None:
    """No key gets a second listing of the shop that it did not have."""
    had, has = _own(before), _own(after)
    for key, places in has.items():
        assert len(places) <= 1 or places <= had.get(key, set())


def _own(known: list[Listings]) -> dict[tuple[str, str], set[str]]:
    return {
        (one.sku, one.location): {each.key for each in one.listings if each.shop == SHOP} for one in known
    }


def _others_are_left_alone(before: list[Listings], after: list[Listings]) -> None:
    def others(known: list[Listings]) -> Counter[tuple[str, str, Listing]]:
        return Counter(
            (one.sku, one.location, each) for one in known for each in one.listings if each.shop == OTHER
        )

    assert others(after) == others(before)


def _rules_stay(before: list[Listings], after: list[Listings]) -> None:
    """A listing that was there has one of the rules that it had."""
    rules: dict[str, set[int]] = {}
    for one in before:
        for each in one.listings:
            rules.setdefault(each.key, set()).add(each.buffer)
    for one in after:
        for each in one.listings:
            assert each.buffer in rules.get(each.key, {0})


def test_counts_name_the_findings() -> None:
    found = compare(SHOP, [item(1, "A", 1, 2), item(2, "", 1)], CODES, [])
    assert isinstance(found, Comparison)
    assert found.counts == {str(Finding.MISSING_SKU): 1, str(Finding.NEW): 2}
    assert (found.items, found.unchanged) == (2, 0)
