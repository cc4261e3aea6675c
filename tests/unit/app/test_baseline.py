"""The baseline of an opening: two reads of the levels, an instant of the shop's clock, open orders."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from support.simulated import CAP, MAIN, TEE, simulated

from app.catalog import divided, require_codes
from app.errors import Misconfigured
from app.opening import read_baseline, read_envelope
from app.records import Listing, Listings, Order, listing_key
from app.settings import Settings
from connectors.shopify.client import ShopUnavailable
from tables.catalog import Comparison, Finding, Row

QUIET_S = 3.0


async def test_a_baseline_is_two_reads_and_the_instant_between_them() -> None:
    async with simulated() as shop:
        order, shipped = await shop.sell((TEE, 2)), await shop.sell((CAP, 1))
        begin = datetime.now(UTC)

        async def quiet(seconds: float) -> None:
            assert seconds == QUIET_S
            await shop.act("fulfil", shop=shop.shop.domain, order=shipped["id"])

        base = await read_baseline([shop.shop], quiet_s=QUIET_S, sleep=quiet)
        end = datetime.now(UTC)
    domain = shop.shop.domain
    reading = base.readings[domain]
    tee, cap = (listing_key(domain, item, MAIN) for item in (TEE, CAP))
    assert (reading.quiet(tee), reading.quiet(cap)) == (True, False)
    assert (reading.after[tee].available, reading.after[tee].committed) == (8, 2)
    assert [told.id for told in base.orders[domain]] == [order["id"]]
    slack_s = 1.0  # the shop's clock is known to half a second
    assert -slack_s <= (base.as_of[domain] - begin).total_seconds() - QUIET_S / 2
    assert (base.as_of[domain] - end).total_seconds() - QUIET_S / 2 <= slack_s


async def test_the_count_is_as_of_the_shops_clock() -> None:
    async with simulated() as shop:
        await shop.act("behave", shop=shop.shop.domain, clock_skew_s=600)
        base = await read_baseline([shop.shop], quiet_s=0.0)
        ahead_s = (base.as_of[shop.shop.domain] - datetime.now(UTC)).total_seconds()
    assert ahead_s == pytest.approx(600, abs=3)


async def test_a_shop_that_does_not_let_us_in_is_named_alone() -> None:
    async with simulated() as shop:
        await shop.act("behave", shop=shop.shop.domain, door=402)
        with pytest.raises(ShopUnavailable, match="402"):
            await read_baseline([shop.shop])


def test_an_order_that_was_read_is_told_with_the_ids_of_its_state() -> None:
    at = datetime(2026, 11, 2, 9, 15, tzinfo=UTC)
    order = Order(id=7, created_at=at, updated_at=at)
    told = read_envelope("a.myshopify.com", order)
    assert (told.topic, told.order_id) == ("orders/read", 7)
    assert told.event_id == read_envelope("a.myshopify.com", order).event_id


def test_a_new_listing_of_an_open_key_is_held_back() -> None:
    listing = Listing(shop="a.myshopify.com", item=1, variant=2, location_id=3)
    other = Listing(shop="a.myshopify.com", item=4, variant=5, location_id=3)
    rows = [
        Row(finding=Finding.NEW, key="A@main", listing=listing),
        Row(finding=Finding.NEW, key="B@main", listing=other),
        Row(finding=Finding.VANISHED, key="A@store", listing=other),
    ]
    found = divided(
        Comparison(shop="a.myshopify.com", items=2, unchanged=0, rows=rows), [], {"A@main", "A@store"}, 1
    )
    assert [change.key for change in found.held] == ["A@main"]
    assert [(change.key, change.removed) for change in found.changes] == [
        ("A@store", True),
        ("B@main", False),
    ]
    known = [Listings(sku="X", location="main", listings=[listing])]
    moved = divided(Comparison(shop="a.myshopify.com", items=2, unchanged=0, rows=rows), known, {"A@main"}, 1)
    assert moved.held == []  # it is written already


async def test_a_shop_without_codes_is_named() -> None:
    async with simulated() as shop:
        with pytest.raises(Misconfigured, match=r"shops\.yaml: shop sim\.myshopify\.com: locations"):
            require_codes(Settings(), [shop.shop])
