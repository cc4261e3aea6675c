"""The engine on real Kafka, with a toy service of its own: nothing of stock or shops."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from rocksdict import Rdict
from support.engine_service import PARTITIONS
from support.kafka_io import create_topics, read_all, wait_until
from support.workers import Worker

from app.exactly_once.partitioner import partition_of
from app.exactly_once.recovery import TOMBSTONES_KEPT_S
from app.exactly_once.store import OFFSET_KEY, VERSION_KEY
from benchmarks.load import fill

pytestmark = pytest.mark.kafka

IMPATIENT_FAUST = {"STREAM_PROCESSING_TIMEOUT": "1", "BROKER_COMMIT_INTERVAL": "0.5"}
"""Faust's own watch calls a partition stalled after a second instead of five minutes."""
STALLS = (
    "has not sent fetch",
    "stopped fetching",
    "Stream has not started",
    "Stream stopped",
    "Has not committed",
)
"""What it would say then."""


class Bench:
    """The topics of one toy service, and its workers."""

    def __init__(self, bootstrap: str, directory: Path) -> None:
        self.bootstrap = bootstrap
        self.service = f"toy{uuid.uuid4().hex[:8]}"
        self.directory = directory
        self.workers: list[Worker] = []
        internal = [f"skustream.{self.service}.{name}" for name in ("sums", "counts", "positions")]
        plain = [f"{self.service}.in", f"{self.service}.out", f"dead-letters.{self.service}"]
        asyncio.run(create_topics(bootstrap, plain, internal, PARTITIONS))

    def worker(self, **environment: str) -> Worker:
        """Start one more worker, with a data directory of its own."""
        directory = self.directory / f"worker{len(self.workers)}"
        worker = Worker(self.bootstrap, self.service, directory, **IMPATIENT_FAUST, **environment)
        self.workers.append(worker)
        return worker

    def send(self, events: list[tuple[str, bytes, int | None]]) -> None:
        """Send (key, value, partition or None for the key's own) and wait for every acknowledgement."""

        async def run() -> None:
            producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap, linger_ms=5)
            await producer.start()
            try:
                sent = []
                for key, value, partition in events:
                    to = partition_of(key.encode(), PARTITIONS) if partition is None else partition
                    sent.append(await producer.send(f"{self.service}.in", value, key.encode(), partition=to))
                await asyncio.gather(*sent)
            finally:
                await producer.stop()

        asyncio.run(run())

    def records(self, topic: str) -> list[Any]:
        """Every committed record of a topic."""
        return asyncio.run(read_all(self.bootstrap, topic, PARTITIONS))

    def outcomes(self) -> Counter[str]:
        """How often each event id came out."""
        return Counter(json.loads(record.value)["id"] for record in self.records(f"{self.service}.out"))

    def wait_outcomes(self, count: int, limit_s: float = 60) -> Counter[str]:
        """Wait until so many outcomes are committed, then return them by id."""
        wait_until(lambda: len(self.records(f"{self.service}.out")) >= count, limit_s, f"{count} outcomes")
        return self.outcomes()

    def group_lag(self) -> int:
        """How far the group's committed offsets are behind the ends of the source, as lag tools see it."""

        async def run() -> int:
            consumer = AIOKafkaConsumer(
                bootstrap_servers=self.bootstrap,
                group_id=f"skustream.{self.service}",
                enable_auto_commit=False,
                isolation_level="read_committed",
            )
            await consumer.start()
            try:
                parts = [TopicPartition(f"{self.service}.in", number) for number in range(PARTITIONS)]
                ends = await consumer.end_offsets(parts)
                return sum([ends[part] - (await consumer.committed(part) or 0) for part in parts])
            finally:
                await consumer.stop()

        return asyncio.run(run())

    def total(self) -> int:
        """The sum over the last changelog value of every key."""
        last = {
            record.key: json.loads(record.value) for record in self.records(f"skustream.{self.service}.sums")
        }
        return sum(state["total"] for state in last.values())


@pytest.fixture
def bench(kafka: str, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(kafka, tmp_path)
    try:
        yield made
        logs = "".join(worker.log.read_text() for worker in made.workers)
        assert not [stall for stall in STALLS if stall in logs], "Faust takes a lane for a stalled stream"
    finally:
        for worker in made.workers:
            worker.kill()


def event(number: int, delta: int = 1) -> bytes:
    return json.dumps({"id": f"e{number}", "delta": delta}).encode()


def stored(worker: Worker, partition: int) -> dict[bytes, bytes]:
    """What a stopped worker's store holds for a partition."""
    path = next(worker.data_dir.glob(f"*/sums/{partition}"))
    database = Rdict(str(path))
    try:
        return {key: value for key, value in database.items() if key not in (OFFSET_KEY, VERSION_KEY)}
    finally:
        database.close()


def test_a_poison_record_is_dead_lettered_with_its_origin_and_changes_nothing(bench: Bench) -> None:
    bench.send([("a", event(1), 0), ("b", b"\xff garbage", None), ("c", event(2, delta=0), None)])
    bench.worker()
    assert bench.wait_outcomes(1) == {"e1": 1}
    letters_of = f"dead-letters.{bench.service}"
    wait_until(lambda: len(bench.records(letters_of)) == 2, 20, "two dead letters")
    origins = {json.loads(record.value)["origin"].rsplit("/", 1)[0] for record in bench.records(letters_of)}
    topic = f"{bench.service}.in"
    assert origins == {f"{topic}/{partition_of(key, PARTITIONS)}" for key in (b"b", b"c")}
    assert bench.total() == 1


def test_poison_and_misrouted_records_among_others_cost_those_nothing(bench: Bench) -> None:
    keys, known = "adf", 3  # of three lanes; the first event of each is known before the others come
    numbers = range(known, 2_100)
    poison = {number for number in numbers if number % 5 == 3}
    elsewhere = {number for number in numbers if number % 7 == 2}

    def place(number: int) -> int:
        proper = partition_of(keys[number % 3].encode(), PARTITIONS)
        return (proper + (number in elsewhere)) % PARTITIONS

    bench.send([(keys[number], event(number), None) for number in range(known)])
    worker = bench.worker(FORGET="1")
    bench.wait_outcomes(known)
    worker.stop()
    bench.send([(keys[n % 3], event(n, delta=int(n not in poison)), place(n)) for n in numbers])
    worker.start()
    good = {f"e{number}": 1 for number in range(2_100) if number not in poison}
    assert bench.wait_outcomes(len(good)) == good
    letters_of = f"dead-letters.{bench.service}"
    wait_until(lambda: len(bench.records(letters_of)) >= len(poison), 20, "the dead letters")
    origins = [json.loads(letter.value)["origin"] for letter in bench.records(letters_of)]
    assert len(origins) == len(set(origins)) == len(poison)
    assert bench.total() == len(good)
    for key in keys.encode():  # each decision saw all that came before it, and nothing of the refused
        mine = [record for record in bench.records(f"{bench.service}.out") if record.key == bytes([key])]
        assert [json.loads(record.value)["sum"] for record in mine] == list(range(1, len(mine) + 1))


def test_a_record_whose_outcome_would_be_too_large_is_dead_lettered(bench: Bench) -> None:
    large = json.dumps({"id": "x" * 1_033_000, "delta": 1}).encode()
    bench.send([("a", event(1), None), ("a", large, None), ("a", event(2), None)])
    bench.worker()
    assert bench.wait_outcomes(2) == {"e1": 1, "e2": 1}
    [letter] = bench.records(f"dead-letters.{bench.service}")
    assert "its topic takes less" in json.loads(letter.value)["error"]
    assert bench.total() == 2


def test_a_misrouted_record_is_forwarded_to_the_partition_of_its_key(bench: Bench) -> None:
    wrong = (partition_of(b"a", PARTITIONS) + 1) % PARTITIONS
    bench.send([("a", event(1), None), ("a", event(2), wrong)])
    bench.worker()
    assert bench.wait_outcomes(2) == {"e1": 1, "e2": 1}
    assert {record.partition for record in bench.records(f"{bench.service}.out")} == {
        partition_of(b"a", PARTITIONS)
    }


def test_an_idle_lane_moves_past_the_markers_of_transactions(bench: Bench) -> None:
    wrong = (partition_of(b"a", PARTITIONS) + 1) % PARTITIONS
    bench.send([("a", event(1), wrong)])  # forwarded: the source topic itself gets a transaction's marker
    bench.worker()
    bench.wait_outcomes(1)
    wait_until(lambda: bench.group_lag() == 0, 30, "no lag in the group's offsets")


def test_the_groups_offsets_follow_an_idle_worker_and_are_exact_when_it_has_stopped(bench: Bench) -> None:
    worker = bench.worker()
    for first in (0, 200):
        bench.send([(f"k{n % 7}", event(n), None) for n in range(first, first + 200)])
        bench.wait_outcomes(first + 200)
    wait_until(lambda: bench.group_lag() == 0, 30, "no lag in the group's offsets")
    bench.send([(f"k{n % 7}", event(n), None) for n in range(400, 600)])
    bench.wait_outcomes(600)
    assert worker.stop() == 0
    assert bench.group_lag() == 0


def test_a_restarted_worker_goes_on_where_it_stopped_and_restores_an_empty_store(bench: Bench) -> None:
    worker = bench.worker()
    bench.send([(f"k{n % 7}", event(n), None) for n in range(500)])
    bench.wait_outcomes(500)
    assert worker.stop() == 0
    before = {partition: stored(worker, partition) for partition in range(PARTITIONS)}
    fresh = bench.worker()
    bench.send([("k0", event(500), None)])
    assert set(bench.wait_outcomes(501).values()) == {1}
    assert bench.total() == 501
    fresh.stop()
    after = {partition: stored(fresh, partition) for partition in range(PARTITIONS)}
    changed = {
        key
        for p in before
        for key in before[p].keys() | after[p].keys()
        if before[p].get(key) != after[p].get(key)
    }
    assert changed == {b"k0"}


def test_a_store_older_than_the_tombstones_is_restored_from_nothing(bench: Bench) -> None:
    first = bench.worker()
    bench.send([(f"k{n}", event(n), None) for n in range(400)])
    bench.wait_outcomes(400)
    assert first.stop() == 0
    second = bench.worker()
    bench.send([(f"k{n}", event(400 + n), None) for n in range(400)])
    bench.wait_outcomes(800)
    assert second.stop() == 0
    long_ago = time.time() - 2 * TOMBSTONES_KEPT_S
    for file in first.data_dir.rglob("*"):
        os.utime(file, (long_ago, long_ago))
    first.start()
    bench.send([("k0", event(800), None)])
    assert set(bench.wait_outcomes(801).values()) == {1}
    assert first.log.read_text().count("may have forgotten deletions") == PARTITIONS
    assert bench.total() == 801


def test_state_without_a_position_refuses_to_start_and_names_the_command(bench: Bench) -> None:
    async def leave_state() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=bench.bootstrap)
        await producer.start()
        await producer.send_and_wait(f"skustream.{bench.service}.sums", b'{"total":1}', b"a", partition=0)
        await producer.stop()

    asyncio.run(leave_state())
    worker = bench.worker()
    assert worker.process.wait(timeout=60) != 0
    assert f"skustream positions set {bench.service}" in worker.log.read_text()


def lanes(worker: Worker) -> set[int]:
    """The lanes that take records, once all that the worker owns do."""
    health = worker.health()
    return set(health["lanes"]) if health and not health["opening"] else set()


def share(*workers: Worker) -> bool:
    """Whether the workers share all lanes, each with the same number."""
    found = [lanes(worker) for worker in workers]
    each = PARTITIONS // len(workers)
    return all(len(one) == each for one in found) and set().union(*found) == set(range(PARTITIONS))


def test_a_promoted_standby_restores_only_the_tail(bench: Bench) -> None:
    first, second = bench.worker(STANDBYS="1"), bench.worker(STANDBYS="1")
    wait_until(lambda: share(first, second), 60, "two workers share the lanes")
    bench.send([(f"k{n}", event(n), None) for n in range(4_000)])
    bench.wait_outcomes(4_000)
    followed = set(range(PARTITIONS)) - lanes(second)
    wait_until(
        lambda: second.health().get("standby_lag") == {str(lane): 0 for lane in followed}, 30, "no lag"
    )
    before = second.metric("skustream_restored_records_total")
    first.kill()
    wait_until(lambda: lanes(second) == set(range(PARTITIONS)), 60, "the standby has all lanes")
    assert second.metric("skustream_restored_records_total") == before
    bench.send([(f"k{n}", event(n), None) for n in range(4_000, 5_000)])
    assert set(bench.wait_outcomes(5_000).values()) == {1}
    assert bench.total() == 5_000


def test_a_rebalance_overtakes_a_restore(bench: Bench) -> None:
    count = 400_000

    async def leave_state() -> None:
        records = ((p, (b"k%d" % n, b'{"total":1}')) for n in range(count) for p in (n % PARTITIONS,))
        await fill(bench.bootstrap, f"skustream.{bench.service}.sums", records, lambda _: None)
        positions = ((p, (b"%d" % p, b'{"offsets":{}}')) for p in range(PARTITIONS))
        await fill(bench.bootstrap, f"skustream.{bench.service}.positions", positions, lambda _: None)

    asyncio.run(leave_state())
    first = bench.worker()
    wait_until(lambda: "restoring" in first.log.read_text(), 60, "the first worker restores")
    second = bench.worker()
    wait_until(lambda: share(first, second), 60, "two workers share the lanes")
    assert first.process.poll() is None
    owned = {worker: lanes(worker) for worker in (first, second)}
    for worker in owned:
        assert worker.stop() == 0
    found = [stored(worker, partition) for worker, partitions in owned.items() for partition in partitions]
    assert sum(len(one) for one in found) == count


def test_a_static_member_that_restarts_moves_no_lane(bench: Bench) -> None:
    first, second = bench.worker(INSTANCE_ID="one"), bench.worker(INSTANCE_ID="two")
    wait_until(lambda: share(first, second), 60, "two workers share the lanes")
    had = lanes(second)
    for worker, other in ((second, first), (first, second)):
        moves = other.log.read_text().count("lanes are assigned")
        assert worker.stop() == 0
        worker.start()
        bench.send([(f"k{n}", event(n), None) for n in range(500)])
        wait_until(lambda: share(first, second), 60, "both have lanes again")
        assert other.log.read_text().count("lanes are assigned") == moves
    assert lanes(second) == had
    assert len(bench.wait_outcomes(500)) == 500


def test_a_rolling_upgrade_adds_a_field_and_a_table_without_a_stop(bench: Bench) -> None:
    workers = [bench.worker(), bench.worker()]
    wait_until(lambda: share(*workers), 60, "two workers share the lanes")
    sent = 0
    for worker in workers:
        bench.send([(f"k{n % 100}", event(n), None) for n in range(sent, sent + 2_000)])
        assert worker.stop() == 0  # its lanes go to the other one, whatever release that is
        bench.send([(f"k{n % 100}", event(n), None) for n in range(sent + 2_000, sent + 4_000)])
        sent += 4_000
        bench.wait_outcomes(sent)
        worker.start(NEXT="1")
        wait_until(lambda: share(*workers), 60, "old and new share the lanes")
        bench.send([(f"k{n % 100}", event(n), None) for n in range(sent, sent + 1_000)])
        sent += 1_000
        bench.wait_outcomes(sent)
    assert set(bench.outcomes().values()) == {1}
    assert bench.total() == sent
    last = {record.key: record.value for record in bench.records(f"skustream.{bench.service}.sums")}
    assert all(b'"last":"e' in value for value in last.values())
    counts = {record.key: record.value for record in bench.records(f"skustream.{bench.service}.counts")}
    assert counts.keys() == last.keys()
    assert all(worker.process.poll() is None for worker in workers)


def test_what_was_read_ahead_of_a_commit_is_not_used_after_it(bench: Bench) -> None:
    count, keys = 40_000, 4_000
    rng = random.Random(11)
    large = b'{"pad":"%b",' % (b"x" * 2_000)  # each chunk is a transaction, and three wait behind it

    async def leave_backlog() -> None:
        numbers = ((n, b"k%d" % rng.randrange(keys)) for n in range(count))
        records = ((partition_of(key, PARTITIONS), (key, large + event(n)[1:])) for n, key in numbers)
        await fill(bench.bootstrap, f"{bench.service}.in", records, lambda _: None)

    asyncio.run(leave_backlog())
    bench.worker(FORGET="1")
    assert set(bench.wait_outcomes(count, limit_s=120).values()) == {1}
    assert bench.total() == count


def test_every_event_counts_once_through_kills_and_pauses(bench: Bench) -> None:
    rounds, per_round = 6, 5_000
    rng = random.Random(7)
    workers = [bench.worker(), bench.worker(FORGET="1")]
    faults: list[Callable[[Worker], None]] = [Worker.kill, Worker.pause]
    for number in range(rounds):
        start = number * per_round
        bench.send([(f"k{rng.randrange(300)}", event(start + n), None) for n in range(per_round)])
        victim = workers[number % 2]
        fault = faults[number % len(faults)] if number >= rounds - 2 else Worker.kill
        fault(victim)
        bench.wait_outcomes(start + per_round, limit_s=90)
        if fault is Worker.kill:
            victim.start()
        else:
            victim.go_on()
    counted = bench.wait_outcomes(rounds * per_round)
    assert len(counted) == rounds * per_round
    assert set(counted.values()) == {1}
    assert bench.total() == rounds * per_round
