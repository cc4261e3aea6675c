"""What the orders agent makes of envelopes that are not Shopify's own: orders that were noticed or read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from agents.orders import united
from app.records import Envelope, Fulfillment, FulfillmentLine, Order, OrderLine, OrderNotice, encode
from connectors.shopify.changed_orders import READ_TOPIC, envelope_of
from tables.orders import OrderRecord, take_order

SHOP = "a.myshopify.com"
NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)
LATER = NOON + timedelta(seconds=5)


def seen(known: OrderRecord | None, at: datetime) -> OrderRecord:
    return united(known, envelope_of(SHOP, OrderNotice(id=7, updated_at=at), LATER))


def read(known: OrderRecord | None, at: datetime) -> OrderRecord:
    body = encode(Order(id=7, created_at=NOON, updated_at=at))
    envelope = Envelope(shop=SHOP, topic=READ_TOPIC, received_at=LATER, order_id=7, body=msgspec.Raw(body))
    return united(known, envelope)


def test_an_order_nobody_told_of_is_to_be_read() -> None:
    record = seen(None, NOON)
    assert (record.order_id, record.noticed_at, record.notices) == (7, NOON, 1)


def test_a_notice_of_what_is_known_changes_nothing() -> None:
    known = read(None, LATER)
    assert seen(known, NOON) is known
    assert seen(known, LATER) is known


def test_a_notice_of_a_later_change_asks_for_a_read() -> None:
    assert seen(read(None, NOON), LATER).noticed_at == LATER


SHIPPED = Fulfillment(id=5, status="success", created_at=NOON, line_items=[FulfillmentLine(id=1, quantity=1)])


@pytest.mark.parametrize(
    ("left", "shipped", "cancelled", "told", "read_wanted"),
    [
        (2, False, False, {"fulfillment_status": "UNFULFILLED"}, False),
        (2, False, False, {}, False),  # a notice of an older release
        (2, False, False, {"fulfillment_status": "FULFILLED"}, True),
        (2, False, False, {"fulfillment_status": "PARTIALLY_FULFILLED"}, True),
        (1, True, False, {"fulfillment_status": "PARTIALLY_FULFILLED"}, False),
        (1, True, False, {"fulfillment_status": "FULFILLED"}, True),
        (0, True, False, {"fulfillment_status": "FULFILLED"}, False),
        (1, True, False, {"fulfillment_status": "UNFULFILLED"}, True),
        (2, False, False, {"fulfillment_status": "UNFULFILLED", "cancelled_at": NOON}, True),
        (0, False, True, {"fulfillment_status": "UNFULFILLED", "cancelled_at": NOON, "units": 0}, False),
        (2, False, False, {"fulfillment_status": "UNFULFILLED", "units": 2, "fulfillments": 0}, False),
        (2, False, False, {"fulfillment_status": "UNFULFILLED", "units": 1}, True),  # refunded or edited
        (1, True, False, {"fulfillment_status": "PARTIALLY_FULFILLED", "fulfillments": 2}, True),
    ],
)
def test_an_order_that_went_further_within_the_second_of_what_we_heard_is_read(
    left: int, shipped: bool, cancelled: bool, told: dict[str, Any], read_wanted: bool
) -> None:
    order = Order(
        id=7, created_at=NOON, updated_at=NOON, cancelled_at=NOON if cancelled else None,
        line_items=[
            OrderLine(id=1, quantity=2, fulfillable_quantity=left, variant_inventory_management="shopify")
        ],
        fulfillments=[SHIPPED] if shipped else [],
    )  # fmt: skip
    heard = take_order(None, SHOP, order, read=False)
    notice = OrderNotice(id=7, updated_at=NOON, **told)
    record = united(heard, envelope_of(SHOP, notice, LATER))
    assert record.unread == read_wanted
    assert not take_order(record, SHOP, order, read=True).unread
    later = take_order(None, SHOP, replace(order, updated_at=LATER), read=False)
    assert united(later, envelope_of(SHOP, notice, LATER)) is later, "we have heard of more since"


def test_an_order_that_was_read_answers_what_was_noticed_up_to_then() -> None:
    assert read(seen(None, NOON), LATER).noticed_at is None
    assert read(seen(None, LATER), LATER).noticed_at == LATER, "it may be from before, in the same second"
    assert read(seen(None, LATER), NOON).noticed_at == LATER
    assert read(None, NOON).read_done == NOON
    assert read(seen(None, LATER), NOON).read_done is None


def test_the_same_change_has_the_same_ids_in_every_time_zone() -> None:
    other = NOON.astimezone(tz=None)
    one, two = (envelope_of(SHOP, OrderNotice(id=7, updated_at=at), LATER) for at in (NOON, other))
    assert (one.webhook_id, one.event_id) == (two.webhook_id, two.event_id)
    assert one.event_id == "seen:7:2026-11-02T12:00:00Z"
