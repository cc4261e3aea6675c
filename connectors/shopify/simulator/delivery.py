"""Webhooks on their way: signed, bounded in parallel, retried, and troubled by faults (facts 5.1)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import aiohttp
import structlog
from msgspec import Struct

from connectors.shopify.simulator.bodies import body_at_send
from connectors.shopify.simulator.faults import Faults
from connectors.shopify.simulator.graphql import API_VERSION
from connectors.shopify.simulator.model import LogKind, Webhook
from connectors.shopify.simulator.world import World

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

Sleep = Callable[[float], Awaitable[None]]


class Pending(Struct, frozen=True, kw_only=True):
    """A webhook that is not delivered yet."""

    id: str
    shop: str
    topic: str
    tries: int


class Delivery:
    """Sends what is submitted until it is accepted or given up."""

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
            delay_s = self._faults.delay_s()
            for _ in range(self._faults.copies()):
                task = asyncio.create_task(self._deliver(webhook, delay_s))
                self._tasks[task] = Pending(id=webhook.id, shop=webhook.shop, topic=webhook.topic, tries=0)
                task.add_done_callback(self._tasks.pop)

    def pending(self) -> list[Pending]:
        """What is not delivered yet, oldest first; a duplicate counts by itself."""
        return list(self._tasks.values())

    async def _deliver(self, webhook: Webhook, delay_s: float) -> None:
        if delay_s:
            await self._sleep(delay_s)
        body: bytes | None = None
        for number in range(1, self._max_tries + 1):
            async with self._slots:
                # Rendered at the first try; a retry carries the same payload.
                body = body or body_at_send(self._world.shop(webhook.shop), webhook)
                if await self._accepted(webhook, body):
                    self.delivered += 1
                    return
            self._count_try(number)
            if number < self._max_tries:
                await self._sleep(RETRY_BASE_S * 2 ** (number - 1) * self._retry_scale)
        self.dropped += 1
        shop = self._world.shop(webhook.shop)
        self._world.record(LogKind.WEBHOOK_DROPPED, shop, key=webhook.id, detail=webhook.topic)
        log.warning("webhook given up", shop=webhook.shop, topic=webhook.topic, tries=self._max_tries)

    def _count_try(self, number: int) -> None:
        task = asyncio.current_task()
        assert task is not None, "runs in its own task"
        before = self._tasks[task]
        self._tasks[task] = Pending(id=before.id, shop=before.shop, topic=before.topic, tries=number)

    async def _accepted(self, webhook: Webhook, body: bytes) -> bool:
        assert self._session is not None, "opened before anything is submitted"
        config = self._world.shop(webhook.shop).config
        try:
            async with self._session.post(
                config.webhook_url,
                data=body,
                headers=webhook_headers(webhook, config.webhook_secret, body),
                allow_redirects=False,
            ) as response:
                await response.read()
                return 200 <= response.status < 300
        except (aiohttp.ClientError, TimeoutError):
            return False


def webhook_headers(webhook: Webhook, secret: str, body: bytes) -> dict[str, str]:
    """Shopify's headers with the signature of exactly these bytes."""
    return {
        "Content-Type": "application/json",
        "X-Shopify-Topic": webhook.topic,
        "X-Shopify-Hmac-Sha256": signature(secret, body),
        "X-Shopify-Shop-Domain": webhook.shop,
        "X-Shopify-API-Version": API_VERSION,
        "X-Shopify-Webhook-Id": webhook.id,
        "X-Shopify-Event-Id": webhook.event_id,
        "X-Shopify-Triggered-At": datetime.fromtimestamp(webhook.triggered_at, UTC).isoformat(),
    }


def signature(secret: str, body: bytes) -> str:
    """``base64(HMAC-SHA256(secret, body))``."""
    return base64.b64encode(hmac.new(secret.encode(), body, hashlib.sha256).digest()).decode()


def as_facts(pending: Sequence[Pending]) -> list[dict[str, Any]]:
    """The pending webhooks as JSON-ready mappings."""
    return [{"id": p.id, "shop": p.shop, "topic": p.topic, "tries": p.tries} for p in pending]
