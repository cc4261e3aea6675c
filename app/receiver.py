"""The receiver: webhooks in over HTTP, one acknowledged Kafka record out for each.

200 is answered only when all in-sync replicas have the record; anything else makes Shopify send it again.
Shopify gives a delivery five seconds, so everything here has four.
"""

from __future__ import annotations

import asyncio
import os
import signal
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import product

import msgspec
import prometheus_client
import structlog
from aiohttp import web
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from prometheus_client import Counter, Histogram

from app.errors import Misconfigured, Rejected
from app.exactly_once.partitioner import partition_of
from app.records import Control, DeadLetter, Envelope, PrivacyRequest, Record, encode, headers
from app.settings import Settings
from app.shops import Shop, load_shops
from connectors.shopify.webhooks import (
    BODY_LIMIT_BYTES,
    COMPLIANCE,
    LEAVING,
    Body,
    Delivery,
    Refused,
    accept,
    read_headers,
    scrub,
)

ANSWER_LIMIT_S = 4.0
HEAD_LIMIT_S = 10.0
"""For the first request's headers."""
RECONNECT_S = 1.0
READY_LIMIT_S = 2.0
STOP_LIMIT_S = 5.0
MAX_REQUEST_BYTES = 9 << 20
SERVICE = "receiver"

WEBHOOKS = Counter("skustream_webhooks_total", "Signed webhooks, by what became of them", ["topic", "result"])
REFUSED = Counter("skustream_webhooks_refused_total", "Webhooks not answered with 200", ["reason"])
AGE = Histogram(
    "skustream_webhook_age_seconds",
    "From Shopify's trigger to our answer",
    ["topic"],
    buckets=(0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400),
)
LEFT = Counter(
    "skustream_shop_left_total", "Webhooks by which a shop took our access away", ["shop", "topic"]
)
SECONDS = Histogram("skustream_webhook_seconds", "From the first byte to the answer")

log = structlog.get_logger(__name__)


class Kafka:
    """The producer, connected whenever there is a broker."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer: AIOKafkaProducer | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Start to connect; until that has worked everything is answered with 503."""
        self._connecting = asyncio.get_running_loop().create_task(self._connect(), name="connect")

    async def close(self) -> None:
        """Send what is waiting, within a limit, and disconnect."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait({self._connecting})
        if self._stopping is not None:
            await asyncio.wait({self._stopping})
        if self._producer is not None:
            await _stopped(self._producer)

    async def store(self, topic: str, key: bytes, route: bytes, record: Record, correlation_id: str) -> None:
        """Return when all in-sync replicas have the record.

        Raises:
            KafkaError: when that is not known.
        """
        producer = self._producer
        if producer is None:
            raise KafkaError("not connected yet")
        try:
            future = await producer.send(
                topic,
                encode(record),
                key,
                partition=partition_of(route, self._settings.partitions),
                headers=headers(record, correlation_id),
            )
            # The limit on the answer must not cancel the producer's own future; its late error is nobody's.
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
            await asyncio.shield(future)
        except KafkaError as error:
            if not error.retriable:
                self._replace(producer, error)
            raise

    def _replace(self, producer: AIOKafkaProducer, error: KafkaError) -> None:
        """Connect anew: an idempotent producer that met a fatal error refuses everything after it."""
        if self._producer is producer:
            log.error("the producer failed and is replaced", error=repr(error))
            self._producer = None
            self._stopping = asyncio.get_running_loop().create_task(_stopped(producer), name="stop producer")
            self.open()

    async def answers(self) -> bool:
        """Whether a broker answers now."""
        if self._producer is None:
            return False
        try:
            await asyncio.wait_for(self._producer.client.fetch_all_metadata(), READY_LIMIT_S)
        except (KafkaError, TimeoutError):
            return False
        return True

    async def _connect(self) -> None:
        while True:
            producer = AIOKafkaProducer(
                **self._settings.kafka_options(),
                acks="all",
                enable_idempotence=True,
                compression_type="lz4",
                max_request_size=MAX_REQUEST_BYTES,
            )
            try:
                await producer.start()
            except (KafkaError, OSError) as error:
                await producer.stop()
                log.warning("no Kafka broker answers", setting="KAFKA_BOOTSTRAP_SERVERS", error=repr(error))
                await asyncio.sleep(RECONNECT_S)
                continue
            self._producer = producer
            return


async def _stopped(producer: AIOKafkaProducer) -> None:
    try:
        await asyncio.wait_for(producer.stop(), STOP_LIMIT_S)
    except (TimeoutError, KafkaError) as error:
        log.warning("the producer did not stop cleanly", error=repr(error))


class Receiver:
    """The handlers."""

    def __init__(
        self, shops: Mapping[str, Shop], kafka: Kafka, *, body_limit: int = BODY_LIMIT_BYTES
    ) -> None:
        self._shops = shops
        self._kafka = kafka
        self._body_limit = body_limit
        for shop, topic in product(shops, LEAVING):
            LEFT.labels(shop, topic)  # an alert on its increase needs the zero before it

    def routes(self) -> list[web.RouteDef]:
        """The receiver's paths."""
        return [
            web.post("/webhooks/shopify", self.shopify),
            web.get("/healthz", self.healthz),
            web.get("/readyz", self.readyz),
            web.get("/metrics", self.metrics),
        ]

    async def shopify(self, request: web.Request) -> web.Response:
        """Take one webhook."""
        with SECONDS.time():
            try:
                async with asyncio.timeout(ANSWER_LIMIT_S):
                    await self._take(request)
            except Refused as error:
                return _refused(request, error.status, error.reason, str(error))
            except TimeoutError:
                return _refused(
                    request, 503, "timeout", f"not stored within {ANSWER_LIMIT_S:g} s; send it again"
                )
            except KafkaError as error:
                return _refused(request, 503, "kafka", f"not stored: {type(error).__name__}; send it again")
        return web.Response()

    async def _take(self, request: web.Request) -> None:
        delivery = read_headers(request.headers)
        shop = self._shops.get(delivery.shop)
        if shop is None:
            raise Refused(404, "unknown_shop", f"the shops file has no shop {delivery.shop[:80]!r}")
        with structlog.contextvars.bound_contextvars(correlation_id=delivery.event_id):
            await self._take_from(shop, delivery, request)

    async def _take_from(self, shop: Shop, delivery: Delivery, request: web.Request) -> None:
        body = Body(shop.webhook_secrets, self._body_limit)
        async for chunk in request.content.iter_any():
            body.feed(chunk)
        if not body.signed_with(delivery.signature):
            raise Refused(401, "bad_signature", "no secret of this shop made the signature")
        try:
            record = accept(delivery, body, datetime.now(UTC))
        except Refused:
            raise
        except Rejected as error:
            await self._dead_letter(delivery, body, error)
            return
        await self._kafka.store(record.topic, record.key, record.route, record.envelope, delivery.event_id)
        if delivery.topic in LEAVING:
            await self._pause(delivery)
        _note_stored(delivery, record.envelope)

    async def _pause(self, delivery: Delivery) -> None:
        """The shop says that it took our access away, maybe long ago: the writer sees whether it is so."""
        now = datetime.now(UTC)
        control = Control(
            shop=delivery.shop,
            action="pause",
            requested_at=now,
            reason=delivery.topic,
            left_at=delivery.triggered_at or now,
        )
        key = delivery.shop.encode()
        await self._kafka.store("shopify.controls", key, key, control, delivery.event_id)
        LEFT.labels(delivery.shop, delivery.topic).inc()
        log.error(
            "a shop says that it has left, and is paused unless it still lets us in; see docs/privacy.md",
            shop=delivery.shop,
            topic=delivery.topic,
            triggered_at=control.left_at,
        )

    async def _dead_letter(self, delivery: Delivery, body: Body, error: Rejected) -> None:
        value = b"" if body.oversized else scrub(body.kept)
        letter = DeadLetter(
            service=SERVICE,
            topic=delivery.topic,
            partition=-1,
            offset=-1,
            error=type(error).__name__,
            message=str(error),
            headers={"X-Shopify-Webhook-Id": delivery.webhook_id, "X-Shopify-Shop-Domain": delivery.shop},
            value=b64encode(value).decode(),
            failed_at=datetime.now(UTC),
        )
        key = delivery.shop.encode()
        await self._kafka.store(f"dead-letters.{SERVICE}", key, key, letter, delivery.event_id)
        WEBHOOKS.labels(delivery.topic, "dead_lettered").inc()
        log.warning("a webhook was dead-lettered", shop=delivery.shop, topic=delivery.topic, error=str(error))

    async def healthz(self, request: web.Request) -> web.Response:
        """The process runs."""
        return web.json_response({"ok": True, "service": SERVICE, "pid": os.getpid()})

    async def readyz(self, request: web.Request) -> web.Response:
        """Whether webhooks can be stored: a broker answers."""
        ready = await self._kafka.answers()
        return web.json_response({"ok": ready, "service": SERVICE}, status=200 if ready else 503)

    async def metrics(self, request: web.Request) -> web.Response:
        """Prometheus metrics."""
        return web.Response(body=prometheus_client.generate_latest(), content_type="text/plain")


def make_app(
    shops: Mapping[str, Shop], kafka: Kafka, *, body_limit: int = BODY_LIMIT_BYTES
) -> web.Application:
    """The aiohttp application."""
    app = web.Application()
    app.add_routes(Receiver(shops, kafka, body_limit=body_limit).routes())
    return app


async def listen(runner: web.AppRunner, host: str, port: int) -> asyncio.Server:
    """Listen with a limit on the time to a connection's first request: aiohttp has none of its own, and
    clients that send a byte now and then would use up the file descriptors.

    Raises:
        OSError: when the port is taken.
    """
    loop = asyncio.get_running_loop()

    def connected() -> asyncio.Protocol:
        assert runner.server is not None, "set up before"
        protocol = runner.server()
        loop.call_later(HEAD_LIMIT_S, _close_unless_asked, protocol)
        return protocol

    return await loop.create_server(connected, host, port)


def _close_unless_asked(protocol: web.RequestHandler) -> None:
    if protocol.transport is not None and protocol._request_count == 0:
        REFUSED.labels("slow_head").inc()
        protocol.transport.abort()


async def serve(
    settings: Settings, stop_on: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT)
) -> None:
    """Run the receiver until a signal.

    Raises:
        Misconfigured: naming the port that is taken, or what is wrong with the shops file.
    """
    shops = load_shops(settings.shops_file)
    kafka = Kafka(settings)
    stop = asyncio.Event()
    for number in stop_on:
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # Who sends a body that slowly is not waited for: nothing was promised to him.
    runner = web.AppRunner(make_app(shops, kafka), access_log=None, shutdown_timeout=ANSWER_LIMIT_S)
    await runner.setup()
    kafka.open()
    try:
        try:
            server = await listen(runner, settings.receiver_host, settings.receiver_port)
        except OSError as error:
            raise Misconfigured(
                f"SKUSTREAM_RECEIVER_PORT {settings.receiver_port}: cannot listen: {error.strerror}"
            ) from None
        log.info(
            "receiver started", host=settings.receiver_host, port=settings.receiver_port, shops=len(shops)
        )
        await stop.wait()
        server.close()
    finally:
        await runner.cleanup()
        await kafka.close()


def _note_stored(delivery: Delivery, envelope: Envelope) -> None:
    WEBHOOKS.labels(delivery.topic, "stored").inc()
    if delivery.triggered_at is not None:
        age_s = (envelope.received_at - delivery.triggered_at).total_seconds()
        AGE.labels(delivery.topic).observe(max(0.0, age_s))
    log.debug("a webhook was stored", shop=delivery.shop, topic=delivery.topic, order=envelope.order_id)
    if delivery.topic in COMPLIANCE:
        request = msgspec.json.decode(envelope.body, type=PrivacyRequest)
        log.warning(
            "a privacy request: of these orders we hold ids, times and quantities, nothing about a person",
            shop=delivery.shop,
            topic=delivery.topic,
            orders=request.orders,
        )


def _refused(request: web.Request, status: int, reason: str, message: str) -> web.Response:
    REFUSED.labels(reason).inc()
    shop = request.headers.get("X-Shopify-Shop-Domain", "")[:80]
    topic = request.headers.get("X-Shopify-Topic", "")[:80]
    log.warning(
        "a webhook was refused", status=status, reason=reason, shop=shop, topic=topic, message=message
    )
    return web.json_response({"error": message}, status=status)
