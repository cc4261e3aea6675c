"""Looks how much of what shops did has gone through the services, down to the writer's tables."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime

import msgspec
from aiokafka.errors import KafkaError
from msgspec import Struct

from agents.hearing import Heard
from agents.orders import WantedRead
from app.errors import BrokerUnavailable
from app.lag import LOOK_S, LagReader, NotTaken, lag_reader
from app.records import shop_of
from app.settings import Settings
from tables.catch_up import CaughtUp

TAKEN_LIMIT_S = 10.0
"""A service that gets on takes what is there within this; after it, the look ends with what is behind."""
LOOK_LIMIT_S = 12 * TAKEN_LIMIT_S
"""Of a whole look, which waits for six things: a topic that is cut off while it is read would never end."""

CAUGHT_UP = "skustream.reconcile.caught_up"
LOOKUPS = "skustream.orders.lookups"
READS = "skustream.orders.reads"
TOPICS = (CAUGHT_UP, LOOKUPS, READS)
SOURCES = {"orders": "shopify.orders", "stock": "stock.movements", "shopify": "shopify.targets"}
"""What each service takes of what shops do."""


class _Look(Struct, frozen=True, kw_only=True):
    """One look, for all shops."""

    began: float  # loop time
    behind: str = ""
    unread: Mapping[str, int] = {}  # orders that a shop has still to be asked about, by shop
    looked_until: Mapping[str, datetime | None] = {}

    def of(self, shop: str) -> Heard:
        behind = self.behind
        if not behind and self.unread.get(shop):
            behind = f"orders has still to ask the shop about {self.unread[shop]} orders"
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
            async with asyncio.timeout(LOOK_LIMIT_S), self._reader() as reader:
                return await self._heard(reader, began)
        except (NotTaken, BrokerUnavailable) as error:
            return _Look(began=began, behind=str(error))
        except TimeoutError:
            return _Look(began=began, behind=f"the services could not be looked at in {LOOK_LIMIT_S:.0f} s")
        except (KafkaError, OSError) as error:
            return _Look(began=began, behind=f"the brokers do not tell: {type(error).__name__}: {error}")

    def _reader(self) -> AbstractAsyncContextManager[LagReader]:
        return lag_reader(self._settings, SOURCES, [*SOURCES.values(), *TOPICS])

    async def _heard(self, reader: LagReader, began: float) -> _Look:
        """Follow what shops did, in the order in which it goes.

        1. The catch-up tells of orders whose webhooks were lost.
        2. The orders service takes webhooks. Those that name no order come again when theirs is found.
        3. It asks shops about orders: what a webhook leaves open, and where they are to leave from.
        4. The adjuster takes the movements.
        5. The writer takes the targets.
        """
        looked_until = await self._looked_until(reader)
        await self._taken(reader, "orders")
        unread = await self._left_open(reader, LOOKUPS)
        await self._taken(reader, "orders")
        unread += await self._left_open(reader, READS)
        await self._taken(reader, "stock")
        await self._taken(reader, "shopify")
        return _Look(began=began, unread=unread, looked_until=looked_until)

    async def _taken(self, reader: LagReader, service: str) -> None:
        await reader.wait_taken(service, SOURCES[service], self._limit_s)

    async def _looked_until(self, reader: LagReader) -> dict[str, datetime | None]:
        decode = msgspec.json.Decoder(CaughtUp).decode
        values = await reader.last_values(CAUGHT_UP)
        return {shop.decode(): decode(value).looked_until for shop, value in values.items()}

    async def _left_open(self, reader: LagReader, topic: str) -> Counter[str]:
        """Of the orders that shops have to be asked about now, those that stay so, by shop.

        In a busy shop there are always some, so each has the time to be answered that a service has. One that
        cannot be read is told of in a dead letter and waits for somebody; it holds nothing up.
        """
        end = asyncio.get_running_loop().time() + self._limit_s
        left = await self._wanted(reader, topic)
        while left and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(LOOK_S)
            left &= await self._wanted(reader, topic)
        return Counter(shop_of(key).decode() for key in left)

    async def _wanted(self, reader: LagReader, topic: str) -> set[bytes]:
        values = await reader.last_values(topic)
        return {key for key, value in values.items() if topic != READS or not _given_up(value)}


def _given_up(value: bytes) -> bool:
    return bool(msgspec.json.decode(value, type=WantedRead).misshapen)
