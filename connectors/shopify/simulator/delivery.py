"""Webhooks on their way: signed, bounded in parallel, retried, and troubled by faults (facts 5.1)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import aiohttp
import structlog
from msgspec import Struct
from msgspec.structs import replace

from connectors.shopify.simulator.behaviour import API_VERSION
from connectors.shopify.simulator.bodies import body_at_send
from connectors.shopify.simulator.faults import Faults
from connectors.shopify.simulator.model import LogKind, Subscription, Webhook
from connectors.shopify.simulator.subscriptions import rendered
from connectors.shopify.simulator.world import ShopState, World

log = structlog.get_logger(__name__)

CONNECT_S = 1.0
TOTAL_S = 5.0
"""Shopify's budget for one try; anything but a 2xx within it is a failure."""

MAX_TRIES = 8
RETRY_BASE_S = 4 * 3600 / (2 ** (MAX_TRIES - 1) - 1)
"""The first wait; doubled each time, eight tries take Shopify's four hours."""

PARALLEL = 32
"""Deliveries at the same time: enough to overlap, few enough for one receiver."""

RETRY_SCALE = 0.01
"""Four hours in 144 seconds: long enough to outlast a receiver that is down for a minute."""

MAX_LAST_BODIES = 50_000
"""Remembered to leave out what did not change: the listings of a large shop."""

Sleep = Callable[[float], Awaitable[None]]


class Pending(Struct, frozen=True, kw_only=True):
    """A webhook that is not delivered yet."""

    id: str
    shop: str
    topic: str
    tries: int


class Parcel(Struct, frozen=True, kw_only=True):
    """One webhook for one subscription."""

    id: str  # X-Shopify-Webhook-Id, the same for every retry and duplicate
    webhook: Webhook
    subscription: int


class Delivery:
    """Sends what is submitted to those who subscribe to it, until it is accepted or given up."""

    def __init__(
        self,
        world: World,
        faults: Faults,
        *,
        retry_scale: float = RETRY_SCALE,
        max_tries: int = MAX_TRIES,
        parallel: int = PARALLEL,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.delivered = 0
        self.dropped = 0
        self._world = world
        self._faults = faults
        self._retry_scale = retry_scale
        self._max_tries = max_tries
        self._slots = asyncio.Semaphore(parallel)
        self._sleep = sleep
        self._session: aiohttp.ClientSession | None = None
        self._tasks: dict[asyncio.Task[None], Pending] = {}
        self._last_success: dict[int, float] = {}  # by subscription, monotonic
        self._last_bodies: dict[tuple[int, str], bytes] = {}  # by subscription and resource

    async def open(self) -> None:
        """Get ready to send."""
        timeout = aiohttp.ClientTimeout(total=TOTAL_S, sock_connect=CONNECT_S)
        # The slots are the limit; a second one in the connector would count against the budget.
        self._session = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))

    async def close(self) -> None:
        """Give up what is under way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def submit(self, webhooks: Sequence[Webhook]) -> None:
        """Start to deliver; returns at once."""
        for webhook in webhooks:
            parcels = list(self._parcels(webhook))
            if not parcels:
                self._record(LogKind.WEBHOOK_UNWANTED, webhook, webhook.id)
            for parcel in parcels:
                self._send_off(parcel)

    def pending(self) -> list[Pending]:
        """What is not delivered yet, oldest first; a duplicate counts by itself."""
        return list(self._tasks.values())

    def _parcels(self, webhook: Webhook) -> Iterator[Parcel]:
        """One for each subscription to the topic; the first keeps the webhook's own id."""
        for each in self._world.shop(webhook.shop).subscriptions.values():
            if each.topic == webhook.topic:
                yield Parcel(id=webhook.id, webhook=webhook, subscription=each.id)
                webhook = replace(webhook, id=str(uuid.uuid5(uuid.NAMESPACE_URL, webhook.id)))

    def _send_off(self, parcel: Parcel) -> None:
        webhook, journey = parcel.webhook, self._faults.journey(parcel.webhook.shop)
        if not journey.copies:
            self._record(LogKind.WEBHOOK_LOST, webhook, parcel.id)
        if journey.copies > 1:
            self._record(LogKind.WEBHOOK_DUPLICATED, webhook, parcel.id)
        if journey.copies and journey.late_s:
            self._record(LogKind.WEBHOOK_LATE, webhook, parcel.id)
        for _ in range(journey.copies):
            task = asyncio.create_task(self._deliver(parcel, journey.delay_s))
            self._tasks[task] = Pending(id=parcel.id, shop=webhook.shop, topic=webhook.topic, tries=0)
            task.add_done_callback(self._tasks.pop)

    async def _deliver(self, parcel: Parcel, delay_s: float) -> None:
        if delay_s:
            await self._sleep(delay_s)
        webhook, shop = parcel.webhook, self._world.shop(parcel.webhook.shop)
        began = self._world.monotonic()
        body: bytes | None = None
        uri = ""
        for number in range(1, self._max_tries + 1):
            async with self._slots:
                if body is None:
                    # Rendered and addressed at the first try; a retry is the same to the same address.
                    subscription = shop.subscriptions.get(parcel.subscription)
                    body = None if subscription is None else self._body(shop, parcel, subscription)
                    if body is None or subscription is None:
                        return
                    uri = subscription.uri
                if await self._accepted(shop, parcel, uri, body):
                    self.delivered += 1
                    self._last_success[parcel.subscription] = self._world.monotonic()
                    self._record(LogKind.WEBHOOK_SENT, webhook, parcel.id, quantity=number)
                    return
            self._record(LogKind.WEBHOOK_FAILED, webhook, parcel.id, quantity=number)
            self._count_try(number)
            if number < self._max_tries:
                await self._sleep(RETRY_BASE_S * 2 ** (number - 1) * self._retry_scale)
        self._give_up(parcel, began)

    def _body(self, shop: ShopState, parcel: Parcel, subscription: Subscription) -> bytes | None:
        """What to send; None when the subscription does not want it, or has had the same."""
        webhook = parcel.webhook
        whole = body_at_send(shop, webhook)
        body = rendered(subscription, whole)
        if body is None:
            self._record(LogKind.WEBHOOK_UNWANTED, webhook, parcel.id)
            return None
        if subscription.include_fields and self._had_before(parcel, whole, body):
            self._record(LogKind.WEBHOOK_SAME, webhook, parcel.id)
            return None
        return body

    def _had_before(self, parcel: Parcel, whole: bytes, body: bytes) -> bool:
        """Whether the last body of the same resource was the same and another webhook's (facts 5.1)."""
        told = json.loads(whole)
        resource = told.get("id") or (told.get("inventory_item_id"), told.get("location_id"))
        key = (parcel.subscription, f"{resource}")
        mine = parcel.id.encode() + b" " + body
        before = self._last_bodies.get(key, b"")
        if before != mine and before.partition(b" ")[2] == body:
            return True
        self._last_bodies[key] = mine
        if len(self._last_bodies) > MAX_LAST_BODIES:
            del self._last_bodies[next(iter(self._last_bodies))]
        return False

    def _give_up(self, parcel: Parcel, began: float) -> None:
        """The last try failed; a subscription that nothing was accepted for meanwhile is gone (facts 5.1)."""
        webhook, shop = parcel.webhook, self._world.shop(parcel.webhook.shop)
        self.dropped += 1
        self._record(LogKind.WEBHOOK_DROPPED, webhook, parcel.id)
        log.warning("webhook given up", shop=webhook.shop, topic=webhook.topic, tries=self._max_tries)
        subscription = shop.subscriptions.get(parcel.subscription)
        alive = self._last_success.get(parcel.subscription, -1.0) >= began
        if subscription is not None and subscription.by_api and not alive:
            del shop.subscriptions[subscription.id]
            self._record(LogKind.SUBSCRIPTION_DELETED, webhook, str(subscription.id))
            log.warning("subscription deleted", shop=webhook.shop, topic=webhook.topic)

    def _count_try(self, number: int) -> None:
        task = asyncio.current_task()
        assert task is not None, "runs in its own task"
        before = self._tasks[task]
        self._tasks[task] = Pending(id=before.id, shop=before.shop, topic=before.topic, tries=number)

    async def _accepted(self, shop: ShopState, parcel: Parcel, uri: str, body: bytes) -> bool:
        assert self._session is not None, "opened before anything is submitted"
        subscription = shop.subscriptions.get(parcel.subscription)
        headers = webhook_headers(parcel, shop.config.webhook_secret, body)
        if subscription is not None and subscription.name:
            headers["X-Shopify-Name"] = subscription.name
        try:
            async with self._session.post(uri, data=body, headers=headers, allow_redirects=False) as response:
                await response.read()
                return 200 <= response.status < 300
        except (aiohttp.ClientError, TimeoutError):
            return False

    def _record(self, kind: LogKind, webhook: Webhook, key: str, **about: Any) -> None:
        shop = self._world.shop(webhook.shop)
        if webhook.level is not None:
            about |= {"item": webhook.level[0], "location": webhook.level[1]}
        self._world.record(kind, shop, key=key, detail=webhook.topic, **about)


def webhook_headers(parcel: Parcel, secret: str, body: bytes) -> dict[str, str]:
    """Shopify's headers with the signature of exactly these bytes."""
    webhook = parcel.webhook
    return {
        "Content-Type": "application/json",
        "X-Shopify-Topic": webhook.topic,
        "X-Shopify-Hmac-Sha256": signature(secret, body),
        "X-Shopify-Shop-Domain": webhook.shop,
        "X-Shopify-API-Version": API_VERSION,
        "X-Shopify-Webhook-Id": parcel.id,
        "X-Shopify-Event-Id": webhook.event_id,
        "X-Shopify-Triggered-At": datetime.fromtimestamp(webhook.triggered_at, UTC).isoformat(),
    }


def signature(secret: str, body: bytes) -> str:
    """``base64(HMAC-SHA256(secret, body))``."""
    return base64.b64encode(hmac.new(secret.encode(), body, hashlib.sha256).digest()).decode()


def as_facts(pending: Sequence[Pending]) -> list[dict[str, Any]]:
    """The pending webhooks as JSON-ready mappings."""
    return [{"id": p.id, "shop": p.shop, "topic": p.topic, "tries": p.tries} for p in pending]
