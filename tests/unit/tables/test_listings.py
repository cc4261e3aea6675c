"""The index of all listings: found by key and by item, and which value of a key is the newest."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from msgspec.structs import replace

from app.records import Listing, Listings
from tables.listings import ListingIndex

SHOP, OTHER = "a.myshopify.com", "b.myshopify.com"
AT = datetime(2026, 11, 2, 9, 15, tzinfo=UTC)


def listing(item: int, location: int = 1, shop: str = SHOP) -> Listing:
    return Listing(shop=shop, item=item, variant=item + 100, location_id=location)


def listings(*each: Listing, united: int = 0, later_s: int = 0) -> Listings:
    at = AT + timedelta(seconds=later_s)
    return Listings(sku="A", location="main", listings=list(each), united=united, updated_at=at)


def test_items_are_found_where_they_are_listed_now() -> None:
    index = ListingIndex()
    index.put("A@main", listings(listing(1), listing(2, location=2), listing(1, shop=OTHER)))
    assert set(index.keys_of(SHOP, 1)) == {"A@main"}
    assert index.items_at(SHOP, 2) == {2}
    assert (index.lists(SHOP), index.lists(OTHER), index.lists("c.myshopify.com")) == (True, True, False)
    index.put("A@main", listings(listing(2)))
    assert set(index.keys_of(SHOP, 1)) == set()
    assert not index.lists(OTHER)
    index.put("A@main", None)
    assert index.of("A@main").listings == []
    assert not index.lists(SHOP)


def test_what_was_united_counts_until_it_has_come_round() -> None:
    index = ListingIndex()
    known, united = listings(listing(1)), listings(listing(1), listing(2), united=1, later_s=5)
    index.put("A@main", known)
    assert index.newest("A@main", None) == known
    assert index.newest("A@main", united) == united
    index.put("A@main", united)
    assert index.newest("A@main", united) == united


def test_a_whole_value_counts_when_it_was_written_later() -> None:
    index = ListingIndex()
    united = listings(listing(1), united=4, later_s=5)
    earlier, later = listings(listing(2), later_s=1), listings(listing(2), later_s=9)
    index.put("A@main", earlier)
    assert index.newest("A@main", united) == united
    index.put("A@main", later)
    assert index.newest("A@main", united) == later
    index.put("A@main", united)
    index.put("A@main", replace(earlier, updated_at=None))
    # It came after what was united, as the order of the topic says.
    assert index.newest("A@main", united).listings == [listing(2)]
