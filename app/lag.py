"""How far a service is behind: the records of its sources that no transaction has taken yet."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence

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


class NotTaken(Retry):
    """A service has not taken its input in time; it may be away, or far behind."""


async def lag_of(settings: Settings, service: str, sources: Sequence[str]) -> int:
    """Records that the service has not taken, over all its lanes."""
    return sum((await lane_lags(settings, service, sources)).values())


async def lane_lags(settings: Settings, service: str, sources: Sequence[str]) -> dict[int, int]:
    """Records that the service has not taken, by lane."""
    positions = await show_positions(service, settings.kafka_options(), settings.partitions)
    consumer = AIOKafkaConsumer(
        **settings.kafka_options(), isolation_level="read_committed", enable_auto_commit=False
    )
    await consumer.start()
    try:
        parts = [TopicPartition(topic, number) for topic in sources for number in range(settings.partitions)]
        begins, ends = await consumer.beginning_offsets(parts), await consumer.end_offsets(parts)
        behind: dict[TopicPartition, int] = {}
        for part in parts:
            position = positions.get(part.partition)
            start = position.offsets.get(part.topic) if position is not None else None
            start = max(begins[part], start or 0)
            if ends[part] > start:
                behind[part] = start
        offsets = Counter(dict.fromkeys(range(settings.partitions), 0))
        for part, start in behind.items():
            offsets[part.partition] += int(ends[part]) - start
        if offsets.total() <= COUNTED and behind:
            counted = await _count(consumer, behind, ends)
            return {lane: counted[lane] for lane in range(settings.partitions)}
        return dict(offsets)
    finally:
        await consumer.stop()


async def wait_taken(
    settings: Settings, service: str, source: str, limit_s: float, *, sleep: Sleep = asyncio.sleep
) -> None:
    """Return when a service has taken all that is in a source now, whatever comes after.

    Raises:
        NotTaken: naming the service and what it has left after the limit.
    """
    ends = await _ends(settings, source)
    waited_s = 0.0
    while behind := await _behind(settings, service, source, ends):
        if waited_s >= limit_s:
            raise NotTaken(
                f"{service} has not taken {behind} records of {source} in {limit_s:.0f} s: is it up?"
            )
        await sleep(LOOK_S)
        waited_s += LOOK_S


async def _ends(settings: Settings, topic: str) -> dict[int, int]:
    """The end of what is committed in each partition."""
    consumer = AIOKafkaConsumer(
        **settings.kafka_options(), isolation_level="read_committed", enable_auto_commit=False
    )
    await consumer.start()
    try:
        parts = [TopicPartition(topic, number) for number in range(settings.partitions)]
        return {part.partition: end for part, end in (await consumer.end_offsets(parts)).items()}
    finally:
        await consumer.stop()


async def _behind(settings: Settings, service: str, source: str, ends: Mapping[int, int]) -> int:
    positions = await show_positions(service, settings.kafka_options(), settings.partitions)
    taken = {lane: position.offsets.get(source, 0) for lane, position in positions.items()}
    return sum(max(0, end - taken.get(lane, 0)) for lane, end in ends.items())


async def _count(
    consumer: AIOKafkaConsumer, behind: dict[TopicPartition, int], ends: dict[TopicPartition, int]
) -> Counter[int]:
    """Records between those offsets, by lane."""
    consumer.assign(list(behind))
    for part, start in behind.items():
        consumer.seek(part, start)
    total: Counter[int] = Counter()
    for _ in range(POLLS):
        for part, records in (await consumer.getmany(timeout_ms=POLL_MS)).items():
            total[part.partition] += len(records)
        if all([await consumer.position(part) >= ends[part] for part in behind]):
            break
    return total
