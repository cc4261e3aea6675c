"""Faults over HTTP, and the log that says what really happened."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import pytest
from support.simulated import MAIN, TEE, Simulated, simulated

from connectors.shopify.simulator.admin import Behave
from connectors.shopify.simulator.faults import FaultKind, Faults, FaultSettings, Journey

ADJUST = """
mutation Adjust($key: String!, $input: InventoryAdjustQuantitiesInput!) {
  inventoryAdjustQuantities(input: $input) @idempotent(key: $key) { userErrors { code field message } }
}"""
ALL = dict.fromkeys(FaultKind, 0.1)


def adjustment(key: str, delta: int = -1) -> dict[str, Any]:
    change = {
        "inventoryItemId": f"gid://shopify/InventoryItem/{TEE}",
        "locationId": f"gid://shopify/Location/{MAIN}",
        "delta": delta,
        "changeFromQuantity": None,
    }
    return {"key": key, "input": {"name": "available", "reason": "correction", "changes": [change]}}


@pytest.fixture
async def shop() -> AsyncIterator[Simulated]:
    async with simulated(subscribed="none") as running:
        yield running


@pytest.mark.parametrize(
    ("fault", "status", "code", "applied"),
    [
        ("error_before", 500, None, 0),
        ("http_429", 429, None, 0),
        ("throttled", 200, "THROTTLED", 0),
        ("token_expired", 401, None, 0),
        ("shop_frozen", 402, None, 0),
        ("timeout_before", 500, None, 0),
        ("internal_before", 200, "INTERNAL_SERVER_ERROR", 0),
        ("error_after", 503, None, 1),
        ("timeout_after", 200, None, 1),
        ("internal_after", 200, "INTERNAL_SERVER_ERROR", 1),
    ],
)
async def test_a_fault_strikes_before_or_after_the_write_and_the_log_says_which(
    shop: Simulated, fault: str, status: int, code: str | None, applied: int
) -> None:
    await shop.act("faults", next={fault: 1}, timeout_s=0.3, frozen_s=0)
    answer = await shop.post(ADJUST, adjustment("k-1"))
    told = None
    if answer.status == 200 and "errors" in answer.body:
        told = answer.body["errors"][0]["extensions"]["code"]
    assert (answer.status, told) == (status, code)
    assert await shop.available(TEE) == 10 - applied
    [entry] = await shop.log("request")
    assert (entry["detail"], entry["key"], entry["fault"]) == ("inventoryAdjustQuantities", "k-1", fault)
    assert entry["result"] == ("ok" if applied else str(status))
    await shop.ask(ADJUST, adjustment("k-1"))
    assert await shop.available(TEE) == 9
    assert len(await shop.pushes()) == 1


async def test_a_cut_connection_hides_a_write(shop: Simulated) -> None:
    await shop.act("faults", next={"drop_connection": 1})
    with pytest.raises(aiohttp.ClientError):
        await shop.post(ADJUST, adjustment("k-1"))
    assert await shop.available(TEE) == 9


async def test_a_caller_that_has_gone_is_not_waited_for(shop: Simulated) -> None:
    await shop.act("faults", next={"timeout_after": 1}, timeout_s=60)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(shop.post(ADJUST, adjustment("k-1")), 0.5)
    async with asyncio.timeout(5):
        while not await shop.log("request"):  # noqa: ASYNC110  # seen over HTTP only
            await asyncio.sleep(0.02)
    assert await shop.available(TEE) == 9


async def test_the_log_has_every_call_with_its_result(shop: Simulated) -> None:
    await shop.post("{ shop { name } }")
    await shop.post("{ shop { colour } }")
    await shop.post("{ shop { name } }", token="wrong")
    await shop.post(ADJUST, adjustment("k-1"))
    await shop.post(ADJUST, adjustment("k-1", delta=-2))
    told = [(each.get("detail", ""), each["result"]) for each in await shop.log("request")]
    assert told == [
        ("shop", "ok"),
        ("", "undefinedField"),
        ("", "401"),
        ("inventoryAdjustQuantities", "ok"),
        ("inventoryAdjustQuantities", "IDEMPOTENCY_KEY_PARAMETER_MISMATCH"),
    ]
    keyed = await shop.see("log", key="k-1")
    assert [each["kind"] for each in keyed["entries"]] == ["pushed", "request", "request"]
    assert (await shop.see("log", shop="other.myshopify.com"))["entries"] == []


def draws(settings: FaultSettings, count: int = 200) -> list[tuple[FaultKind | None, Journey, float | None]]:
    faults = Faults(Random())
    faults.set(settings)
    return [(faults.strike("a"), faults.journey("a"), faults.bulk_fails_at("a")) for _ in range(count)]


def test_a_plan_with_a_seed_is_the_same_every_time() -> None:
    plan = FaultSettings(
        seed=11, probability=ALL, lose_probability=0.2, duplicate_probability=0.2, late_probability=0.2,
        late_s=3, reorder_ms=50, bulk_failure_probability=0.5,
    )  # fmt: skip
    assert draws(plan) == draws(plan)
    struck = {kind for kind, _, _ in draws(plan)}
    assert struck == {None, *FaultKind}
    assert {journey.copies for _, journey, _ in draws(plan)} == {0, 1, 2}
    assert draws(plan) != draws(FaultSettings(seed=12, probability=ALL))


def test_a_webhook_more_changes_nothing_for_requests() -> None:
    plan = FaultSettings(seed=11, probability=ALL, lose_probability=0.5)
    struck = []
    for webhooks in (0, 3):
        faults = Faults(Random())
        faults.set(plan)
        struck.append(
            [(faults.strike("a"), [faults.journey("a") for _ in range(webhooks)])[0] for _ in range(50)]
        )
    assert struck[0] == struck[1]


def test_the_documentation_names_every_fault_and_every_setting() -> None:
    told = (Path(__file__).parents[5] / "docs/simulator.md").read_text()
    settings = set(Behave.__struct_fields__) - {"shop"}
    assert [name for name in (*FaultKind, *settings) if f"`{name}`" not in told] == []


def test_faults_can_be_kept_to_some_shops() -> None:
    faults = Faults(Random(1))
    faults.set(
        FaultSettings(shops=frozenset({"a"}), probability={FaultKind.THROTTLED: 1}, lose_probability=1)
    )
    assert (faults.strike("a"), faults.strike("b")) == (FaultKind.THROTTLED, None)
    assert (faults.journey("a").copies, faults.journey("b").copies) == (0, 1)


async def test_what_befalls_webhooks_is_in_the_log() -> None:
    async with simulated() as shop:
        for settings, kind in (
            ({"lose_probability": 1}, "webhook_lost"),
            ({"duplicate_probability": 1}, "webhook_duplicated"),
            ({"late_probability": 1, "late_s": 0.01}, "webhook_late"),
        ):
            await shop.act("faults", **settings)
            await shop.act("edit", shop=shop.shop.domain, item=TEE, location=MAIN, delta=1)
            [entry] = await shop.log(kind)
            assert (entry["detail"], entry["item"], entry["location"]) == (
                "inventory_levels/update",
                TEE,
                MAIN,
            )
