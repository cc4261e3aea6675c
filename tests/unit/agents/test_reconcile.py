"""What the reconcile service remembers of differences, and which listings it looks at next."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.one_lane import Memory as Stored
from support.one_lane import OneLane

from agents.comparison import Comparison, Limits
from agents.reconcile import SAMPLE_LISTINGS, SUSPECTS, Memory, Watched
from app.errors import Rejected
from app.exactly_once import SourceRecord
from app.records import Drift, DriftClass, encode, headers
from benchmarks.planted import DOMAIN, plants, shop_at, state_of
from connectors.shopify.client import ShopClient
from tables.drift import belief_of

NOW = datetime(2026, 11, 2, 9, 15, 3, tzinfo=UTC)


def drift(**fields: Any) -> Drift:
    told = {"shop": DOMAIN, "item": 5001, "location_id": 71, "found_at": NOW, "since": NOW, "by": "sweep"}
    return Drift(**{**told, "kind": DriftClass.UNEXPLAINED, "units_off": 3, **fields})


class Remembering:
    """The service's memory on one lane."""

    def __init__(self) -> None:
        self.lane = OneLane(Stored())
        self.memory = Memory(self.lane)  # type: ignore[arg-type]  # one lane

    @property
    def known(self) -> list[Drift]:
        return list(self.memory.known(self.lane, DOMAIN).values())  # type: ignore[arg-type]  # one lane

    def tell(self, *found: Drift) -> None:
        self.lane.decide(lambda transaction: self.memory.tell(transaction, found))

    def take(self, found: Drift, key: str | None = None) -> None:
        source = SourceRecord(
            "shopify.drift", 0, 0, 0, (key or found.key).encode(), encode(found), headers(found, "")
        )
        self.lane.decide(lambda transaction: self.memory.take(transaction, source))


def test_what_is_found_is_kept_and_published_once() -> None:
    service = Remembering()
    service.tell(drift())
    service.tell(drift(found_at=NOW + timedelta(minutes=1)))
    assert service.known == [drift()]
    assert [topic for topic, _, _ in service.lane.out] == ["shopify.drift"]


def test_a_record_of_before_that_comes_round_changes_nothing() -> None:
    service = Remembering()
    later = drift(found_at=NOW + timedelta(minutes=1), hops=1)
    service.tell(drift(), later)
    service.take(drift())
    assert service.known == [later]


def test_a_hand_edit_that_the_writer_tells_is_known() -> None:
    service = Remembering()
    edit = drift(kind=DriftClass.MERCHANT_EDIT, by="writer")
    service.take(edit)
    assert service.known == [edit]


def test_a_difference_that_is_gone_is_forgotten_unless_it_was_corrected() -> None:
    service = Remembering()
    gone = {"kind": DriftClass.NONE, "units_off": 0}
    service.tell(drift(), drift(item=5002, hops=1))
    service.tell(drift(**gone), drift(item=5002, hops=1, **gone))
    assert service.known == [drift(item=5002, hops=1, **gone)]


def test_a_record_about_another_listing_is_refused() -> None:
    with pytest.raises(Rejected, match="the body is about"):
        Remembering().take(drift(), key=f"{DOMAIN}/1/1")


class Believed:
    """What is believed of planted listings."""

    shop = DOMAIN

    def __init__(self) -> None:
        states = ((plant.listing, state_of(plant)) for plant in plants(400, 2))
        self.listings = {listing: belief_of(state, 0) for listing, state in states if state is not None}

    async def catch_up(self) -> set[str]:
        return set()


def test_every_listing_has_its_turn_and_what_nothing_explains_does_not_crowd_out_the_rest() -> None:
    believed = Believed()
    shop = Watched(Comparison(ShopClient(shop_at(1)), believed, Limits()))
    suspects = list(believed.listings)[: 3 * SUSPECTS]
    known = {
        listing: drift(item=int(listing.split("/")[1]), location_id=int(listing.split("/")[2]))
        for listing in suspects
    }
    turns = [shop.next_sample(known) for _ in range(3)]
    assert {listing for turn in turns for listing in turn[:SUSPECTS]} == set(suspects)
    assert max(map(len, turns)) <= SAMPLE_LISTINGS
    seen = {listing for turn in turns for listing in turn}
    for _ in range(len(believed.listings) // (SAMPLE_LISTINGS - SUSPECTS)):
        seen.update(shop.next_sample(known))
    assert seen == set(believed.listings)
