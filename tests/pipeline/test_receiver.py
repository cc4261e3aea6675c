"""The receiver over real HTTP and real Kafka."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from support.bad_requests import BAD_REQUESTS, SHOP, SLOW_LINES, Request
from support.counted import tried
from support.kafka_io import read_all

from app import receiver as receiver_module
from app import topics
from app.exactly_once.partitioner import partition_of
from app.local_kafka import LocalKafka, external_bootstrap, free_port
from app.receiver import Kafka, listen, make_app
from app.records import Control, DeadLetter, Envelope, PrivacyRequest, correlation_of
from app.settings import Settings
from app.shops import Shop
from connectors.shopify.webhooks import BODY_LIMIT_BYTES

pytestmark = pytest.mark.kafka
SECRET = "example-secret"
LIMIT = 64 << 10


def settings_for(bootstrap: str) -> Settings:
    return Settings(KAFKA_BOOTSTRAP_SERVERS=bootstrap)  # type: ignore[call-arg]  # pydantic reads the alias


class Client:
    """Sends webhooks to a receiver of its own."""

    def __init__(self, session: aiohttp.ClientSession, port: int) -> None:
        self.port = port
        self._session = session
        self._url = f"http://127.0.0.1:{port}"

    async def send(self, topic: str, body: Any, **changed: str | None) -> tuple[int, str]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        signature = base64.b64encode(hmac.new(SECRET.encode(), data, hashlib.sha256).digest()).decode()
        headers = {
            "X-Shopify-Topic": topic,
            "X-Shopify-Shop-Domain": SHOP,
            "X-Shopify-Hmac-Sha256": signature,
            "X-Shopify-Webhook-Id": "w-1",
            "X-Shopify-Event-Id": "event-1",
        }
        merged = {**headers, **{name.replace("_", "-"): value for name, value in changed.items()}}
        present = {name: value for name, value in merged.items() if value is not None}
        async with self._session.post(f"{self._url}/webhooks/shopify", data=data, headers=present) as answer:
            return answer.status, await answer.text()

    async def get(self, path: str) -> tuple[int, str]:
        async with self._session.get(f"{self._url}{path}") as answer:
            return answer.status, await answer.text()


@pytest.fixture
async def receiver(kafka: str) -> AsyncIterator[Client]:
    settings = settings_for(kafka)
    await topics.apply(settings)
    async for client in _receiver(settings):
        yield client


async def _receiver(settings: Settings, limit: int = LIMIT) -> AsyncIterator[Client]:
    shop = Shop(domain=SHOP, api_url="", access_token="", webhook_secrets=(SECRET,), default_location_id=1)
    producer = Kafka(settings)
    runner = web.AppRunner(make_app({SHOP: shop}, producer, body_limit=limit))
    await runner.setup()
    port = free_port()
    await listen(runner, "127.0.0.1", port)
    producer.open()
    try:
        async with aiohttp.ClientSession() as session:
            client = Client(session, port)
            async with asyncio.timeout(30):
                while not await producer.answers():
                    await client.get("/readyz")
            yield client
    finally:
        await runner.cleanup()
        await producer.close()


def order(order_id: int) -> dict[str, Any]:
    at = "2026-11-02T09:15:03+01:00"
    return {"id": order_id, "created_at": at, "updated_at": at, "email": "shopper@example.com"}


async def stored(kafka: str, topic: str, key: bytes) -> list[Any]:
    partitions = settings_for(kafka).partitions
    return [record for record in await read_all(kafka, topic, partitions) if record.key == key]


async def test_a_webhook_is_in_kafka_when_it_is_answered_with_200(kafka: str, receiver: Client) -> None:
    assert (await receiver.send("orders/create", order(71)))[0] == 200
    [record] = await stored(kafka, "shopify.orders", f"{SHOP}/71".encode())
    envelope = msgspec.json.decode(record.value, type=Envelope)
    assert (envelope.shop, envelope.topic, envelope.order_id) == (SHOP, "orders/create", 71)
    assert b"shopper@example.com" not in record.value
    assert dict(record.headers) == {"schema": b"webhook/1", "correlation_id": b"event-1"}
    assert record.partition == partition_of(record.key, settings_for(kafka).partitions)


async def test_refusals_name_their_reason_and_are_counted(receiver: Client) -> None:
    body = order(72)
    assert await receiver.send("orders/create", body, X_Shopify_Shop_Domain=None) == (
        400,
        '{"error": "header X-Shopify-Shop-Domain is missing"}',
    )
    assert (await receiver.send("orders/create", body, X_Shopify_Shop_Domain="other.myshopify.com"))[0] == 404
    assert (await receiver.send("orders/create", body, X_Shopify_Hmac_Sha256="bm8="))[0] == 401
    assert (await receiver.send("orders/create", b"{"))[0] == 400
    metrics = (await receiver.get("/metrics"))[1]
    for reason in ("missing_header", "unknown_shop", "bad_signature", "not_json"):
        assert f'skustream_webhooks_refused_total{{reason="{reason}"}}' in metrics


async def test_a_signed_webhook_that_cannot_be_used_is_dead_lettered(kafka: str, receiver: Client) -> None:
    assert (await receiver.send("orders/create", {**order(73), "updated_at": "yesterday"}))[0] == 200
    letters = [
        msgspec.json.decode(record.value, type=DeadLetter)
        for record in await stored(kafka, "dead-letters.receiver", SHOP.encode())
    ]
    [letter] = [one for one in letters if "updated_at" in one.message]
    assert letter.topic == "orders/create"
    assert b"shopper@example.com" not in base64.b64decode(letter.value)


async def test_a_body_over_the_limit_is_answered_and_leaves_a_marker(kafka: str, receiver: Client) -> None:
    assert (await receiver.send("orders/updated", {**order(74), "note": "x" * 3 * LIMIT}))[0] == 200
    [record] = await stored(kafka, "shopify.orders", f"{SHOP}/74".encode())
    assert msgspec.json.decode(record.value, type=Envelope).oversized


@pytest.mark.parametrize("topic", ["app/uninstalled", "shop/redact"])
async def test_a_shop_that_leaves_is_paused(kafka: str, receiver: Client, topic: str) -> None:
    before = len(await stored(kafka, "shopify.controls", SHOP.encode()))
    body = {"id": 1, "shop_owner": "Ada Example", "email": "owner@example.com"}
    head = {"X_Shopify_Event_Id": f"event-{topic}", "X_Shopify_Triggered_At": "2026-11-02T09:15:00Z"}
    assert (await receiver.send(topic, body, **head))[0] == 200
    records = await stored(kafka, "shopify.controls", SHOP.encode())
    control = msgspec.json.decode(records[-1].value, type=Control)
    assert (len(records), control.shop, control.action, control.reason) == (before + 1, SHOP, "pause", topic)
    assert control.left_at == datetime(2026, 11, 2, 9, 15, tzinfo=UTC)
    assert correlation_of(records[-1].headers) == f"event-{topic}"
    metrics = (await receiver.get("/metrics"))[1]
    assert f'skustream_shop_left_total{{shop="{SHOP}",topic="{topic}"}} 1.0' in metrics
    assert f'skustream_webhooks_total{{result="stored",topic="{topic}"}}' in metrics


async def test_a_privacy_request_is_answered_and_kept_without_the_person(
    kafka: str, receiver: Client
) -> None:
    customer = {"id": 191167, "email": "shopper@example.com", "phone": "555-625-1199"}
    body = {"shop_id": 954889, "customer": customer, "orders_to_redact": [299938, 280263]}
    wrong = await receiver.send("customers/redact", body, X_Shopify_Hmac_Sha256="bm8=")
    assert wrong[0] == 401
    assert (await receiver.send("customers/redact", body))[0] == 200
    record = (await stored(kafka, "shopify.catalog", SHOP.encode()))[-1]
    envelope = msgspec.json.decode(record.value, type=Envelope)
    request = msgspec.json.decode(envelope.body, type=PrivacyRequest)
    assert (envelope.topic, request.orders) == ("customers/redact", [299938, 280263])
    assert b"shopper" not in record.value
    assert b"191167" not in record.value


async def test_the_age_of_a_delivery_is_measured(receiver: Client) -> None:
    assert (await receiver.send("orders/paid", order(75), X_Shopify_Triggered_At="2026-11-02T09:15:00Z"))[
        0
    ] == 200
    metrics = (await receiver.get("/metrics"))[1]
    assert 'skustream_webhook_age_seconds_bucket{le="0.5",topic="orders/paid"} 0.0' in metrics
    assert 'skustream_webhook_age_seconds_count{topic="orders/paid"} 1.0' in metrics


@pytest.mark.skipif(external_bootstrap() is not None, reason="stops its own broker")
async def test_without_a_broker_503_and_after_its_return_200(tmp_path: Path) -> None:
    broker = LocalKafka(tmp_path)
    broker.start()
    try:
        settings = settings_for(broker.bootstrap_servers)
        await topics.apply(settings)
        async for client in _receiver(settings):
            assert (await client.send("orders/create", order(80)))[0] == 200
            broker.kill()
            status, text = await client.send("orders/create", order(81))
            assert status == 503
            assert "send it again" in text
            assert (await client.get("/readyz"))[0] == 503
            broker.start()
            async with asyncio.timeout(60):
                while (await client.send("orders/create", order(81)))[0] != 200:
                    pass
        assert await stored(broker.bootstrap_servers, "shopify.orders", f"{SHOP}/81".encode())
    finally:
        broker.stop()


@pytest.fixture
async def unlimited(kafka: str) -> AsyncIterator[Client]:
    settings = settings_for(kafka)
    await topics.apply(settings)
    async for client in _receiver(settings, BODY_LIMIT_BYTES):
        yield client


@pytest.mark.parametrize("request_", BAD_REQUESTS, ids=lambda one: one.what)
async def test_each_bad_request_has_its_answer(kafka: str, unlimited: Client, request_: Request) -> None:
    before = await count(kafka, request_.stored)
    named = {name.replace("-", "_"): value for name, value in request_.headers.items()}
    status, text = await unlimited.send(request_.topic, request_.body, **named)
    assert (status, request_.says in text) == (request_.status, True), text
    assert await count(kafka, request_.stored) == before + bool(request_.stored)
    tried("bad requests", request_.what)


async def count(kafka: str, topic: str) -> int:
    return len(await read_all(kafka, topic, settings_for(kafka).partitions)) if topic else 0


async def test_a_client_that_drips_its_headers_is_cut_off(
    unlimited: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver_module, "HEAD_LIMIT_S", 0.5)
    reader, writer = await asyncio.open_connection("127.0.0.1", unlimited.port)
    writer.write(b"POST /webhooks/shopify HTTP/1.1\r\nHost: x\r\n")
    async with asyncio.timeout(10):
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
    writer.close()
    assert 'reason="slow_head"' in (await unlimited.get("/metrics"))[1]


async def test_a_client_that_drips_its_body_gets_503(
    unlimited: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver_module, "ANSWER_LIMIT_S", 0.5)
    reader, writer = await asyncio.open_connection("127.0.0.1", unlimited.port)
    lines = ["POST /webhooks/shopify HTTP/1.1", "Host: x", "Content-Length: 100"]
    lines += [f"X-Shopify-Shop-Domain: {SHOP}", "X-Shopify-Topic: orders/create"]
    lines += ["X-Shopify-Hmac-Sha256: bm8=", "X-Shopify-Webhook-Id: w", "", "{"]
    writer.write("\r\n".join(lines).encode())
    async with asyncio.timeout(10):
        assert (await reader.readline()).startswith(b"HTTP/1.1 503")
    writer.close()


def test_the_documentation_shows_every_bad_request() -> None:
    text = (Path(__file__).parents[2] / "docs" / "bad-input.md").read_text()
    lines = {*(one.line for one in BAD_REQUESTS), *SLOW_LINES}
    missing = sorted(lines - set(text.splitlines()))
    assert not missing, "\n".join(missing)
