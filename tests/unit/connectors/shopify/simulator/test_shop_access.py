"""Tokens, scopes, versions and shops that are not open, over HTTP."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime

import pytest
from graphql import parse
from support.simulated import MAIN, TEE, Simulated, simulated

from connectors.shopify.simulator.access import expanded, refusals
from connectors.shopify.simulator.behaviour import SCOPES
from connectors.shopify.simulator.graphql import load_schema

NAME = "{ shop { name } }"
LOCATIONS = "{ locations(first: 5) { nodes { id name } } }"
APP = {
    "grant_type": "client_credentials",
    "client_id": "example-app",
    "client_secret": "example-app-secret",
}


@pytest.fixture
async def shop() -> AsyncIterator[Simulated]:
    async with simulated(subscribed="none") as running:
        yield running


async def test_a_granted_token_opens_the_shop_until_it_ends(shop: Simulated) -> None:
    granted = await shop.grant(**APP)
    assert granted.status == 200
    assert granted.body["expires_in"] == 86_399
    assert granted.body["scope"].split(",") == list(SCOPES)
    token = granted.body["access_token"]
    assert (await shop.post(NAME, token=token)).status == 200
    told = await shop.act("behave", shop=shop.shop.domain, expire_tokens=True)
    assert told["expired_tokens"] == 1
    refused = await shop.post(NAME, token=token)
    assert (refused.status, refused.body["errors"][:26]) == (401, "[API] Invalid API key or a")
    assert (await shop.post(NAME)).status == 200  # the token that stays


async def test_a_token_lives_as_long_as_it_says(shop: Simulated) -> None:
    await shop.act("behave", shop=shop.shop.domain, token_life_s=0.000001)
    granted = await shop.grant(**APP)
    assert granted.body["expires_in"] == 0.000001
    assert (await shop.post(NAME, token=granted.body["access_token"])).status == 401


@pytest.mark.parametrize(
    ("form", "status", "error"),
    [
        ({**APP, "client_secret": "wrong"}, 401, "invalid_client"),
        ({**APP, "client_id": "another"}, 401, "invalid_client"),
        ({**APP, "grant_type": "password"}, 400, "unsupported_grant_type"),
        ({}, 400, "unsupported_grant_type"),
    ],
)
async def test_a_wrong_app_gets_no_token(
    shop: Simulated, form: dict[str, str], status: int, error: str
) -> None:
    answer = await shop.grant(**form)
    assert (answer.status, answer.body["error"]) == (status, error)


@pytest.mark.parametrize("token", ["", "wrong"])
async def test_a_call_without_the_right_token_is_refused(shop: Simulated, token: str) -> None:
    assert (await shop.post(NAME, token=token)).status == 401


@pytest.mark.parametrize("status", [402, 403, 404, 423])
async def test_a_closed_shop_answers_with_its_status_and_opens_again(shop: Simulated, status: int) -> None:
    await shop.act("behave", shop=shop.shop.domain, door=status)
    assert (await shop.post(NAME)).status == status
    assert (await shop.grant(**APP)).status == status
    await shop.act("behave", shop=shop.shop.domain, door="open")
    assert (await shop.post(NAME)).status == 200


async def test_a_shop_that_is_closed_for_a_time_opens_by_itself(shop: Simulated) -> None:
    await shop.act("behave", shop=shop.shop.domain, door=402, door_s=0)
    assert (await shop.post(NAME)).status == 200


async def test_an_inactive_shop_says_so_inside_of_http_200(shop: Simulated) -> None:
    await shop.act("behave", shop=shop.shop.domain, door="inactive")
    answer = await shop.post(NAME)
    assert (answer.status, answer.body["errors"][0]["extensions"]["code"]) == (200, "SHOP_INACTIVE")


async def test_a_missing_scope_is_named_and_nothing_is_executed(shop: Simulated) -> None:
    scopes = [scope for scope in SCOPES if scope != "read_locations"]
    await shop.act("behave", shop=shop.shop.domain, scopes=scopes)
    answer = await shop.post(LOCATIONS)
    [error] = answer.body["errors"]
    assert error["message"] == "Access denied for name field. Required access: `read_locations` access scope."
    assert (error["extensions"]["code"], error["path"]) == ("ACCESS_DENIED", ["locations"])
    assert (answer.status, answer.body["data"]) == (200, None)
    told = await shop.ask(
        "{ locations(first: 5) { nodes { id } } currentAppInstallation { accessScopes { handle } } }"
    )
    assert [each["handle"] for each in told["currentAppInstallation"]["accessScopes"]] == scopes


@pytest.mark.parametrize(
    ("document", "scopes", "denied"),
    [
        ("{ inventoryItems(first: 1) { nodes { id } } }", ["read_products"], []),
        ("{ inventoryItems(first: 1) { nodes { duplicateSkuCount } } }", ["read_products"],
         ["duplicateSkuCount"]),
        ("{ orders(first: 1) { nodes { id } } }", ["write_orders"], []),
        ("{ orders(first: 1) { nodes { id } } }", ["read_inventory"], ["orders"]),
        (
            "query A { node(id: 1) { ...I } } fragment I on InventoryItem { variant { id } }",
            ["read_inventory"],
            ["variant"],
        ),
        ("mutation { inventoryDeactivate(inventoryLevelId: 1) { userErrors { message } } }",
         ["read_inventory"], ["inventoryDeactivate"]),
    ],
)  # fmt: skip
def test_scopes_are_needed_by_type_and_field(document: str, scopes: list[str], denied: list[str]) -> None:
    parsed = parse(document)
    found = refusals(load_schema(), parsed, parsed.definitions[0], scopes)  # type: ignore[arg-type]
    assert [error["message"].split()[3] for error in found] == denied


def test_writing_lets_read() -> None:
    assert expanded(["write_inventory"]) == {"write_inventory", "read_inventory"}


@pytest.mark.parametrize(
    ("asked", "status", "served"),
    [
        ("2026-10", 200, "2026-10"),
        ("2026-07", 200, "2026-07"),
        ("2025-01", 200, "2026-07"),  # gone: the oldest one answers
        ("unstable", 200, "unstable"),
        ("2027-01", 404, "2026-10"),
        ("latest", 404, "2026-10"),
    ],
)
async def test_the_answer_names_the_version_that_served_it(
    shop: Simulated, asked: str, status: int, served: str
) -> None:
    answer = await shop.post(NAME, version=asked)
    assert (answer.status, answer.headers["X-Shopify-API-Version"]) == (status, served)


async def test_another_version_and_another_clock_can_be_asked_for(shop: Simulated) -> None:
    await shop.act("behave", shop=shop.shop.domain, serves="2026-07", clock_skew_s=3600)
    answer = await shop.post(NAME)
    assert answer.headers["X-Shopify-API-Version"] == "2026-07"
    ahead_s = parsedate_to_datetime(answer.headers["Date"]).timestamp() - time.time()
    assert 3590 < ahead_s < 3610


async def test_a_plan_is_told_by_the_bucket(shop: Simulated) -> None:
    for rate in (100, 200, 1000, 2000):
        await shop.act("shops", domain=shop.shop.domain, bucket_capacity=20 * rate, restore_rate=rate)
        cost = (await shop.post(NAME)).body["extensions"]["cost"]
        assert cost["throttleStatus"]["restoreRate"] == rate
        assert cost["throttleStatus"]["maximumAvailable"] == 20 * rate
        assert (cost["requestedQueryCost"], cost["actualQueryCost"]) == (1, 1)


async def test_an_empty_bucket_throttles_and_a_query_over_1000_points_is_refused(shop: Simulated) -> None:
    dear = "{ orders(first: 250) { nodes { lineItems(first: 10) { nodes { id } } } } }"
    assert (await shop.post(dear)).body["errors"][0]["extensions"]["code"] == "MAX_COST_EXCEEDED"
    await shop.act("shops", domain=shop.shop.domain, bucket_capacity=5, restore_rate=1)
    answer = await shop.post("{ locations(first: 50) { nodes { id } } }")
    assert answer.body["errors"][0]["extensions"]["code"] == "THROTTLED"
    assert answer.body["extensions"]["cost"]["actualQueryCost"] is None


ACTIVATION = """
mutation Toggle($item: ID!, $updates: [InventoryBulkToggleActivationInput!]!) {
  inventoryBulkToggleActivation(inventoryItemId: $item, inventoryItemUpdates: $updates) {
    inventoryLevels { id isActive location { id } }
    userErrors { code field message }
  }
}"""
DEACTIVATE = (
    "mutation Off($id: ID!) { inventoryDeactivate(inventoryLevelId: $id) { userErrors { field message } } }"
)


async def level_of(shop: Simulated, location: int) -> dict[str, object]:
    levels = (await shop.see("stock"))["levels"]
    return next(level for level in levels if (level["item"], level["location"]) == (TEE, location))


async def test_a_level_goes_off_and_on_with_its_quantities_but_not_the_last_one(shop: Simulated) -> None:
    item, main, store = f"gid://shopify/InventoryItem/{TEE}", MAIN, 72
    level = await level_of(shop, store)
    assert (await shop.ask(DEACTIVATE, {"id": level["level"]}))["inventoryDeactivate"]["userErrors"] == []
    assert (await level_of(shop, store)) == {**level, "active": False}
    last = await level_of(shop, main)
    [error] = (await shop.ask(DEACTIVATE, {"id": last["level"]}))["inventoryDeactivate"]["userErrors"]
    assert "only location" in error["message"]
    updates = [{"locationId": f"gid://shopify/Location/{store}", "activate": True}]
    told = (await shop.ask(ACTIVATION, {"item": item, "updates": updates}))["inventoryBulkToggleActivation"]
    assert (told["userErrors"], told["inventoryLevels"][0]["isActive"]) == ([], True)
    assert (await level_of(shop, store)) == level
    off = [{"locationId": f"gid://shopify/Location/{place}", "activate": False} for place in (main, store)]
    told = (await shop.ask(ACTIVATION, {"item": item, "updates": off}))["inventoryBulkToggleActivation"]
    assert [error["code"] for error in told["userErrors"]] == ["CANNOT_DEACTIVATE_FROM_ONLY_LOCATION"]
    assert (await level_of(shop, store)) == level
