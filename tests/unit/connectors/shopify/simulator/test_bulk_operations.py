"""Bulk operations over HTTP: their rows, their limits, and how they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.simulated import CAP, MAIN, STORE, TEE, Simulated, simulated

RUN = """
mutation Run($query: String!, $grouped: Boolean!) {
  bulkOperationRunQuery(query: $query, groupObjects: $grouped) {
    bulkOperation { id status }
    userErrors { field message code }
  }
}"""
POLL = """
query Poll($id: ID!) {
  bulkOperation(id: $id) {
    id status errorCode objectCount rootObjectCount fileSize url partialDataUrl type createdAt completedAt
  }
}"""
CANCEL = """
mutation Cancel($id: ID!) {
  bulkOperationCancel(id: $id) { bulkOperation { status } userErrors { message } }
}"""
LEVELS = """
{ inventoryItems { edges { node { id sku name: sku ...Levels } } } }
fragment Levels on InventoryItem {
  inventoryLevels(includeInactive: true) { edges { node {
    id isActive location { id } quantities(names: ["available", "on_hand"]) { name quantity } } } }
}
"""


@pytest.fixture
async def shop() -> AsyncIterator[Simulated]:
    async with simulated(subscribed="none") as running:
        yield running


async def start(shop: Simulated, query: str = LEVELS, grouped: bool = False) -> str:
    answer = (await shop.ask(RUN, {"query": query, "grouped": grouped}))["bulkOperationRunQuery"]
    assert answer["userErrors"] == []
    return answer["bulkOperation"]["id"]


async def end(shop: Simulated, operation: str) -> Any:
    async with asyncio.timeout(5):
        while True:
            seen = (await shop.ask(POLL, {"id": operation}))["bulkOperation"]
            if seen["status"] not in ("CREATED", "RUNNING", "CANCELING"):
                return seen
            await asyncio.sleep(0.02)


def gid(kind: str, number: int) -> str:
    return f"gid://shopify/{kind}/{number}"


async def test_rows_are_objects_and_children_name_their_parent(shop: Simulated) -> None:
    done = await end(shop, await start(shop))
    assert (done["status"], done["errorCode"], done["type"]) == ("COMPLETED", None, "QUERY")
    assert (done["objectCount"], done["rootObjectCount"], done["partialDataUrl"]) == ("5", "2", None)
    rows = await shop.lines(done["url"])
    parents = [row for row in rows if "__parentId" not in row]
    assert parents == [
        {"id": gid("InventoryItem", TEE), "sku": "TEE", "name": "TEE"},
        {"id": gid("InventoryItem", CAP), "sku": "CAP", "name": "CAP"},
    ]
    levels = {
        (row["__parentId"], row["location"]["id"]): [each["quantity"] for each in row["quantities"]]
        for row in rows
        if "__parentId" in row
    }
    assert levels == {
        (gid("InventoryItem", TEE), gid("Location", MAIN)): [10, 10],
        (gid("InventoryItem", TEE), gid("Location", STORE)): [3, 3],
        (gid("InventoryItem", CAP), gid("Location", MAIN)): [5, 5],
    }
    assert int(done["fileSize"]) > 0


async def test_grouped_children_follow_their_parent(shop: Simulated) -> None:
    rows = await shop.lines((await end(shop, await start(shop, grouped=True)))["url"])
    assert ["__parentId" in row for row in rows] == [False, True, True, False, True]
    assert [row.get("sku") for row in rows if "sku" in row] == ["TEE", "CAP"]


async def test_objects_are_read_while_the_operation_runs(shop: Simulated) -> None:
    items = [{"sku": f"S{number}", "available": {MAIN: 1}} for number in range(300)]
    made = (await shop.act("items", shop=shop.shop.domain, items=items))["items"]
    await shop.act("behave", shop=shop.shop.domain, bulk_objects_s=500)
    operation = await start(shop)
    await shop.act("edit", shop=shop.shop.domain, item=made[-1]["item"], location=MAIN, available=7)
    rows = await shop.lines((await end(shop, operation))["url"])
    [last] = [row for row in rows if row.get("__parentId") == gid("InventoryItem", made[-1]["item"])]
    assert last["quantities"][0] == {"name": "available", "quantity": 7}
    assert len(rows) == 305 + 300


async def test_a_query_that_finds_nothing_has_no_url(shop: Simulated) -> None:
    done = await end(
        shop, await start(shop, '{ inventoryItems(query: "sku:NONE") { edges { node { id } } } }')
    )
    assert (done["status"], done["objectCount"], done["url"]) == ("COMPLETED", "0", None)


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("{ shop { name } }", "must contain at least one connection"),
        ("{ inventoryItems { edges { node { colour } } } }", "Cannot query field 'colour'"),
        ("{ inventoryItems {", "Syntax Error"),
        ("{ inventoryItems { nodes { id } } }", "selects edges { node"),
        (
            "{ inventoryItems { edges { node { sku inventoryLevels { edges { node { id } } } } } } }",
            "select id",
        ),
        ("{ bulkOperations { edges { node { id } } } }", "not simulated"),
        ("{ shop { name } inventoryItems { edges { node { id } } } }", "one field at the top"),
        ("mutation { bulkOperationCancel(id: 1) { userErrors { message } } }", "exactly one query"),
        (
            "{ orders { edges { node { id "
            "fulfillments { id fulfillmentLineItems { edges { node { id } } } } } } } }",
            "inside of a list field",
        ),
    ],
)
async def test_what_is_no_bulk_query_is_refused(shop: Simulated, query: str, why: str) -> None:
    answer = (await shop.ask(RUN, {"query": query, "grouped": False}))["bulkOperationRunQuery"]
    [error] = answer["userErrors"]
    assert answer["bulkOperation"] is None
    assert (error["code"], error["field"]) == ("INVALID", ["query"])
    assert why in error["message"]


async def test_a_sixth_operation_at_once_is_refused_with_the_ids_of_the_others(shop: Simulated) -> None:
    await shop.act("behave", shop=shop.shop.domain, bulk_objects_s=1)
    running = [await start(shop) for _ in range(5)]
    answer = (await shop.ask(RUN, {"query": LEVELS, "grouped": False}))["bulkOperationRunQuery"]
    [error] = answer["userErrors"]
    assert error["code"] == "OPERATION_IN_PROGRESS"
    assert error["message"].endswith(f"already in progress: {', '.join(running)}.")


async def test_a_cancelled_operation_gives_what_it_had(shop: Simulated) -> None:
    await shop.act("behave", shop=shop.shop.domain, bulk_objects_s=20)
    operation = await start(shop)
    answer = await shop.ask(CANCEL, {"id": operation})
    assert answer["bulkOperationCancel"] == {"bulkOperation": {"status": "CANCELING"}, "userErrors": []}
    done = await end(shop, operation)
    assert (done["status"], done["url"], done["objectCount"]) == ("CANCELED", None, "0")
    again = (await shop.ask(CANCEL, {"id": operation}))["bulkOperationCancel"]
    assert again["userErrors"][0]["message"].endswith("when it is canceled")


async def test_a_failed_operation_gives_a_part_of_its_rows(shop: Simulated) -> None:
    items = [{"sku": f"S{number}"} for number in range(600)]
    await shop.act("items", shop=shop.shop.domain, items=items)
    await shop.act("faults", seed=3, bulk_failure_probability=1)
    done = await end(shop, await start(shop))
    assert (done["status"], done["errorCode"], done["url"]) == ("FAILED", "INTERNAL_SERVER_ERROR", None)
    rows = await shop.lines(done["partialDataUrl"])
    assert 0 < len(rows) == int(done["objectCount"]) < 602


async def test_a_missing_scope_fails_the_operation(shop: Simulated) -> None:
    await shop.act("behave", shop=shop.shop.domain, scopes=["read_products"])
    done = await end(shop, await start(shop))
    assert (done["status"], done["errorCode"]) == ("FAILED", "ACCESS_DENIED")


async def test_operations_are_listed_and_filtered(shop: Simulated) -> None:
    operation = await start(shop)
    await end(shop, operation)
    document = """query Listed($query: String) {
      bulkOperations(first: 5, query: $query) { nodes { id } }
      currentBulkOperation { id }
    }"""
    found = await shop.ask(document, {"query": "status:completed operation_type:query"})
    assert found["bulkOperations"]["nodes"] == [{"id": operation}]
    assert found["currentBulkOperation"] == {"id": operation}
    found = await shop.ask(document, {"query": "status:running"})
    assert found["bulkOperations"]["nodes"] == []
