"""Reading parts of topics with one consumer, which is assigned to all of them once.

Each other assignment costs a consumer about two seconds, until it knows where the new partitions are.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

POLL_MS = 200
FETCH_WAIT_MS = 20
"""How long a broker may wait for what is not there yet: meanwhile nothing else is asked of it."""

Offsets = Mapping[TopicPartition, int]


@asynccontextmanager
async def parts_reader(
    kafka_options: Mapping[str, Any], parts: Iterable[TopicPartition], *, committed: bool = True
) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer without a group that can read these partitions and fetches nothing by itself."""
    level = "read_committed" if committed else "read_uncommitted"
    consumer = AIOKafkaConsumer(
        **kafka_options, isolation_level=level, enable_auto_commit=False, fetch_max_wait_ms=FETCH_WAIT_MS
    )
    try:
        await consumer.start()
        consumer.assign(list(parts))
        consumer.pause(*parts)
        yield consumer
    finally:
        await consumer.stop()


async def records_between(
    consumer: AIOKafkaConsumer, starts: Offsets, ends: Offsets, *, polls: int | None = None
) -> AsyncGenerator[list[Any], None]:
    """The records from ``starts`` until every partition is past its end, batch by batch.

    Some may lie behind that end. ``polls``: look at most so often for more. How far it has come is the
    consumer's position.
    """
    for part, start in starts.items():
        consumer.seek(part, start)
    consumer.resume(*starts)
    try:
        while not all([await consumer.position(part) >= ends[part] for part in starts]):
            if polls is not None and (polls := polls - 1) < 0:
                return
            for records in (await consumer.getmany(*starts, timeout_ms=POLL_MS)).values():
                yield records
    finally:
        consumer.pause(*starts)
