"""Webhook subscriptions against the simulator: what is wrong is found and mended, and stays mended."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest
from support.simulated import Simulated, simulated

from app.records import Order, Refund
from connectors.shopify.client import ShopClient
from connectors.shopify.simulator.access import expanded
from connectors.shopify.simulator.behaviour import SCOPES
from connectors.shopify.simulator.graphql import load_schema
from connectors.shopify.subscriptions import (
    WANTED,
    Difference,
    NotSubscribed,
    Subscription,
    differences,
    mend,
    paths,
    subscriptions,
    uri_of,
)

OLD, NEW = "http://127.0.0.1:9/none", "http://127.0.0.1:9/webhooks/shopify"
RIGHT = [
    Subscription(id=f"{number}", topic=one.name, uri=NEW, include_fields=frozenset(one.fields))
    for number, one in enumerate(WANTED)
]


@pytest.fixture
async def shop() -> AsyncIterator[Simulated]:
    async with simulated(webhook_url=OLD) as running:
        yield running


@pytest.fixture
async def client(shop: Simulated) -> AsyncIterator[ShopClient]:
    made = ShopClient(shop.shop)
    yield made
    await made.close()


def test_every_topic_is_one_of_shopifys_and_is_wanted_once() -> None:
    names = [one.name for one in WANTED]
    assert len(names) == len(set(names))
    topics = load_schema().type_map["WebhookSubscriptionTopic"]
    assert set(names) <= set(topics.values)  # type: ignore[attr-defined]  # it is an enum


def test_the_scopes_of_an_app_like_ours_allow_every_topic() -> None:
    granted = expanded(SCOPES)
    assert [one.topic for one in WANTED if one.scopes and granted.isdisjoint(one.scopes)] == []


def test_bodies_of_orders_have_what_our_records_declare_and_the_time_of_the_change() -> None:
    fields = paths(Order)
    assert {"id", "updated_at", "cancelled_at", "line_items.id", "line_items.sku"} <= set(fields)
    assert {"fulfillments.location_id", "fulfillments.line_items", "refunds.refund_line_items"} <= set(fields)
    assert max(field.count(".") for field in fields) == 1, "deeper paths are not documented"
    assert not {"customer", "email", "shipping_address", "line_items", "note"} & set(fields)
    assert "refund_line_items.line_item_id" in paths(Refund)
    for one in WANTED:
        if one.topic in ("orders/create", "orders/updated", "orders/cancelled"):
            assert set(one.fields) == {path for path in fields if not path.startswith("dispositions.")}


def changed(**fields: object) -> list[Subscription]:
    return [msgspec.structs.replace(RIGHT[0], **fields), *RIGHT[1:]]


@pytest.mark.parametrize(
    ("found", "uri", "what"),
    [
        (RIGHT, NEW, ""),
        (RIGHT, None, ""),
        (RIGHT[1:], NEW, "no subscription"),
        (changed(uri=OLD), None, ""),
        (changed(uri=OLD), NEW, f"goes to {OLD} instead of {NEW}"),
        ([*changed(uri=OLD), RIGHT[0]], NEW, ""),
        (changed(format="XML"), NEW, "its format is XML"),
        (changed(filter="id:5"), NEW, "it has the filter 'id:5'"),
        (changed(include_fields=frozenset()), NEW, "its bodies have more"),
        (changed(include_fields=frozenset({"id"})), NEW, "its bodies lack cancelled_at, created_at, fulf"),
        (changed(include_fields=frozenset({*WANTED[0].fields, "email"})), NEW, "its bodies have more"),
    ],
)
def test_what_is_wrong_about_a_topic_is_told(found: list[Subscription], uri: str | None, what: str) -> None:
    told = differences(found, uri)
    assert [one.wanted.topic for one in told] == ([WANTED[0].topic] if what else [])
    assert all(one.what.startswith(what) for one in told)


async def test_all_is_mended_at_once_and_then_nothing_is_left(shop: Simulated, client: ShopClient) -> None:
    before = await subscriptions(client)
    found = differences(before, NEW)
    assert {one.wanted.topic for one in found} == {one.topic for one in WANTED}
    for one in found:
        await mend(client, one, NEW)
    after = await subscriptions(client)
    assert differences(after, NEW) == []
    assert len(after) == len(before)


async def test_one_that_is_there_already_is_a_success(client: ShopClient) -> None:
    missing = Difference(wanted=WANTED[0], found=None, what="no subscription")
    await mend(client, missing, NEW)
    await mend(client, missing, NEW)
    assert sum(one.uri == NEW for one in await subscriptions(client)) == 1


async def test_the_shops_words_are_told_when_it_refuses(client: ShopClient) -> None:
    missing = Difference(wanted=WANTED[0], found=None, what="no subscription")
    with pytest.raises(NotSubscribed, match=r"orders/create: Address protocol http:// is not supported"):
        await mend(client, missing, uri_of("http://hooks.example.com/"))
