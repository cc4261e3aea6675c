"""The same requests as in Shopify's captured answers get answers of the same shape, codes and words."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.captured_answers import ANSWERS, COSTS
from support.simulated import CAP, MAIN, TEE, Simulated, simulated

SET = """
mutation Contract($key: String!, $input: InventorySetQuantitiesInput!) {
  inventorySetQuantities(input: $input) @idempotent(key: $key) {
    inventoryAdjustmentGroup {
      id createdAt reason referenceDocumentUri
      changes { name delta quantityAfterChange item { id } location { id } }
    }
    userErrors { field message code }
  }
}"""
WITHOUT_KEY = SET.replace("$key: String!, ", "").replace(" @idempotent(key: $key)", "")
ACTIVATE = """
mutation Activate($key: String!, $item: ID!, $location: ID!) {
  inventoryActivate(inventoryItemId: $item, locationId: $location, available: 1) @idempotent(key: $key) {
    inventoryLevel { id }
    userErrors { field message }
  }
}"""
BULK = """
mutation Bulk($query: String!) {
  bulkOperationRunQuery(query: $query, groupObjects: false) {
    bulkOperation { id status }
    userErrors { field message code }
  }
}"""
ITEMS = "{ inventoryItems { edges { node { id sku } } } }"


def row(quantity: int, item: int = TEE, location: int = MAIN, **more: Any) -> dict[str, Any]:
    return {
        "inventoryItemId": f"gid://shopify/InventoryItem/{item}",
        "locationId": f"gid://shopify/Location/{location}",
        "quantity": quantity,
        "changeFromQuantity": None,
        **more,
    }


def write(*rows: dict[str, Any], key: str = "k-1", name: str = "available", **more: Any) -> dict[str, Any]:
    uri = "gid://acme-sync/StockChange/42"
    given = {"name": name, "reason": "correction", "referenceDocumentUri": uri, "quantities": list(rows)}
    return {"key": key, "input": {**given, **more}}


async def concurrent(shop: Simulated) -> Any:
    await shop.act("faults", latency_ms=100)
    calls = [shop.post(SET, write(row(15))), shop.post(SET, write(row(15)))]
    answers = [answer.body for answer in await asyncio.gather(*calls)]
    return next(each for each in answers if each["data"]["inventorySetQuantities"]["userErrors"])


async def mismatch(shop: Simulated) -> Any:
    await shop.ask(SET, write(row(15)))
    return (await shop.post(SET, write(row(16)))).body


async def activate(shop: Simulated) -> Any:
    ids = {"item": f"gid://shopify/InventoryItem/{TEE}", "location": f"gid://shopify/Location/{MAIN}"}
    return (await shop.post(ACTIVATE, {"key": "k-1", **ids})).body


async def busy(shop: Simulated) -> Any:
    await shop.act("behave", shop=shop.shop.domain, bulk_at_once=1, bulk_objects_s=0.1)
    await shop.ask(BULK, {"query": ITEMS})
    return (await shop.post(BULK, {"query": ITEMS})).body


async def throttled(shop: Simulated) -> Any:
    await shop.act("faults", next={"throttled": 1})
    return (await shop.post(SET, write(row(15)))).body


def set_of(variables: dict[str, Any], document: str = SET) -> Any:
    async def call(shop: Simulated) -> Any:
        return (await shop.post(document, variables)).body

    return call


def without(rows: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in rows.items() if key != name}


REQUESTS = {
    "set_ok": set_of(write(row(15))),
    "set_noop": set_of(write(row(10))),
    "set_missing_idempotent": set_of({"input": write(row(15))["input"]}, WITHOUT_KEY),
    "set_missing_change_from": set_of(write(without(row(15), "changeFromQuantity"))),
    "set_legacy_field": set_of(write(row(15), ignoreCompareQuantity=True)),
    "set_invalid_item": set_of(write(row(15, item=1))),
    "set_invalid_location": set_of(write(row(15, location=1))),
    "set_duplicate_pair": set_of(write(row(15), row(15))),
    "set_negative_on_hand": set_of(write(row(-1), name="on_hand")),
    "set_stale_SHAPE_UNVERIFIED": set_of(write(row(15, changeFromQuantity=3))),
    "set_idem_mismatch_SHAPE_UNVERIFIED": mismatch,
    "set_idem_concurrent_SHAPE_UNVERIFIED": concurrent,
    "activate_already_active": activate,
    "bulk_in_progress": busy,
    "throttled_http200": throttled,
}


@pytest.fixture
async def shop() -> AsyncIterator[Simulated]:
    async with simulated(subscribed="none") as running:
        yield running


def alike(value: Any, name: str = "") -> Any:
    """An answer without what differs from call to call: ids, times, places in the document, the bad value."""
    if isinstance(value, dict):
        return {key: alike(each, key) for key, each in sorted(value.items())}
    if isinstance(value, list):
        return [alike(each, name) for each in value]
    if name in ("line", "column", "createdAt") or isinstance(value, int | float):
        return value if name == "delta" else type(value).__name__
    return (
        re.sub(r"gid://shopify/(\w+)/\d+", r"gid://shopify/\1/…", value) if isinstance(value, str) else value
    )


def told(answer: dict[str, Any]) -> Any:
    """All of an answer but its cost and the value that an error repeats."""
    for error in answer.get("errors", ()):
        if "value" in error["extensions"]:
            error["extensions"]["value"] = {}
    return alike({name: value for name, value in answer.items() if name != "extensions"})


@pytest.mark.parametrize("name", REQUESTS)
async def test_the_same_request_gets_the_captured_answer(name: str, shop: Simulated) -> None:
    answer = await REQUESTS[name](shop)
    if name != "set_legacy_field":
        cost = answer["extensions"]["cost"]
        assert set(cost) == {"requestedQueryCost", "actualQueryCost", "throttleStatus"}
        assert set(cost["throttleStatus"]) == {"maximumAvailable", "currentlyAvailable", "restoreRate"}
    if name in COSTS:
        assert (cost["requestedQueryCost"], cost["actualQueryCost"]) == COSTS[name]
    assert told(answer) == told(json.loads(json.dumps(ANSWERS[name])))


def test_every_capture_is_replayed() -> None:
    assert REQUESTS.keys() == ANSWERS.keys()


def test_the_captures_are_as_they_were_made() -> None:
    beside = Path(__file__).parents[5].parent / "shared/shopify/fixtures"
    folder = Path(os.environ.get("SHOPIFY_FIXTURES", beside)) / "graphql"
    if not folder.exists():
        pytest.skip("the captured answers are not at hand (SHOPIFY_FIXTURES)")
    files = {file.stem: json.loads(file.read_text()) for file in folder.glob("*.json")}
    assert {name: told(body) for name, body in files.items()} == {
        name: told(json.loads(json.dumps(body))) for name, body in ANSWERS.items()
    }
    for name, (requested, charged) in COSTS.items():
        cost = files[name]["extensions"]["cost"]
        assert (cost["requestedQueryCost"], cost["actualQueryCost"]) == (requested, charged)


async def test_a_refused_call_leaves_its_key_used_up(shop: Simulated) -> None:
    await shop.post(SET, write(row(15), row(15)))
    answer = await shop.ask(SET, write(row(15), row(15)))
    [error] = answer["inventorySetQuantities"]["userErrors"]
    assert error["code"] == "IDEMPOTENCY_PREVIOUS_ATTEMPT_FAILED"
    assert await shop.available(TEE) == 10


async def test_one_bad_entry_and_nothing_is_applied(shop: Simulated) -> None:
    answer = await shop.ask(SET, write(row(15), row(9, item=CAP, changeFromQuantity=4)))
    [error] = answer["inventorySetQuantities"]["userErrors"]
    assert error["field"] == ["input", "quantities", "1", "changeFromQuantity"]
    assert (await shop.available(TEE), await shop.available(CAP)) == (10, 5)
