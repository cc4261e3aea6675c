"""What the writer believes of the listings of a shop, followed through the changelog of its table."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from tables.drift import Belief, belief_of
from tables.pushes import PushState

CHANGELOG = "skustream.shopify.pushes"
POLL_MS = 200
POLL_RECORDS = 5_000
FETCH_BYTES = 4 << 20

Reader = Callable[..., AIOKafkaConsumer]
"""Makes a ``read_committed`` consumer without a group, not started yet."""

decode_state = msgspec.json.Decoder(PushState).decode


class Beliefs:
    """The listings of one shop, as of the last ``catch_up``.

    About 500 bytes a listing; other shops of the partition are passed over undecoded.
    """

    def __init__(self, reader: Reader, shop: str, partition: int) -> None:
        self.shop = shop
        self.listings: dict[str, Belief] = {}
        self._reader = reader
        self._partition = TopicPartition(CHANGELOG, partition)
        self._prefix = f"{shop}/".encode()
        self._position = 0

    async def catch_up(self) -> set[str]:
        """Read what the writer has committed since the last time; returns the listings that it is about.

        Raises:
            KafkaError: when the brokers do not answer.
        """
        changed: set[str] = set()
        consumer = self._reader(max_partition_fetch_bytes=FETCH_BYTES)
        await consumer.start()
        try:
            consumer.assign([self._partition])
            end = (await consumer.end_offsets([self._partition]))[self._partition]
            if end < self._position:  # the topic was made anew
                changed.update(self.listings)
                self.listings.clear()
                self._position = 0
            consumer.seek(self._partition, self._position)
            while await consumer.position(self._partition) < end:
                found = await consumer.getmany(timeout_ms=POLL_MS, max_records=POLL_RECORDS)
                newest = {record.key: record for record in found.get(self._partition, ())}
                for record in newest.values():
                    self._take(record.key, record.value, record.timestamp, changed)
            self._position = await consumer.position(self._partition)
        finally:
            await consumer.stop()
        return changed

    def _take(self, key: bytes, value: bytes | None, timestamp_ms: int, changed: set[str]) -> None:
        if not key.startswith(self._prefix):
            return
        listing = key.decode()
        changed.add(listing)
        if value is None:
            self.listings.pop(listing, None)
        else:
            self.listings[listing] = belief_of(decode_state(value), timestamp_ms)
