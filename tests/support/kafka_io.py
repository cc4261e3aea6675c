"""Reading and writing whole topics, and waiting on conditions."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

POLL_S = 0.1


def wait_until(condition: Callable[[], object], limit_s: float, what: str) -> None:
    """Return when ``condition`` holds; fail, naming ``what``, when it does not within the limit."""
    pause = threading.Event()
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"not within {limit_s} s: {what}"
        pause.wait(POLL_S)


def without_broker() -> dict[str, str]:
    """The environment of a command that shall start a broker of its own, which it may kill."""
    return {name: value for name, value in os.environ.items() if name != "KAFKA_BOOTSTRAP_SERVERS"}


async def create_topics(
    bootstrap: str, plain: Iterable[str], compacted: Iterable[str], partitions: int
) -> None:
    """Create topics with one replica."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        compact = {"cleanup.policy": "compact"}
        topics = [NewTopic(name, partitions, 1) for name in plain]
        topics += [NewTopic(name, partitions, 1, topic_configs=compact) for name in compacted]
        await admin.create_topics(topics)
    finally:
        await admin.close()


async def read_all(bootstrap: str, topic: str, partitions: int) -> list[Any]:
    """Every committed record of a topic, in offset order by partition."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, isolation_level="read_committed", enable_auto_commit=False
    )
    await consumer.start()
    try:
        parts = [TopicPartition(topic, number) for number in range(partitions)]
        consumer.assign(parts)
        await consumer.seek_to_beginning(*parts)
        ends = await consumer.end_offsets(parts)
        records: list[Any] = []
        while True:
            for fetched in (await consumer.getmany(timeout_ms=200)).values():
                records.extend(fetched)
            if all([await consumer.position(part) >= ends[part] for part in parts]):
                return records
    finally:
        await consumer.stop()
