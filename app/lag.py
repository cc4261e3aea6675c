"""How far a service is behind: the records of its sources that no transaction has taken yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition

from app.exactly_once.set_positions import show_positions
from app.settings import Settings

COUNTED = 200
"""Up to this many offsets are looked at one by one: the marker of a transaction takes one."""
POLL_MS = 200
POLLS = 10


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
