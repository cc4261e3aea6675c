"""Looks how much of what shops did has gone through the services, down to the writer's tables."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from datetime import datetime

import msgspec
from aiokafka.errors import KafkaError
from msgspec import Struct

from agents.hearing import Heard
from agents.orders import ROUTING, WantedRead
from app import kafka_tools
from app.errors import BrokerUnavailable
from app.lag import NotTaken, wait_taken
from app.records import shop_of
from app.settings import Settings
from tables.catch_up import CaughtUp

TAKEN_LIMIT_S = 10.0
"""A service that gets on takes what is there within this; after it, the look ends with what is behind."""

CAUGHT_UP = "skustream.reconcile.caught_up"
LOOKUPS = "skustream.orders.lookups"
READS = "skustream.orders.reads"
TOPICS = (CAUGHT_UP, LOOKUPS, READS)


class _Look(Struct, frozen=True, kw_only=True):
    """One look, for all shops."""

    began: float  # loop time
    behind: str = ""
    open_reads: Mapping[str, int] = {}  # orders that are still to be read, by shop
    looked_until: Mapping[str, datetime | None] = {}

    def of(self, shop: str) -> Heard:
        behind = self.behind
        if not behind and self.open_reads.get(shop):
            behind = f"orders has still to read {self.open_reads[shop]} orders of the shop"
        return Heard(behind=behind, looked_until=self.looked_until.get(shop))


class ServiceHearing:
    """An ``agents.hearing.Hearing`` that reads the services' positions and changelogs.

    One look at a time: those who ask while it is under way share the next one.
    """

    def __init__(self, settings: Settings, *, limit_s: float = TAKEN_LIMIT_S) -> None:
        self._settings = settings
        self._limit_s = limit_s
        self._lock = asyncio.Lock()
        self._last: _Look | None = None

    async def __call__(self, shop: str) -> Heard:
        """Look, and say what has been heard of a shop."""
        asked = asyncio.get_running_loop().time()
        async with self._lock:
            if self._last is None or self._last.began < asked:
                self._last = await self._look()
            return self._last.of(shop)

    async def _look(self) -> _Look:
        began = asyncio.get_running_loop().time()
        try:
            return await self._heard(began)
        except (NotTaken, BrokerUnavailable) as error:
            return _Look(began=began, behind=str(error))
        except (KafkaError, TimeoutError, OSError) as error:
            return _Look(began=began, behind=f"the brokers do not tell: {type(error).__name__}: {error}")

    async def _heard(self, began: float) -> _Look:
        """Follow what a shop did, in the order in which it goes.

        1. The catch-up tells of orders whose webhooks were lost.
        2. The orders service takes webhooks. Those that name no order come again when theirs is found.
        3. It reads orders of which a webhook does not say enough.
        4. The adjuster takes the movements.
        5. The writer takes the targets.
        """
        looked_until = await self._looked_until()
        await self._taken("orders", "shopify.orders")
        lookups = await self._open(LOOKUPS)
        await self._taken("orders", "shopify.orders")
        reads = await self._open(READS)
        await self._taken("stock", "stock.movements")
        await self._taken("shopify", "shopify.targets")
        return _Look(began=began, open_reads=lookups + reads, looked_until=looked_until)

    async def _looked_until(self) -> dict[str, datetime | None]:
        decode = msgspec.json.Decoder(CaughtUp).decode
        values = await kafka_tools.last_values(self._settings, CAUGHT_UP)
        return {shop.decode(): decode(value).looked_until for shop, value in values.items()}

    async def _open(self, topic: str) -> Counter[str]:
        """Orders that the shop has to be asked about before their units are known, by shop.

        Where an order is to leave from does not change how many units a shop has; and an order that cannot
        be read is told of in a dead letter, and waits for somebody.
        """
        values = await kafka_tools.last_values(self._settings, topic)
        return Counter(shop_of(key).decode() for key, value in values.items() if _holds_up(topic, value))

    async def _taken(self, service: str, source: str) -> None:
        await wait_taken(self._settings, service, source, self._limit_s)


def _holds_up(topic: str, value: bytes) -> bool:
    if topic != READS:
        return True
    wanted = msgspec.json.decode(value, type=WantedRead)
    return wanted.reason != ROUTING and not wanted.misshapen
