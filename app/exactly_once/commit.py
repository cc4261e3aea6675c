"""The commit protocol: one Kafka transaction a batch, then the local stores."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import OffsetAndMetadata

from app.exactly_once.positions import Position, positions_topic
from app.exactly_once.transaction import Outgoing, Transaction

if TYPE_CHECKING:
    from app.exactly_once.lane import Lane
    from app.exactly_once.store import Table

TRANSACTION_LIMIT_S = 12.0
"""A commit slower than this has failed: below the broker's own transaction timeout of 15 s."""


async def commit(lane: Lane, transaction: Transaction, position: Position, *, tell_group: bool) -> None:
    """Make a transaction's changes durable, exactly once.

    1. Let the tables derive, and encode the changed values, once per key.
    2. Begin; send changelog records, output and the position, each to its explicit partition.
    3. Await every send: after fencing ``flush`` returns normally and only these futures raise.
    4. Send the group's offsets with ``tell_group`` (they are for lag tools), and commit.
    5. Only then write the same values and their changelog offsets to the local stores.
    6. Run the callbacks that waited for the commit.

    Raises whatever the producer raises; the caller gives the lane up and asks the group who owns it.
    """
    transaction.derive()
    changes = {table: _encoded(table, values) for table, values in transaction.changes().items()}
    transaction.settle()
    async with asyncio.timeout(TRANSACTION_LIMIT_S):
        offsets = await _commit_to_kafka(lane, transaction.out, changes, position, tell_group)
    for table, values in changes.items():
        lane.stores[table].write(values, offsets[table])
        if table in lane.recent:
            lane.recent[table].update(values)
        lane.overtake(table, values)
    for callback in transaction.callbacks:
        callback()


def _encoded(table: Table[Any], values: Mapping[bytes, Any]) -> dict[bytes, bytes | None]:
    return {key: None if value is None else table.encode(value) for key, value in values.items()}


async def _commit_to_kafka(
    lane: Lane,
    out: Iterable[Outgoing],
    changes: Mapping[Table[Any], Mapping[bytes, bytes | None]],
    position: Position,
    tell_group: bool,
) -> dict[Table[Any], int]:
    """Steps 2 to 4; returns the offset of each table's last changelog record."""
    producer = lane.producer
    await producer.begin_transaction()
    sends = _Sends(producer)
    for table, values in changes.items():
        await sends.add_all(
            (table.changelog, lane.partition, key, value, table.headers) for key, value in values.items()
        )
    await sends.add_all(out)
    key = str(lane.partition).encode()
    value = msgspec.json.encode(position)
    await sends.add_all([(positions_topic(lane.service), lane.partition, key, value, [])])
    last_offsets = await sends.close()
    if tell_group:
        group_offsets = {
            TopicPartition(topic, lane.partition): OffsetAndMetadata(offset, "")
            for topic, offset in position.offsets.items()
        }
        await producer.send_offsets_to_transaction(group_offsets, lane.group)
    await producer.commit_transaction()
    return {table: last_offsets[table.changelog, lane.partition] for table in changes}


class _Batch:
    """A producer batch being filled.

    Records go straight to its C builder: aiokafka's wrapper around that costs more than the work itself.
    """

    __slots__ = ("append", "builder", "count")

    def __init__(self, builder: BatchBuilder) -> None:
        self.builder = builder
        self.append: Callable[..., object | None] = builder._builder.append
        self.count = 0

    def closed(self) -> BatchBuilder:
        """The batch as aiokafka sends it."""
        self.builder._relative_offset = self.count
        self.builder.close()
        return self.builder


class _Sends:
    """Collects records into one producer batch per partition, and remembers every send's future."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self._producer = producer
        self._open: dict[tuple[str, int], _Batch] = {}
        self._sent: list[tuple[tuple[str, int], int, asyncio.Future[Any]]] = []

    async def add_all(self, records: Iterable[Outgoing]) -> None:
        """Append records; nothing is awaited for a record that fits into its open batch."""
        open_batches = self._open
        now_ms = int(time.time() * 1000)
        for topic, partition, key, value, headers in records:
            target = (topic, partition)
            batch = open_batches.get(target)
            if batch is None:
                batch = open_batches[target] = _Batch(self._producer.create_batch())
            if batch.append(batch.count, now_ms, key, value, headers) is None:
                await self._send(target)
                batch = open_batches[target] = _Batch(self._producer.create_batch())
                batch.append(0, now_ms, key, value, headers)
            batch.count += 1

    async def close(self) -> dict[tuple[str, int], int]:
        """Send what is left and wait for all; returns the last offset by topic and partition."""
        for target in list(self._open):
            await self._send(target)
        last: dict[tuple[str, int], int] = {}
        for target, count, future in self._sent:
            metadata = await future
            last[target] = metadata.offset + count - 1
        return last

    async def _send(self, target: tuple[str, int]) -> None:
        batch = self._open.pop(target)
        topic, partition = target
        future = await self._producer.send_batch(batch.closed(), topic, partition=partition)
        # When one send fails the others' errors are nobody's: without this each is logged with a traceback.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._sent.append((target, batch.count, future))
