"""The client against the simulator over real HTTP: what it sends, what it reads, what failures mean."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from gql.transport.exceptions import TransportError
from graphql import ExecutionResult
from support.altered import altered
from support.simulated import CAP, MAIN, STORE, TEE, Simulated, simulated

from app.errors import OutcomeUnknown, Retry
from app.records import Order
from connectors.shopify import client, documents
from connectors.shopify.client import (
    CallRefused,
    Misshapen,
    ShopClient,
    ShopUnavailable,
    Throttled,
    UserFault,
    _graphql_fault,
    _Status,
    _transport_fault,
)

pytestmark = pytest.mark.asyncio


async def write(caller: ShopClient, body: bytes) -> list[UserFault]:
    return await caller.write("adjust", body)


async def units(caller: ShopClient, location: int, items: list[int]) -> dict[int, int | None]:
    return {item: read and read.units for item, read in (await caller.levels(location, items)).items()}


@pytest.fixture
async def shop() -> AsyncIterator[Simulated]:
    async with simulated() as running:
        yield running


@pytest.fixture
async def caller(shop: Simulated) -> AsyncIterator[ShopClient]:
    made = ShopClient(shop.shop, limit_s=5.0)
    yield made
    await made.close()


def adjustment(key: str, *changes: tuple[int, int], **more: Any) -> bytes:
    rows = [
        {
            "inventoryItemId": f"gid://shopify/InventoryItem/{item}",
            "locationId": f"gid://shopify/Location/{MAIN}",
            "delta": delta,
            "changeFromQuantity": None,
        }
        for item, delta in changes
    ]
    body = {"key": key, "input": {"name": "available", "reason": "correction", "changes": rows, **more}}
    return json.dumps(body).encode()


async def test_an_adjustment_is_applied_once_under_its_key(shop: Simulated, caller: ShopClient) -> None:
    body = adjustment("k-1", (TEE, -4), (CAP, 2))
    assert await write(caller, body) == []
    assert await write(caller, body) == []
    assert (await shop.available(TEE), await shop.available(CAP)) == (6, 7)
    assert len(await shop.pushes()) == 2


@pytest.mark.parametrize(
    ("fault", "error", "executed"),
    [
        ("error_before", OutcomeUnknown, False),
        ("error_after", OutcomeUnknown, True),
        ("drop_connection", OutcomeUnknown, True),
        ("http_429", Throttled, False),
        ("throttled", Throttled, False),
    ],
)
async def test_failures_and_then_the_same_bytes_again(
    shop: Simulated, caller: ShopClient, fault: str, error: type[Exception], executed: bool
) -> None:
    await shop.act("faults", next={fault: 1})
    body = adjustment("k-2", (TEE, -1))
    with pytest.raises(error):
        await write(caller, body)
    assert await shop.available(TEE) == (9 if executed else 10)
    assert await write(caller, body) == []
    assert await shop.available(TEE) == 9


async def test_a_read_waits_while_it_is_throttled_and_then_gives_up(shop: Simulated) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    patient = ShopClient(shop.shop, sleep=sleep)
    await shop.act("faults", next={"throttled": 3})
    places = [node["name"] async for node in patient.nodes(documents.LOCATIONS, "locations")]
    assert places == ["Default", "Store"]
    assert sum(wait >= 1 for wait in waits) >= 3
    await shop.act("faults", next={"throttled": 100})
    with pytest.raises(Throttled):
        await patient.read(documents.ACCESS, {})
    await patient.close()


async def test_user_errors_name_the_entry(shop: Simulated, caller: ShopClient) -> None:
    [fault] = await write(caller, adjustment("k-3", (TEE, -1), (999, -1)))
    assert (fault.code, fault.index) == ("INVALID_INVENTORY_ITEM", 1)
    assert await shop.available(TEE) == 10


async def test_a_call_that_is_wrong_as_a_whole_is_refused(caller: ShopClient) -> None:
    with pytest.raises(CallRefused, match="changeFromQuantity"):
        await write(caller, adjustment("k-4", (TEE, -1)).replace(b', "changeFromQuantity": null', b""))


@pytest.mark.parametrize(
    ("data", "code"), [({"inventoryAdjustQuantities": {"userErrors": []}}, "BAD_REQUEST"), (None, None)]
)
async def test_an_error_beside_a_payload_or_without_a_code_may_hide_a_write(
    data: dict[str, Any] | None, code: str | None
) -> None:
    error = {"message": "oh", **({"extensions": {"code": code}} if code else {})}
    fault = _graphql_fault("a.b", ExecutionResult(data=data, errors=[error]), None)  # type: ignore[list-item]
    assert isinstance(fault, OutcomeUnknown)
    refused = ExecutionResult(
        data={"inventoryAdjustQuantities": None},
        errors=[{"message": "oh", "extensions": {"code": "BAD_REQUEST"}}],  # type: ignore[list-item]
    )
    assert isinstance(_graphql_fault("a.b", refused, None), CallRefused)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, CallRefused),
        (403, ShopUnavailable),
        (408, OutcomeUnknown),
        (499, OutcomeUnknown),
        (502, OutcomeUnknown),
    ],
)
async def test_what_an_http_status_says_about_a_write(status: int, kind: type[Exception]) -> None:
    error = TransportError("no")
    error.__cause__ = _Status(status, "", "")
    assert isinstance(_transport_fault("a.b", error), kind)


async def test_a_wrong_token_and_a_wrong_domain_make_the_shop_unavailable(shop: Simulated) -> None:
    broken = ({"access_token": "wrong"}, 401), ({"api_url": shop.shop.api_url + "x"}, 404)
    for changed, status in broken:
        other = ShopClient(msgspec.structs.replace(shop.shop, **changed))
        with pytest.raises(ShopUnavailable) as told:
            await other.levels(MAIN, [TEE])
        assert told.value.status == status
        await other.close()


async def test_nobody_listening_leaves_the_outcome_unknown(shop: Simulated) -> None:
    other = ShopClient(msgspec.structs.replace(shop.shop, api_url="http://127.0.0.1:9"))
    with pytest.raises(OutcomeUnknown):
        await write(other, adjustment("k-5", (TEE, -1)))
    await other.close()


async def test_levels_are_available_plus_committed(
    shop: Simulated, caller: ShopClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "LEVELS_A_READ", 2)
    await shop.sell((TEE, 3))
    assert await units(caller, MAIN, [TEE, CAP, 999]) == {TEE: 10, CAP: 5, 999: None}
    assert await units(caller, STORE, [TEE, CAP]) == {TEE: 3, CAP: 0}
    [cap] = (await caller.levels(STORE, [CAP])).values()
    assert cap is not None
    assert not cap.active


async def test_an_order_is_read_in_the_shape_of_its_webhook(
    shop: Simulated, caller: ShopClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ORDER_PAGE", 1)
    sold = await shop.sell((TEE, 2), (CAP, 1))
    tee_line, cap_line = (line["id"] for line in sold["line_items"])
    act = {"shop": shop.shop.domain, "order": sold["id"]}
    await shop.act("fulfil", **act, lines={tee_line: 1}, location=STORE)
    told = await shop.act("refund", **act, lines={cap_line: 1}, restock_type="cancel", location=MAIN)
    read = await caller.order(sold["id"])
    assert read is not None
    webhook = msgspec.convert(told["order"], Order)
    for name in ("id", "cancelled_at", "location_id", "updated_at", "created_at"):
        assert getattr(read, name) == getattr(webhook, name), name
    assert [(one.id, one.quantity, one.fulfillable_quantity) for one in read.line_items] == [
        (one.id, one.quantity, one.fulfillable_quantity) for one in webhook.line_items
    ]
    assert [(one.id, one.location_id, one.line_items) for one in read.fulfillments] == [
        (one.id, one.location_id, one.line_items) for one in webhook.fulfillments
    ]
    assert [one.refund_line_items for one in read.refunds] == [
        one.refund_line_items for one in webhook.refunds
    ]
    assert await caller.order(1) is None


async def test_where_orders_are_to_leave_from_is_read_page_by_page(
    shop: Simulated, caller: ShopClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ORDER_PAGE", "ROUTED_A_READ", "FULFILLMENT_ORDERS_A_READ", "FULFILLMENT_LINES_A_READ"):
        monkeypatch.setattr(client, name, 1)
    lines = [
        {"item": TEE, "quantity": 3, "places": {MAIN: 1, STORE: 2}},
        {"item": CAP, "quantity": 1, "places": {MAIN: 1}},
    ]
    first = (await shop.act("sell", shop=shop.shop.domain, lines=lines))["order"]
    other = await shop.sell((TEE, 1))
    await shop.act("cancel", shop=shop.shop.domain, order=other["id"], restock=False)
    found = await caller.routing([first["id"], other["id"], 1])
    tee, cap = (str(line["id"]) for line in first["line_items"])
    [gone] = (str(line["id"]) for line in other["line_items"])
    routing, cancelled = found[first["id"]], found[other["id"]]
    assert routing is not None
    assert (routing.open, routing.cancelled) == ({tee: {MAIN: 1, STORE: 2}, cap: {MAIN: 1}}, {})
    assert cancelled is not None
    assert (cancelled.open, cancelled.cancelled) == ({}, {gone: {MAIN: 1}})
    assert found[1] is None


async def test_what_became_of_a_return_is_read_with_its_order(shop: Simulated, caller: ShopClient) -> None:
    sold = await shop.sell((TEE, 2))
    about = {"shop": shop.shop.domain, "order": sold["id"]}
    [line] = sold["line_items"]
    await shop.act("fulfil", **about)
    given = await shop.act("return", **about, lines={line["id"]: 2})
    decide = {**about, "return_id": given["return"]}
    await shop.act("return/decide", **decide, act="process", location=STORE)
    await shop.act("return/decide", **decide, act="refund", restock_type="return")
    read = await caller.order(sold["id"])
    assert read is not None
    [one] = read.dispositions
    assert (one.return_id, one.line_item_id, one.quantity) == (given["return"], line["id"], 2)
    assert (one.restocked, one.location_id) == (True, STORE)
    assert [refund.return_id for refund in read.refunds] == [given["return"]]
    for kind in ("Return", "Order"):
        found = await caller.order_of(f"gid://shopify/{kind}/{given['return']}")
        assert found == (sold["id"] if kind == "Return" else None)


async def refunded(shop: Simulated) -> Any:
    """An order with two lines and a refund of both."""
    sold = await shop.sell((TEE, 2), (CAP, 1))
    lines = {line["id"]: 1 for line in sold["line_items"]}
    act = {"shop": shop.shop.domain, "order": sold["id"]}
    return (await shop.act("refund", **act, lines=lines, restock_type="cancel", location=MAIN))["order"]


async def test_a_refund_without_instant_has_that_of_its_last_change_and_its_lines_may_have_no_ids(
    shop: Simulated,
) -> None:
    told = await refunded(shop)

    async def nulls(data: dict[str, Any]) -> None:
        for refund in (data.get("order") or {}).get("refunds", []):
            refund["createdAt"] = None
            refund["updatedAt"] = "2026-11-02T12:00:00Z"
        for line in ((data.get("node") or {}).get("lines") or {}).get("nodes", []):
            if "restockType" in line:
                line["id"] = None

    async with altered(shop.shop, nulls) as other:
        caller = ShopClient(other)
        first, second = await caller.order(told["id"]), await caller.order(told["id"])
        await caller.close()
    assert first is not None
    assert first == second
    [refund] = first.refunds
    assert refund.created_at.isoformat() == "2026-11-02T12:00:00+00:00"
    assert [line.id for line in refund.refund_line_items] == [None, None]


async def test_an_order_of_another_shape_is_rejected_by_name(shop: Simulated) -> None:
    told = await refunded(shop)
    spoilt = {"name": "", "value": None}

    async def spoil(data: dict[str, Any]) -> None:
        if "order" in data:
            data["order"][spoilt["name"]] = spoilt["value"]

    async with altered(shop.shop, spoil) as other:
        caller = ShopClient(other)
        for spoilt["name"], spoilt["value"] in (  # type: ignore[assignment]  # any JSON value
            ("createdAt", None), ("lineItems", None), ("refunds", [{}]), ("fulfillments", 7),
        ):  # fmt: skip
            with pytest.raises(Misshapen, match=f"order {other.domain}/{told['id']}: unexpected shape"):
                await caller.order(told["id"])
        await caller.close()


async def test_an_order_that_changes_between_its_pages_is_read_again_until_it_rests(
    shop: Simulated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ORDER_PAGE", 1)
    sold = await shop.sell((TEE, 2), (CAP, 1))
    changes = iter("0122")

    async def change(data: dict[str, Any]) -> None:
        if "order" in data:
            data["order"]["updatedAt"] = f"2026-11-02T12:00:0{next(changes)}Z"

    async with altered(shop.shop, change) as other:
        caller = ShopClient(other)
        read = await caller.order(sold["id"])
        assert read is not None
        assert read.updated_at.isoformat() == "2026-11-02T12:00:02+00:00"
        assert [line.id for line in read.line_items] == [line["id"] for line in sold["line_items"]]
        changes = iter("012345")
        with pytest.raises(Retry, match="changes while it is read"):
            await caller.order(sold["id"])
        assert next(changes, None) is None  # three times, and no more
        await caller.close()
