"""Subscriptions as the API changes them, and what is delivered to whom, over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from support.simulated import MAIN, TEE, Simulated, simulated

from app.local_kafka import free_port
from connectors.shopify.simulator.graphql import load_schema
from connectors.shopify.simulator.model import TOPICS, Subscription
from connectors.shopify.simulator.subscriptions import TOPIC_OF, rendered

CREATE = """
mutation Create($topic: WebhookSubscriptionTopic!, $hook: WebhookSubscriptionInput!) {
  webhookSubscriptionCreate(topic: $topic, webhookSubscription: $hook) {
    webhookSubscription { id topic uri format includeFields filter name apiVersion { handle } }
    userErrors { field message }
  }
}"""
UPDATE = """
mutation Update($id: ID!, $hook: WebhookSubscriptionInput!) {
  webhookSubscriptionUpdate(id: $id, webhookSubscription: $hook) {
    webhookSubscription { id uri includeFields }
    userErrors { field message }
  }
}"""
DELETE = """
mutation Delete($id: ID!) {
  webhookSubscriptionDelete(id: $id) { deletedWebhookSubscriptionId userErrors { field message } }
}"""
LIST = """
query List($first: Int!, $after: String, $topics: [WebhookSubscriptionTopic!], $uri: String) {
  webhookSubscriptions(first: $first, after: $after, topics: $topics, uri: $uri) {
    nodes { id topic uri }
    pageInfo { hasNextPage endCursor }
  }
}"""
FAST = 0.0001
"""Four hours of retries in a second and a half."""


class Receiver:
    """Takes webhooks, or refuses them."""

    def __init__(self) -> None:
        self.status = 200
        self.got: list[tuple[str, Any, dict[str, str]]] = []
        self.url = f"http://127.0.0.1:{free_port()}/hooks"

    async def take(self, request: web.Request) -> web.Response:
        body = json.loads(await request.read())
        self.got.append((request.headers["X-Shopify-Topic"], body, dict(request.headers)))
        return web.Response(status=self.status)

    def bodies(self, topic: str) -> list[Any]:
        return [body for told, body, _ in self.got if told == topic]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    app = web.Application()
    app.router.add_post("/hooks", made.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(made.url.split(":")[2].split("/")[0])).start()
    yield made
    await runner.cleanup()


@asynccontextmanager
async def nobody_subscribed() -> AsyncIterator[Simulated]:
    async with simulated(subscribed="none", retry_scale=FAST) as running:
        yield running


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await holds():  # noqa: ASYNC110  # seen over HTTP only
            await asyncio.sleep(0.02)


async def quiet(shop: Simulated) -> None:
    async def holds() -> bool:
        return (await shop.see("pending"))["pending"] == 0

    await until(holds)


async def subscribe(shop: Simulated, topic: str, uri: str, **more: Any) -> Any:
    answer = await shop.ask(CREATE, {"topic": topic, "hook": {"uri": uri, **more}})
    return answer["webhookSubscriptionCreate"]


async def edit(shop: Simulated, available: int) -> None:
    await shop.act("edit", shop=shop.shop.domain, item=TEE, location=MAIN, available=available)


def test_the_topics_are_those_of_the_schema() -> None:
    assert set(TOPIC_OF) == set(load_schema().type_map["WebhookSubscriptionTopic"].values)  # type: ignore[attr-defined]


async def test_a_shop_begins_with_every_topic_subscribed_and_lists_them_in_pages() -> None:
    async with simulated() as shop:
        seen, after = [], None
        while True:
            page = (await shop.ask(LIST, {"first": 20, "after": after}))["webhookSubscriptions"]
            seen += page["nodes"]
            after = page["pageInfo"]["endCursor"]
            if not page["pageInfo"]["hasNextPage"]:
                break
        assert {TOPIC_OF[each["topic"]] for each in seen} == set(TOPICS)
        assert {each["uri"] for each in seen} == {"http://127.0.0.1:9/none"}
        some = await shop.ask(LIST, {"first": 9, "topics": ["ORDERS_CREATE", "REFUNDS_CREATE"]})
        assert len(some["webhookSubscriptions"]["nodes"]) == 2
        none = await shop.ask(LIST, {"first": 9, "uri": "https://example.com/other"})
        assert none["webhookSubscriptions"]["nodes"] == []


async def test_what_the_apps_configuration_subscribes_to_is_sent_but_not_listed(receiver: Receiver) -> None:
    async with simulated(webhook_url=receiver.url, subscribed="app") as shop:
        assert (await shop.ask(LIST, {"first": 9}))["webhookSubscriptions"]["nodes"] == []
        await shop.sell((TEE, 1))
        await quiet(shop)
        assert {topic for topic, _, _ in receiver.got} == {"orders/create", "inventory_levels/update"}


async def test_only_what_is_subscribed_to_is_sent(receiver: Receiver) -> None:
    async with nobody_subscribed() as shop:
        made = await subscribe(shop, "ORDERS_CREATE", receiver.url, name="orders-eu")
        assert made["userErrors"] == []
        assert made["webhookSubscription"]["apiVersion"] == {"handle": "2026-10"}
        await shop.sell((TEE, 1))
        await quiet(shop)
        [(topic, body, headers)] = receiver.got
        assert (topic, body["source_name"], headers["X-Shopify-Name"]) == (
            "orders/create",
            "web",
            "orders-eu",
        )
        told = await shop.log("webhook_sent", "webhook_unwanted")
        assert [(each["kind"], each["detail"]) for each in told if each["kind"] == "webhook_unwanted"] == [
            ("webhook_unwanted", "inventory_levels/update")
        ]
        sent = next(each for each in told if each["kind"] == "webhook_sent")
        assert (sent["key"], sent["quantity"]) == (headers["X-Shopify-Webhook-Id"], 1)


async def test_two_addresses_get_two_deliveries_of_one_event(receiver: Receiver) -> None:
    async with nobody_subscribed() as shop:
        for part in ("", "?other"):
            assert (await subscribe(shop, "ORDERS_CREATE", receiver.url + part))["userErrors"] == []
        await shop.sell((TEE, 1))
        await quiet(shop)
        first, second = (headers for _, _, headers in receiver.got)
        assert first["X-Shopify-Event-Id"] == second["X-Shopify-Event-Id"]
        assert first["X-Shopify-Webhook-Id"] != second["X-Shopify-Webhook-Id"]


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("http://example.com/hooks", "Address protocol http:// is not supported"),
        ("https://x.myshopify.com/hooks", "Address cannot be a Shopify or an internal domain"),
        ("nonsense", "Address is invalid"),
        ("", "Address is invalid"),
    ],
)
async def test_an_address_that_shopify_refuses_is_refused(uri: str, why: str) -> None:
    async with nobody_subscribed() as shop:
        made = await subscribe(shop, "ORDERS_CREATE", uri)
        assert made == {
            "webhookSubscription": None,
            "userErrors": [{"field": ["webhookSubscription", "callbackUrl"], "message": why}],
        }


async def test_an_address_is_taken_once_per_topic_and_can_be_changed_and_given_up() -> None:
    async with nobody_subscribed() as shop:
        made = (await subscribe(shop, "ORDERS_CREATE", "https://example.com/a"))["webhookSubscription"]
        again = await subscribe(shop, "ORDERS_CREATE", "https://example.com/a")
        assert again["userErrors"][0]["message"] == "Address for this topic has already been taken"
        assert (await subscribe(shop, "ORDERS_UPDATED", "https://example.com/a"))["userErrors"] == []
        change = {"id": made["id"], "hook": {"includeFields": ["id", "updated_at"]}}
        told = (await shop.ask(UPDATE, change))["webhookSubscriptionUpdate"]
        assert told["webhookSubscription"] == {
            "id": made["id"],
            "uri": "https://example.com/a",
            "includeFields": ["id", "updated_at"],
        }
        gone = (await shop.ask(DELETE, {"id": made["id"]}))["webhookSubscriptionDelete"]
        assert gone == {"deletedWebhookSubscriptionId": made["id"], "userErrors": []}
        for document in (DELETE, UPDATE):
            told = await shop.ask(
                document, {"id": made["id"], "hook": {}} if document == UPDATE else {"id": made["id"]}
            )
            [payload] = told.values()
            assert payload["userErrors"][0]["field"] == ["id"]


async def test_a_subscription_that_nothing_was_accepted_for_is_deleted_and_nothing_is_replayed(
    receiver: Receiver,
) -> None:
    async with nobody_subscribed() as shop:
        await subscribe(shop, "INVENTORY_LEVELS_UPDATE", receiver.url)
        receiver.status = 503
        await edit(shop, 4)
        await quiet(shop)
        assert len(receiver.got) == 8
        assert (await shop.ask(LIST, {"first": 9}))["webhookSubscriptions"]["nodes"] == []
        kinds = [
            each["kind"]
            for each in await shop.log("webhook_failed", "subscription_deleted", "webhook_dropped")
        ]
        assert kinds == ["webhook_failed"] * 8 + ["webhook_dropped", "subscription_deleted"]
        receiver.status = 200
        await edit(shop, 5)
        await subscribe(shop, "INVENTORY_LEVELS_UPDATE", receiver.url)
        await edit(shop, 6)
        await quiet(shop)
        assert [body["available"] for body in receiver.bodies("inventory_levels/update")[8:]] == [6]


async def test_a_subscription_that_something_was_accepted_for_meanwhile_stays(receiver: Receiver) -> None:
    async with nobody_subscribed() as shop:
        await subscribe(shop, "INVENTORY_LEVELS_UPDATE", receiver.url)
        receiver.status = 503
        await edit(shop, 4)
        await until(lambda: _tries(shop, 3))
        receiver.status = 200
        await edit(shop, 5)
        await until(lambda: _sent(shop))
        receiver.status = 503
        await quiet(shop)
        assert len((await shop.ask(LIST, {"first": 9}))["webhookSubscriptions"]["nodes"]) == 1


async def _tries(shop: Simulated, wanted: int) -> bool:
    return len(await shop.log("webhook_failed")) >= wanted


async def _sent(shop: Simulated) -> bool:
    return bool(await shop.log("webhook_sent"))


async def test_a_body_of_some_fields_is_sent_once_until_one_of_them_changes(receiver: Receiver) -> None:
    async with nobody_subscribed() as shop:
        fields = ["inventory_item_id", "location_id", "available"]
        await subscribe(shop, "INVENTORY_LEVELS_UPDATE", receiver.url, includeFields=fields)
        for available in (4, 5, 5, 4):
            await edit(shop, available)
            await quiet(shop)
        await shop.sell((TEE, 1))
        await quiet(shop)
        await shop.act("edit", shop=shop.shop.domain, item=TEE, location=MAIN, delta=1)
        await quiet(shop)
        bodies = receiver.bodies("inventory_levels/update")
        assert [body["available"] for body in bodies] == [4, 5, 4, 3, 4]
        assert {tuple(body) for body in bodies} == {tuple(fields)}


async def test_two_changes_that_end_as_before_are_left_out(receiver: Receiver) -> None:
    async with nobody_subscribed() as shop:
        fields = ["inventory_item_id", "location_id", "available"]
        await subscribe(shop, "INVENTORY_LEVELS_UPDATE", receiver.url, includeFields=fields)
        await edit(shop, 4)
        await quiet(shop)
        await shop.act("faults", late_probability=1, late_s=0.2)
        await edit(shop, 9)
        await edit(shop, 4)  # rendered when they are sent: both show 4 again
        await quiet(shop)
        assert [body["available"] for body in receiver.bodies("inventory_levels/update")] == [4]
        assert len(await shop.log("webhook_same")) == 2


def test_fields_are_picked_at_any_depth_and_a_filter_leaves_bodies_out() -> None:
    body = {
        "id": 1,
        "total": 5,
        "line_items": [{"id": 2, "sku": "TEE", "price": "1"}],
        "customer": {"email": "a"},
    }
    made = Subscription(id=1, topic="orders/create", uri="", created_at=0, updated_at=0)
    assert rendered(made, json.dumps(body).encode()) == json.dumps(body).encode()
    some = Subscription(
        id=1, topic="orders/create", uri="", created_at=0, updated_at=0, filter="total:>=5",
        include_fields=("id", "line_items.id", "line_items.sku", "absent"),
    )  # fmt: skip
    told = rendered(some, json.dumps(body).encode())
    assert json.loads(told or b"") == {"id": 1, "line_items": [{"id": 2, "sku": "TEE"}]}
    assert rendered(some, json.dumps({**body, "total": 4}).encode()) is None
