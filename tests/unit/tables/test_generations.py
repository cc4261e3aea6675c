"""Which key has a listing: generations as they are given."""

from __future__ import annotations

from typing import Any

from app.records import Listing, Listings
from tables import generations

NOW_MS = 1_800_000_000_000
SHOP = "a.myshopify.com"


def listing(item: int = 1, **more: Any) -> Listing:
    return Listing(shop=SHOP, item=item, variant=item + 100, location_id=21, **more)


def key(sku: str, *listings: Listing) -> Listings:
    return Listings(sku=sku, location="main", listings=list(listings))


def changed(wanted: list[Listings], *known: Listings) -> dict[str, list[Listing]]:
    by_key = {f"{one.sku}@{one.location}": one for one in known}
    return {one.sku: one.listings for one in generations.changed(wanted, by_key, NOW_MS)}


def test_a_generation_rises_with_time_and_above_the_one_before() -> None:
    assert generations.next_generation(0, NOW_MS) == NOW_MS
    assert generations.next_generation(NOW_MS + 7, NOW_MS) == NOW_MS + 8


def test_a_record_without_generations_gives_its_new_listings_its_own_instant() -> None:
    before = [listing(1), listing(2, generation=9), listing(3, generation=9)]
    told = [listing(1, buffer=2), listing(2), listing(3, generation=12), listing(4), listing(5, generation=8)]
    assert generations.told(told, before, NOW_MS) == [
        listing(1, buffer=2),  # it was there before there were generations
        listing(2, generation=9),
        listing(3, generation=12),
        listing(4, generation=NOW_MS),
        listing(5, generation=8),
    ]


def test_a_record_without_an_instant_leaves_its_listings_without_a_generation() -> None:
    assert generations.told([listing()], [], -1) == [listing()]


def test_what_is_wanted_as_it_is_changes_nothing() -> None:
    assert changed([key("A", listing())], key("A", listing(generation=5)), key("B", listing(2))) == {}


def test_other_rules_keep_the_generation() -> None:
    after = changed([key("A", listing(buffer=2))], key("A", listing(generation=5)))
    assert after == {"A": [listing(buffer=2, generation=5)]}


def test_a_listing_that_moves_or_is_new_gets_a_new_generation() -> None:
    wanted = [key("A"), key("B", listing(), listing(2))]
    after = changed(wanted, key("A", listing(generation=NOW_MS + 3)))
    assert after == {"A": [], "B": [listing(generation=NOW_MS + 4), listing(2, generation=NOW_MS)]}


def test_a_key_that_is_not_asked_for_gets_the_listing_that_another_gives_up() -> None:
    after = changed([key("A")], key("A", listing(generation=9)), key("B", listing(generation=5), listing(2)))
    assert after == {"A": [], "B": [listing(generation=NOW_MS), listing(2)]}


def test_of_two_keys_with_a_listing_the_one_that_got_it_last_has_it() -> None:
    after = changed([key("B", listing())], key("A", listing(generation=9)))
    assert after == {"B": [listing(generation=NOW_MS)]}
