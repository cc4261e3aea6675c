"""Showing and setting the positions of a stopped service: the mend for a missing one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from app.errors import Misconfigured
from app.exactly_once.positions import Position, decode_position, positions_topic
from app.exactly_once.reading import Offsets, parts_reader, records_between

NEAR_END = 200
"""The last position of a lane is looked for among so many offsets first: a long topic need not be read."""


class Start(StrEnum):
    """Where a service shall go on reading its source topics."""

    EARLIEST = "earliest"  # at the first record that is still there: input is decided again
    LATEST = "latest"  # after the last record: input in between is skipped
    GROUP = "group"  # at the offsets that the consumer group has committed


async def show_positions(
    service: str, kafka_options: Mapping[str, Any], partitions: int
) -> dict[int, Position]:
    """The last recorded position of each lane; lanes without one are left out."""
    parts = [TopicPartition(positions_topic(service), partition) for partition in range(partitions)]
    async with parts_reader(kafka_options, parts) as consumer:
        return await last_positions(consumer, parts)


async def last_positions(consumer: AIOKafkaConsumer, parts: Sequence[TopicPartition]) -> dict[int, Position]:
    """The last recorded position in each of these partitions of a positions topic, by number."""
    begins, ends = await consumer.beginning_offsets(parts), await consumer.end_offsets(parts)
    near = {part: max(begins[part], ends[part] - NEAR_END) for part in parts}
    found = await _positions_from(consumer, near, ends)
    far = {part: begins[part] for part in parts if part.partition not in found and begins[part] < near[part]}
    return found | await _positions_from(consumer, far, ends)


async def _positions_from(consumer: AIOKafkaConsumer, starts: Offsets, ends: Offsets) -> dict[int, Position]:
    found: dict[int, Position] = {}
    async for records in records_between(consumer, starts, ends):
        found[records[-1].partition] = decode_position(records[-1].value)
    return found


async def set_positions(
    service: str,
    kafka_options: Mapping[str, Any],
    partitions: int,
    source_topics: Sequence[str],
    start: Start,
) -> dict[int, Position]:
    """Record where every lane of a stopped service shall go on; returns what was written.

    Raises:
        Misconfigured: when the service's group has members, because a running lane would be fenced.
    """
    await _refuse_running(service, kafka_options)
    known = await show_positions(service, kafka_options, partitions)
    written: dict[int, Position] = {}
    for partition in range(partitions):
        parts = [TopicPartition(topic, partition) for topic in source_topics]
        offsets = await _offsets(service, kafka_options, parts, start)
        stream_time_ms = known[partition].stream_time_ms if partition in known else 0
        written[partition] = Position(offsets=offsets, stream_time_ms=stream_time_ms)
        await _write(service, kafka_options, partition, written[partition])
    return written


async def _refuse_running(service: str, kafka_options: Mapping[str, Any]) -> None:
    admin = AIOKafkaAdminClient(**kafka_options)
    await admin.start()
    try:
        answers = await admin.describe_consumer_groups([f"skustream.{service}"])
    finally:
        await admin.close()
    members = [member for answer in answers for group in answer.groups for member in group[5]]
    if members:
        raise Misconfigured(
            f"service {service} is running: group skustream.{service} has {len(members)} members; "
            f"stop them first"
        )


async def _offsets(
    service: str, kafka_options: Mapping[str, Any], parts: list[TopicPartition], start: Start
) -> dict[str, int]:
    group = f"skustream.{service}" if start is Start.GROUP else None
    consumer = AIOKafkaConsumer(**kafka_options, group_id=group, enable_auto_commit=False)
    await consumer.start()
    try:
        consumer.assign(parts)
        begins = await consumer.beginning_offsets(parts)
        if start is Start.LATEST:
            ends = await consumer.end_offsets(parts)
            return {part.topic: ends[part] for part in parts}
        if start is Start.GROUP:
            committed = {part: await consumer.committed(part) for part in parts}
            return {part.topic: committed[part] or begins[part] for part in parts}
        return {part.topic: begins[part] for part in parts}
    finally:
        await consumer.stop()


async def _write(service: str, kafka_options: Mapping[str, Any], partition: int, position: Position) -> None:
    producer = AIOKafkaProducer(**kafka_options, transactional_id=f"{service}-{partition}", acks="all")
    await producer.start()
    try:
        async with producer.transaction():
            key, value = str(partition).encode(), msgspec.json.encode(position)
            await producer.send_and_wait(positions_topic(service), value, key, partition=partition)
    finally:
        await producer.stop()
