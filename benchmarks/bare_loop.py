"""The toy work as a bare aiokafka loop: transactions, but no group, no store, no restore and no fencing.

An upper bound for Python on this machine. Environment: SERVICE, BOOTSTRAP, EVENTS, OUTCOMES, RECORDS.
"""

from __future__ import annotations

import asyncio
import os

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.structs import OffsetAndMetadata

from benchmarks.load import PARTITIONS
from benchmarks.toy import Event, Outcome, State

BATCH_BYTES = 1 << 20
RECORDS = int(os.environ.get("RECORDS", "5000"))
BOOTSTRAP = os.environ.get("BOOTSTRAP", "127.0.0.1:9092")
SERVICE = os.environ.get("SERVICE", "bare")
decode = msgspec.json.Decoder(Event).decode
encode = msgspec.json.Encoder().encode


async def _partition(number: int) -> None:
    source = TopicPartition(os.environ["EVENTS"], number)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=BOOTSTRAP,
        enable_auto_commit=False,
        isolation_level="read_committed",
        max_partition_fetch_bytes=4 << 20,
        fetch_max_wait_ms=20,
    )
    producer = AIOKafkaProducer(
        bootstrap_servers=BOOTSTRAP,
        transactional_id=f"{SERVICE}-{number}",
        max_batch_size=BATCH_BYTES,
        compression_type="lz4",
        retry_backoff_ms=5,
    )
    await consumer.start()
    await producer.start()
    consumer.assign([source])
    await consumer.seek_to_beginning()
    states: dict[bytes, State] = {}
    while True:
        fetched = await consumer.getmany(timeout_ms=1000, max_records=RECORDS)
        records = fetched.get(source, [])
        if not records:
            continue
        changelog: list[tuple[bytes, bytes]] = []
        out: list[tuple[bytes, bytes]] = []
        touched: dict[bytes, State] = {}
        for record in records:
            event = decode(record.value)
            state = states.setdefault(record.key, State())
            state.on += event.delta
            state.v += 1
            touched[record.key] = state
            out.append((record.key, encode(Outcome(event.id, state.on, state.v))))
        changelog = [(key, encode(state)) for key, state in touched.items()]
        async with producer.transaction():
            await _send(producer, f"skustream.{SERVICE}.states", number, changelog)
            await _send(producer, os.environ["OUTCOMES"], number, out)
            offset = OffsetAndMetadata(records[-1].offset + 1, "")
            await producer.send_offsets_to_transaction({source: offset}, SERVICE)


async def _send(
    producer: AIOKafkaProducer, topic: str, partition: int, records: list[tuple[bytes, bytes]]
) -> None:
    batch = producer.create_batch()
    for key, value in records:
        if batch.append(key=key, value=value, timestamp=None) is None:
            await producer.send_batch(batch, topic, partition=partition)
            batch = producer.create_batch()
            batch.append(key=key, value=value, timestamp=None)
    await producer.send_batch(batch, topic, partition=partition)


async def _main() -> None:
    await asyncio.gather(*(_partition(number) for number in range(PARTITIONS)))


if __name__ == "__main__":
    asyncio.run(_main())
