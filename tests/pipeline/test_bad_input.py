"""Every row of the table of bad records, on the real services and real Kafka: nothing is lost or stops."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psutil
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from support import bad_records
from support.bad_records import (
    APPLIED,
    FORWARDED,
    FORWARDED_BY_EACH,
    LEDGER_RESULTS,
    READERS,
    REFUSED,
    TAKEN,
    Row,
)
from support.counted import tried
from support.kafka_io import read_all

from app.dev.supervisor import Stack
from app.exactly_once.partitioner import partition_of
from app.lag import lag_of
from app.records import DeadLetter, Outcome
from app.services import WORKERS
from app.settings import Settings

pytestmark = [pytest.mark.kafka, pytest.mark.asyncio(loop_scope="module")]
ROOT = Path(__file__).parents[2]
TABLE = bad_records.rows(uuid.uuid4().hex[:6])
UP_LIMIT_S, TAKEN_LIMIT_S = 90.0, 90.0
ROUTED_BY_SHOP = frozenset({"shopify.targets", "shopify.drift", "shopify.corrections", "shopify.controls"})


class Fates(NamedTuple):
    """Where each row was sent, and what the services made of all."""

    origins: dict[int, tuple[str, int, int]]  # by row number: topic, partition, offset
    letters: dict[tuple[str, int, int], list[DeadLetter]]
    outcomes: list[Outcome]
    records: Counter[tuple[str, int, bytes | None, bytes | None]]  # of the sources, with partition


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    settings = Settings(KAFKA_BOOTSTRAP_SERVERS=kafka)  # type: ignore[call-arg]  # pydantic reads the alias
    running = Stack(tmp_path_factory.mktemp("bad"), settings, only=tuple(WORKERS), external=kafka)
    try:
        await running.start()
        await running.wait_healthy(UP_LIMIT_S)
        yield running
    finally:
        await running.stop()


def proper_partition(row: Row, key: bytes | None, partitions: int) -> int:
    if key is None:
        return 0
    route = key.partition(b"/")[0] if row.topic in ROUTED_BY_SHOP else key
    return partition_of(route, partitions)


async def send(stack: Stack, rows: list[Row]) -> dict[int, tuple[str, int, int]]:
    producer = AIOKafkaProducer(bootstrap_servers=stack.bootstrap, acks="all", linger_ms=5)
    await producer.start()
    partitions = stack.settings.partitions
    try:
        sent: dict[int, asyncio.Future[Any]] = {}
        # What the broker refuses comes last and alone: it refuses all records of a batch for one of them.
        for number, row in sorted(enumerate(rows), key=lambda one: one[1].becomes == REFUSED):
            if row.becomes == REFUSED:
                await asyncio.wait(sent.values())
            key = row.key.encode(errors="surrogateescape") if row.key is not None else None
            to = (proper_partition(row, key, partitions) + row.wrong_partition) % partitions
            sent[number] = await producer.send(
                row.topic, row.value, key, to, row.timestamp_ms, headers=list(row.headers)
            )
        await asyncio.wait(sent.values())
        refused = {number for number, one in sent.items() if isinstance(one.exception(), KafkaError)}
        assert refused == {number for number, row in enumerate(rows) if row.becomes == REFUSED}
        answers = {number: one.result() for number, one in sent.items() if number not in refused}
        return {number: (one.topic, one.partition, one.offset) for number, one in answers.items()}
    finally:
        await producer.stop()


async def all_taken(stack: Stack) -> None:
    async with asyncio.timeout(TAKEN_LIMIT_S):
        for service, make in WORKERS.items():
            sources = make(stack.settings).source_topics
            while await lag_of(stack.settings, service, sources):
                pass


async def letters_of(stack: Stack, service: str) -> list[DeadLetter]:
    records = await read_all(stack.bootstrap, f"dead-letters.{service}", stack.settings.partitions)
    return [msgspec.json.decode(record.value, type=DeadLetter) for record in records]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fates(stack: Stack) -> Fates:
    origins = await send(stack, TABLE)
    await all_taken(stack)
    letters = [letter for service in WORKERS for letter in await letters_of(stack, service)]
    by_origin: dict[tuple[str, int, int], list[DeadLetter]] = defaultdict(list)
    for one in letters:
        by_origin[one.topic, one.partition, one.offset].append(one)
    ledger = await read_all(stack.bootstrap, "stock.ledger", stack.settings.partitions)
    sources = [
        record
        for topic in READERS
        for record in await read_all(stack.bootstrap, topic, stack.settings.partitions)
    ]
    return Fates(
        origins=origins,
        letters=by_origin,
        outcomes=[msgspec.json.decode(record.value, type=Outcome) for record in ledger],
        records=Counter((one.topic, one.partition, one.key, one.value) for one in sources),
    )


@pytest.mark.parametrize("number", range(len(TABLE)), ids=lambda n: f"{TABLE[n].topic}: {TABLE[n].what}")
async def test_each_bad_record_has_its_fate(fates: Fates, stack: Stack, number: int) -> None:
    row = TABLE[number]
    _has_its_fate(fates, stack, row, fates.origins.get(number))
    tried("bad records", f"{row.topic}: {row.what}")


def _has_its_fate(fates: Fates, stack: Stack, row: Row, origin: tuple[str, int, int] | None) -> None:
    if row.becomes == REFUSED:
        assert origin is None
        return
    assert origin is not None
    letters = fates.letters.get(origin, [])
    if row.becomes in (TAKEN, APPLIED, FORWARDED, FORWARDED_BY_EACH, *LEDGER_RESULTS):
        assert not letters
    else:
        assert sorted(one.service for one in letters) == sorted(READERS[row.topic])
        for letter in letters:
            assert letter.error == row.becomes, letter.message
            assert letter.message
    if row.becomes in (FORWARDED, FORWARDED_BY_EACH):
        key = (row.key or "").encode()
        there = row.topic, proper_partition(row, key, stack.settings.partitions), key, row.value
        assert fates.records[there] == len(READERS[row.topic])
    if row.topic == "stock.movements" and not letters:
        assert row.value is not None
        name = msgspec.json.decode(row.value)["id"]
        wanted = APPLIED if row.becomes == FORWARDED else row.becomes
        assert [str(one.result) for one in fates.outcomes if one.movement.id == name] == [wanted]


async def test_after_all_of_it_the_services_still_work(fates: Fates, stack: Stack) -> None:
    await stack.wait_healthy(UP_LIMIT_S)
    assert all(process.state.restarts == 0 for process in stack.processes.values())


async def test_the_documentation_shows_the_whole_table() -> None:
    text = (ROOT / "docs" / "bad-input.md").read_text()
    missing = sorted({row.line for row in TABLE} - set(text.splitlines()))
    assert not missing, "\n".join(missing)


@pytest.mark.parametrize(
    "count", [20_000, pytest.param(1_000_000, marks=[pytest.mark.long, pytest.mark.timeout(1200)])]
)
async def test_a_flood_of_distinct_bad_keys_costs_no_memory(stack: Stack, count: int) -> None:
    """As many dead letters, and nothing in the worker that grows with the number of keys."""
    before = len(await letters_of(stack, "stock"))
    pid = stack.processes["stock"].state.pid
    assert pid is not None
    producer = AIOKafkaProducer(bootstrap_servers=stack.bootstrap, acks="all", linger_ms=5)
    await producer.start()
    try:
        for start in range(0, count, 10_000):
            sent = []
            for number in range(start, start + 10_000):
                key = f"bad-{number:07}@flood".encode()
                to = partition_of(key, stack.settings.partitions)
                sent.append(await producer.send("stock.movements", b"garbage", key, to))
            await asyncio.gather(*sent)
            if start == 0:
                await all_taken(stack)
                warm = psutil.Process(pid).memory_info().rss
    finally:
        await producer.stop()
    await all_taken(stack)
    assert len(await letters_of(stack, "stock")) == before + count
    assert psutil.Process(pid).memory_info().rss - warm < 150 << 20
