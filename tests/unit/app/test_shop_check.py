"""`shop check` against the simulator: with each thing broken in turn, the finding names the thing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest
from gql import gql
from graphql import parse
from support.shopify_schema import all_documents
from support.simulated import MAIN, Simulated, simulated

from app.shop_check import NEEDED_SCOPES, check_shop, findings
from app.shops import Shop
from connectors.shopify import documents
from connectors.shopify.client import ShopClient
from connectors.shopify.shop_facts import shop_facts
from connectors.shopify.simulator.access import refusals
from connectors.shopify.simulator.graphql import load_schema
from connectors.shopify.subscriptions import WANTED, Difference, differences, mend, subscriptions

URI = "http://127.0.0.1:9/webhooks/shopify"
ELSEWHERE = "http://127.0.0.1:9/elsewhere"
CHECKS = {"access", "scopes", "version", "clock", "budget", "locations", "webhooks"}
DELETE = gql("mutation Delete($id: ID!) { webhookSubscriptionDelete(id: $id) { userErrors { message } } }")
Break = Callable[[Simulated, ShopClient], Awaitable[Any]]


@pytest.fixture
async def shop() -> AsyncIterator[Simulated]:
    """A shop with which nothing is wrong."""
    async with simulated(webhook_url=URI) as running:
        client = ShopClient(running.shop)
        for one in differences(await subscriptions(client), URI):
            await mend(client, one, URI)
        await client.close()
        yield running


async def broken(shop: Shop, uri: str | None = URI) -> dict[str, str]:
    """What is told of each check that found something broken."""
    told, _ = await check_shop(shop, uri)
    return {one.check: one.told for one in told if not one.ok}


def behave(**fields: Any) -> Break:
    async def do(shop: Simulated, client: ShopClient) -> None:
        await shop.act("behave", shop=shop.shop.domain, **fields)

    return do


async def remove_subscription(shop: Simulated, client: ShopClient) -> None:
    first = next(one for one in await subscriptions(client) if one.topic == WANTED[0].name)
    await client.call(DELETE, {"id": first.id})


async def point_elsewhere(shop: Simulated, client: ShopClient) -> None:
    await mend(client, await _first(client), ELSEWHERE)


async def filter_webhooks(shop: Simulated, client: ShopClient) -> None:
    found = (await _first(client)).found
    assert found is not None
    await client.call(documents.CHANGE_SUBSCRIPTION, {"id": found.id, "wanted": {"filter": "id:5"}})


async def _first(client: ShopClient) -> Difference:
    first = next(one for one in await subscriptions(client) if one.topic == WANTED[0].name)
    return Difference(wanted=WANTED[0], found=first, what="")


async def deactivate(shop: Simulated, client: ShopClient) -> None:
    place = {"id": MAIN, "name": "Default", "active": False}
    await shop.act("shops", domain=shop.shop.domain, locations=[place])


@pytest.mark.parametrize(
    ("breaks", "check", "told"),
    [
        (behave(door=402), "access", "HTTP 402"),
        (behave(door=423), "access", "HTTP 423"),
        (behave(door="inactive"), "access", "SHOP_INACTIVE"),
        (behave(serves="2026-07"), "version", "asked for API version 2026-10, answered with 2026-07"),
        (behave(clock_skew_s=90), "clock", "s ahead of ours, the limit is 30 s"),
        (behave(clock_skew_s=-90), "clock", "s behind ours, the limit is 30 s"),
        (deactivate, "locations", "'Default' is not active; active are 72 'Store'"),
        (remove_subscription, "webhooks", "orders/create: no subscription"),
        (point_elsewhere, "webhooks", f"orders/create: goes to {ELSEWHERE} instead of {URI}"),
        (filter_webhooks, "webhooks", "orders/create: it has the filter 'id:5'"),
    ],
)  # fmt: skip
async def test_what_is_broken_is_named_and_nothing_else(
    shop: Simulated, breaks: Break, check: str, told: str
) -> None:
    client = ShopClient(shop.shop)
    await breaks(shop, client)
    await client.close()
    found = await broken(shop.shop)
    assert found.keys() == {check}
    assert told in found[check]


# `write_inventory` implies `read_inventory`, so that one cannot be missing by itself.
@pytest.mark.parametrize("scope", sorted(NEEDED_SCOPES.keys() - {"read_inventory"}))
async def test_a_scope_that_is_missing_is_named(shop: Simulated, scope: str) -> None:
    await shop.act("behave", shop=shop.shop.domain, scopes=[one for one in NEEDED_SCOPES if one != scope])
    found = await broken(shop.shop)
    assert found.pop("scopes").startswith(f"{scope} is not granted: ")
    assert found.keys() <= {"locations"}, "which cannot be read without their scope"


@pytest.mark.parametrize(
    ("changes", "check", "told"),
    [
        ({"access_token": "wrong"}, "access", "HTTP 401"),
        ({"access_token": "", "client_id": "x", "client_secret": "y"}, "access", "invalid_client"),
        ({"api_url": "http://127.0.0.1:9/sim.myshopify.com"}, "access", "Cannot connect"),
        ({"domain": "other.myshopify.com"}, "access", "the shop's own name is sim.myshopify.com"),
        ({"default_location_id": 99}, "locations", "default_location_id: location 99 does not exist"),
        ({"locations": {MAIN: "main", 98: "store"}}, "locations", "locations (store): location 98 does not"),
        ({"shadow_locations": frozenset({97})}, "locations", "shadow_locations: location 97 does not exist"),
    ],
)
async def test_what_is_wrong_in_the_shops_file_is_named(
    shop: Simulated, changes: dict[str, Any], check: str, told: str
) -> None:
    found = await broken(msgspec.structs.replace(shop.shop, **changes))
    assert found.keys() == {check}
    assert told in found[check]


async def test_a_sound_shop_has_a_finding_for_every_check_and_none_is_broken(shop: Simulated) -> None:
    told, _ = await check_shop(msgspec.structs.replace(shop.shop, locations={MAIN: "main"}), URI)
    assert {one.check for one in told} == CHECKS
    assert [one for one in told if not one.ok] == []
    assert await broken(shop.shop, uri=None) == {}


async def test_a_shop_that_does_not_say_its_budget_or_time_is_told_of(shop: Simulated) -> None:
    client = ShopClient(shop.shop)
    facts = await shop_facts(client)
    await client.close()
    silent = msgspec.structs.replace(facts, restore_rate=0.0, skew_s=None, served_version="")
    told = findings(shop.shop, silent, URI)
    assert [one.check for one in told if not one.ok] == ["budget"]
    assert any(one.check == "clock" and "not checked" in one.told for one in told)


@pytest.mark.parametrize("name", all_documents())
def test_the_needed_scopes_allow_every_document(name: str) -> None:
    document = parse(all_documents()[name])
    operation = document.definitions[0]
    assert refusals(load_schema(), document, operation, tuple(NEEDED_SCOPES)) == []  # type: ignore[arg-type]
