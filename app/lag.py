"""How far a service is behind: the records of its sources that no transaction has taken yet."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, TopicPartition

from app.errors import Retry
from app.exactly_once.set_positions import show_positions
from app.settings import Settings

COUNTED = 200
"""Up to this many offsets are looked at one by one: the marker of a transaction takes one."""
POLL_MS = 200
POLLS = 10
LOOK_S = 0.5

Sleep = Callable[[float], Awaitable[None]]
Ends = Mapping[TopicPartition, int]


class NotTaken(Retry):
    """A service has not taken its input in time; it may be away, or far behind."""


async def lag_of(settings: Settings, service: str, sources: Sequence[str]) -> int:
    """Records that the service has not taken, over all its lanes."""
    return sum((await lane_lags(settings, service, sources)).values())


async def lane_lags(settings: Settings, service: str, sources: Sequence[str]) -> dict[int, int]:
    """Records that the service has not taken, by lane."""
    async with _reader(settings) as consumer:
        return await _lags(settings, service, consumer, await _ends(settings, consumer, sources))


async def wait_taken(
    settings: Settings, service: str, source: str, limit_s: float, *, sleep: Sleep = asyncio.sleep
) -> None:
    """Return when a service has taken all that is in a source now, whatever comes after.

    Raises:
        NotTaken: naming the service and what it has left after the limit.
    """
    async with _reader(settings) as consumer:
        ends = await _ends(settings, consumer, [source])
        waited_s = 0.0
        while behind := sum((await _lags(settings, service, consumer, ends)).values()):
            if waited_s >= limit_s:
                raise NotTaken(
                    f"{service} has not taken {behind} records of {source} in {limit_s:.0f} s: is it up?"
                )
            await sleep(LOOK_S)
            waited_s += LOOK_S


@asynccontextmanager
async def _reader(settings: Settings) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(
        **settings.kafka_options(), isolation_level="read_committed", enable_auto_commit=False
    )
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


async def _ends(settings: Settings, consumer: AIOKafkaConsumer, topics: Sequence[str]) -> Ends:
    """The end of what is committed in each partition."""
    parts = [TopicPartition(topic, number) for topic in topics for number in range(settings.partitions)]
    return dict(await consumer.end_offsets(parts))


async def _lags(settings: Settings, service: str, consumer: AIOKafkaConsumer, ends: Ends) -> dict[int, int]:
    """Records before ``ends`` that the service has not taken, by lane."""
    positions = await show_positions(service, settings.kafka_options(), settings.partitions)
    begins = await consumer.beginning_offsets(list(ends))
    behind: dict[TopicPartition, int] = {}
    for part, end in ends.items():
        position = positions.get(part.partition)
        start = position.offsets.get(part.topic) if position is not None else None
        start = max(begins[part], start or 0)
        if end > start:
            behind[part] = start
    offsets = Counter(dict.fromkeys(range(settings.partitions), 0))
    for part, start in behind.items():
        offsets[part.partition] += ends[part] - start
    if offsets.total() <= COUNTED and behind:
        counted = await _count(consumer, behind, ends)
        return {lane: counted[lane] for lane in range(settings.partitions)}
    return dict(offsets)


async def _count(
    consumer: AIOKafkaConsumer, behind: Mapping[TopicPartition, int], ends: Ends
) -> Counter[int]:
    """Records between those offsets, by lane; what cannot be looked at in time counts as records."""
    consumer.assign(list(behind))
    for part, start in behind.items():
        consumer.seek(part, start)
    total: Counter[int] = Counter()
    left = dict(behind)
    for _ in range(POLLS):
        for part, records in (await consumer.getmany(timeout_ms=POLL_MS)).items():
            total[part.partition] += sum(record.offset < ends[part] for record in records)
        left = {part: at for part in behind if (at := await consumer.position(part)) < ends[part]}
        if not left:
            break
    for part, at in left.items():
        total[part.partition] += ends[part] - at
    return total
