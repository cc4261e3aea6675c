"""All of ``stock.listings`` in memory, followed as it changes: where an order line's units live."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import msgspec
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

from app.errors import UnknownSchema
from app.exactly_once import App
from app.records import Listings, check_schema

TOPIC = "stock.listings"
POLL_MS = 500

log = structlog.get_logger(__name__)


class Directory(Protocol):
    """What the follower fills (see ``tables.listings``)."""

    def put(self, key: str, listings: Listings | None) -> set[str]:
        """Take the newest value of a stock key, and say what changed by it."""


DirectoryT = TypeVar("DirectoryT", bound=Directory)


class ListingFollower(Generic[DirectoryT]):
    """Reads the topic whole before the first lane opens, and then follows it; partitions do not matter."""

    def __init__(self, app: App, directory: DirectoryT, changed: Callable[[set[str]], None]) -> None:
        """``changed`` is told what the directory says has changed."""
        self.directory = directory
        self.version = 0  # grows with each change of the directory
        self._app = app
        self._changed = changed
        self._whole = asyncio.Event()
        app.before_lanes(self._ready)

    async def _ready(self) -> None:
        self._app.background(self._follow(), "listings")
        await self._whole.wait()
        log.info("listings are read", version=self.version)

    async def _follow(self) -> None:
        consumer = AIOKafkaConsumer(
            **self._app.kafka_options, isolation_level="read_committed", enable_auto_commit=False
        )
        await consumer.start()
        try:
            parts = [TopicPartition(TOPIC, number) for number in range(self._app.partitions)]
            consumer.assign(parts)
            await consumer.seek_to_beginning(*parts)
            ends = await consumer.end_offsets(parts)
            while True:
                fetched = await consumer.getmany(timeout_ms=POLL_MS)
                self._take([record for records in fetched.values() for record in records])
                if not self._whole.is_set():
                    behind = [part for part in parts if await consumer.position(part) < ends[part]]
                    if not behind:
                        self._whole.set()
        finally:
            await consumer.stop()

    def _take(self, records: list[object]) -> None:
        refs: set[str] = set()
        for record in records:
            refs |= self._put(record)
        if refs:
            self.version += 1
            self._changed(refs)

    def _put(self, record: object) -> set[str]:
        key, value, headers = record.key, record.value, record.headers  # type: ignore[attr-defined]  # aiokafka
        try:
            check_schema(headers, Listings)
            listings = _decode(value) if value is not None else None
            return self.directory.put(key.decode(), listings)
        except _UNUSABLE as error:
            # The adjuster dead-letters the same record; here it maps nothing.
            log.warning("a record of stock.listings was ignored", key=repr(key), error=str(error))
            return set()


_decode = msgspec.json.Decoder(Listings).decode
_UNUSABLE = (UnknownSchema, msgspec.MsgspecError, UnicodeDecodeError, AttributeError, RecursionError)
"""What a record can be: of another schema, not JSON or not ours, with a key that is not text, or without
one, and nested without end.
"""
