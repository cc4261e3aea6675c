"""Putting events into a topic: as fast as possible, or at a steady rate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from random import Random

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from app.exactly_once.partitioner import partition_of

PARTITIONS = 4
KEYS = 40_000
BATCH_BYTES = 1 << 18
UNDER_WAY = 64
"""Batches that may wait for their acknowledgement."""
TICK_S = 0.01
Record = tuple[bytes, bytes | None]


async def create_topics(bootstrap: str, plain: Iterable[str], compacted: Iterable[str] = ()) -> None:
    """Create topics with one replica."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        compact = {"cleanup.policy": "compact"}
        topics = [NewTopic(name, PARTITIONS, 1) for name in plain]
        topics += [NewTopic(name, PARTITIONS, 1, topic_configs=compact) for name in compacted]
        await admin.create_topics(topics)
    finally:
        await admin.close()


def toy_events(count: int, seed: int = 1) -> Iterable[tuple[int, Record]]:
    """Events of the toy work and their partitions: keys at random, every partition its own share."""
    random = Random(seed)
    keys = [f"SKU-{number:06}".encode() for number in range(KEYS)]
    parted = [(key, partition_of(key, PARTITIONS)) for key in keys]
    for number in range(count):
        key, partition = parted[random.randrange(KEYS)]
        yield partition, (key, toy_event(str(number), -1 if number % 3 else 2))


def toy_event(name: str, delta: int) -> bytes:
    """One event of the toy work."""
    return b'{"id":"%s","delta":%d,"kind":"sold","ts":1764000000.25}' % (name.encode(), delta)


async def fill(
    bootstrap: str,
    topic: str,
    records: Iterable[tuple[int, Record]],
    progress: Callable[[int], None],
    timestamp_ms: int | None = None,
) -> None:
    """Write records to their partitions as fast as possible; ``progress`` is told how many.

    They are of ``timestamp_ms`` (epoch), or of now.
    """
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", max_batch_size=BATCH_BYTES, compression_type="lz4"
    )
    await producer.start()
    slots = asyncio.Semaphore(UNDER_WAY)
    sent: set[asyncio.Future[object]] = set()

    async def send(partition: int) -> None:
        batch = batches[partition]
        batches[partition] = producer.create_batch()
        await slots.acquire()
        future = await producer.send_batch(batch, topic, partition=partition)
        sent.add(future)
        future.add_done_callback(lambda _: slots.release())
        progress(batch.record_count())

    batches = {partition: producer.create_batch() for partition in range(PARTITIONS)}
    try:
        for partition, (key, value) in records:
            if batches[partition].append(key=key, value=value, timestamp=timestamp_ms) is None:
                await send(partition)
                batches[partition].append(key=key, value=value, timestamp=timestamp_ms)
        for partition, batch in list(batches.items()):
            if batch.record_count():
                await send(partition)
        await asyncio.gather(*sent)
    finally:
        await producer.stop()


async def paced(rate: int, seconds: float, send: Callable[[int], None]) -> None:
    """Call ``send`` with 0, 1, 2 … at ``rate`` a second; what is late is caught up at once."""
    started = time.perf_counter()
    number = 0
    while number < rate * seconds:
        due = min(int((time.perf_counter() - started) * rate) + 1, int(rate * seconds))
        while number < due:
            send(number)
            number += 1
        await asyncio.sleep(TICK_S)
