"""How far a service is behind: the records of its sources that no transaction has taken yet."""

from __future__ import annotations

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
        total = sum(int(ends[part]) - start for part, start in behind.items())
        if total > COUNTED or not behind:
            return total
        return await _count(consumer, behind, ends)
    finally:
        await consumer.stop()


async def _count(
    consumer: AIOKafkaConsumer, behind: dict[TopicPartition, int], ends: dict[TopicPartition, int]
) -> int:
    consumer.assign(list(behind))
    for part, start in behind.items():
        consumer.seek(part, start)
    total = 0
    for _ in range(POLLS):
        for records in (await consumer.getmany(timeout_ms=POLL_MS)).values():
            total += len(records)
        if all([await consumer.position(part) >= ends[part] for part in behind]):
            break
    return total
