"""What `skustream listings apply` says it does to a key."""

from __future__ import annotations

from app.kafka_tools import KeyChange
from app.records import Listing, Listings

TEE = Listing(shop="a.myshopify.com", item=1, variant=2, location_id=3, generation=5)
CAP = Listing(shop="a.myshopify.com", item=4, variant=5, location_id=3)


def described(before: list[Listing], after: list[Listing]) -> str:
    return KeyChange(before=before, after=Listings(sku="A", location="main", listings=after)).describe()


def test_what_is_listed_and_what_is_taken_away_is_named() -> None:
    assert described([TEE], [CAP]) == "A@main +a.myshopify.com/4/3 -a.myshopify.com/1/3"


def test_a_key_that_only_gets_the_generation_is_left_to_have_what_it_lists() -> None:
    newer = Listing(shop=TEE.shop, item=1, variant=2, location_id=3, generation=9)
    assert described([TEE], [newer]) == "A@main is left to have what it lists"
