"""What we rely on at Shopify, asked of the simulator and, by `make live-test`, of a development store.

Where the documentation is silent the answer is noted for the report, and what must hold either way is tested.
"""

from __future__ import annotations

import json
from uuid import uuid4

import pytest
from support.contract import LEVEL, SET, Store, at_once

from connectors.shopify import documents
from connectors.shopify.client import ShopClient

NOWHERE = 1
"""An inventory item id that no shop has."""
WHOLE_CALL = 250
BACKLOG = 12


async def test_the_version_that_was_asked_for_answers(store: Store) -> None:
    answer = await store.ask(LEVEL, item=f"gid://shopify/InventoryItem/{store.items[0]}", location="gid://x")
    served = {name.lower(): value for name, value in answer.headers.items()}["x-shopify-api-version"]
    assert served == documents.API_VERSION


async def test_a_delta_moves_available_and_on_hand(store: Store) -> None:
    first = store.items[0]
    before = await store.level(first)
    assert (await store.adjust((first, 3))).payload("inventoryAdjustQuantities")["userErrors"] == []
    after = await store.level(first)
    assert {name: after[name] - before[name] for name in before} == {
        "available": 3, "on_hand": 3, "committed": 0,
    }  # fmt: skip


async def test_our_client_writes_once_under_its_key_and_reads_available_plus_committed(store: Store) -> None:
    client: ShopClient = store.client
    first = store.items[0]
    before = await client.levels(store.location, [first, NOWHERE])
    assert before[NOWHERE] is None
    was = before[first]
    assert was is not None
    body = _body(store, first, 2)
    assert await client.write("adjust", body) == []
    assert await client.write("adjust", body) == []
    now = (await client.levels(store.location, [first]))[first]
    level = await store.level(first)
    assert now is not None
    assert now.units == was.units + 2 == level["available"] + level["committed"]


async def test_a_key_that_succeeded_is_answered_again_and_changes_nothing(store: Store) -> None:
    first, key = store.items[0], str(uuid4())
    before = await store.available()
    answers = [await store.adjust((first, 1), key=key) for _ in range(2)]
    first_told, again = (one.payload("inventoryAdjustQuantities") for one in answers)
    assert again["userErrors"] == []
    assert (await store.available())[0] == before[0] + 1
    same = first_told["inventoryAdjustmentGroup"] == again["inventoryAdjustmentGroup"]
    store.note("8", f"a replay's adjustment group is {'the same' if same else 'another'}: {again}")


async def test_a_key_with_another_body_is_refused(store: Store) -> None:
    first, key = store.items[0], str(uuid4())
    await store.adjust((first, 1), key=key)
    before = await store.available()
    [error] = (await store.adjust((first, 2), key=key)).payload("inventoryAdjustQuantities")["userErrors"]
    assert error["code"] == "IDEMPOTENCY_KEY_PARAMETER_MISMATCH"
    assert await store.available() == before


async def test_one_stale_entry_refuses_the_whole_call(store: Store) -> None:
    (first, second), (one, two) = store.items, await store.available()
    answer = await store.set((first, one + 1, one), (second, two + 1, two + 7))
    errors = answer.payload("inventorySetQuantities")["userErrors"]
    store.note("1", f"a stale entry: {json.dumps(errors)}; shown {await store.available()}, was {[one, two]}")
    assert errors[0]["code"] == "CHANGE_FROM_QUANTITY_STALE"
    assert await store.available() == [one, two]


async def test_an_entry_that_is_not_stale_is_applied(store: Store) -> None:
    first, (one, two) = store.items[0], await store.available()
    assert (await store.set((first, one + 4, one))).payload("inventorySetQuantities")["userErrors"] == []
    assert await store.available() == [one + 4, two]


async def test_setting_what_is_there_is_a_success_without_a_group(store: Store) -> None:
    first, (one, _) = store.items[0], await store.available()
    assert (await store.set((first, one, None))).payload("inventorySetQuantities") == {
        "inventoryAdjustmentGroup": None,
        "userErrors": [],
    }


async def test_on_hand_below_zero_is_refused(store: Store) -> None:
    before = await store.available()
    answer = await store.set((store.items[0], -1, None), name="on_hand")
    [error] = answer.payload("inventorySetQuantities")["userErrors"]
    assert error["code"] == "INVALID_QUANTITY_NEGATIVE"
    assert await store.available() == before


async def test_an_unknown_item_refuses_the_call_and_is_named_by_its_index(store: Store) -> None:
    before = await store.available()
    answer = await store.set((store.items[0], 1, None), (NOWHERE, 1, None))
    [error] = answer.payload("inventorySetQuantities")["userErrors"]
    assert error["code"] == "INVALID_INVENTORY_ITEM"
    assert error["field"][:3] == ["input", "quantities", "1"]
    assert await store.available() == before


async def test_the_same_listing_twice_in_a_call_is_refused(store: Store) -> None:
    before = await store.available()
    answer = await store.set((store.items[0], 1, None), (store.items[0], 2, None))
    errors = answer.payload("inventorySetQuantities")["userErrors"]
    assert {error["code"] for error in errors} == {"NO_DUPLICATE_INVENTORY_ITEM_ID_GROUP_ID_PAIR"}
    assert await store.available() == before


@pytest.mark.parametrize(
    ("document", "code"),
    [
        (SET.replace("@idempotent(key: $key)", "").replace("$key: String!, ", ""), "BAD_REQUEST"),
        (SET, "INVALID_FIELD_ARGUMENTS"),
    ],
    ids=["no key", "no changeFromQuantity"],
)
async def test_what_is_mandatory_at_run_time(store: Store, document: str, code: str) -> None:
    before = await store.available()
    row = {
        "inventoryItemId": f"gid://shopify/InventoryItem/{store.items[0]}",
        "locationId": f"gid://shopify/Location/{store.location}",
        "quantity": before[0] + 5,
        **({} if code == "INVALID_FIELD_ARGUMENTS" else {"changeFromQuantity": None}),
    }
    given = {"name": "available", "reason": "correction", "quantities": [row]}
    answer = await store.ask(document, key=str(uuid4()), input=given)
    assert (answer.status, answer.error_codes) == (200, [code])
    assert await store.available() == before


async def test_the_cost_of_a_call_is_told(store: Store) -> None:
    costs = {}
    for entries in (1, WHOLE_CALL):  # of items that nobody has: nothing moves
        answer = await store.set(*((NOWHERE + number, 1, None) for number in range(entries)))
        costs[entries] = answer.body["extensions"]["cost"]["requestedQueryCost"]
    store.note("2", f"points asked for by the entries of a set: {costs}")
    assert 0 < costs[1] <= costs[WHOLE_CALL] <= 1000


async def test_a_throttled_call_says_so_and_moves_nothing(store: Store) -> None:
    """Many large reads at once ask for more than the bucket has."""
    document = "{ inventoryItems(first: 100) { nodes { id inventoryLevels(first: 2) { nodes { id } } } } }"
    await store.make_scarce()
    answers = await at_once(store, BACKLOG, document)
    throttled = [one for one in answers if one.status == 429 or "THROTTLED" in one.error_codes]
    statuses = sorted({one.status for one in throttled})
    costs = [one.body["extensions"]["cost"] for one in answers if one not in throttled]
    store.note("3", f"{len(throttled)} of {BACKLOG} calls were throttled, with HTTP status {statuses}")
    assert all(one.status in (200, 429) for one in answers)
    assert all(one.status == 429 or one.body.get("data") is None for one in throttled)
    bucket = costs[0]["throttleStatus"]["maximumAvailable"]
    assert throttled or BACKLOG * costs[0]["requestedQueryCost"] < 2 * bucket, "a larger plan has more"


@pytest.mark.parametrize("length", [36, 255, 256, 1024])
async def test_a_key_of_any_length_is_kept_or_refused(store: Store, length: int) -> None:
    key, before = (str(uuid4()) * 30)[:length], await store.available()
    answers = [await store.adjust((store.items[0], 1), key=key) for _ in range(2)]
    taken = (
        "errors" not in answers[0].body
        and not answers[0].body["data"]["inventoryAdjustQuantities"]["userErrors"]
    )
    store.note(f"5 (key of {length})", "taken" if taken else f"refused: {answers[0].body}")
    assert (await store.available())[0] == before[0] + taken
    assert taken or length > 36


async def test_the_scope_of_a_key_over_mutations(store: Store) -> None:
    first, key = store.items[0], str(uuid4())
    await store.adjust((first, 1), key=key)
    before = await store.available()
    errors = (await store.set((first, before[0] + 1, None), key=key)).payload("inventorySetQuantities")[
        "userErrors"
    ]
    store.note("5 (scope)", f"the same key for another mutation: {errors or 'executed'}")
    assert (await store.available())[0] == before[0] + (not errors)


async def test_an_item_that_is_not_tracked(store: Store) -> None:
    if store.untracked is None:
        pytest.skip("LIVE_TEST_UNTRACKED_ITEM is not set")
    before = await store.level(store.untracked)
    errors = (await store.adjust((store.untracked, 1))).payload("inventoryAdjustQuantities")["userErrors"]
    store.note("10", f"a write to an untracked item: {errors or 'taken'}")
    assert (await store.level(store.untracked))["available"] == before["available"] + (not errors)


def _body(store: Store, item: int, delta: int) -> bytes:
    row = {
        "inventoryItemId": f"gid://shopify/InventoryItem/{item}",
        "locationId": f"gid://shopify/Location/{store.location}",
        "delta": delta,
        "changeFromQuantity": None,
    }
    given = {"name": "available", "reason": "correction", "changes": [row]}
    return json.dumps({"key": str(uuid4()), "input": given}).encode()
