"""``skustream bench engine``: the toy work by this engine, Kafka Streams, plain Faust and a bare loop."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from app.errors import Misconfigured, Retry
from app.exactly_once.partitioner import partition_of
from app.local_kafka import LocalKafka, free_port
from benchmarks.load import PARTITIONS, create_topics, fill, paced, toy_event, toy_events
from benchmarks.measure import Bar, Progress, Run, count, drain, percentile, reader, until
from benchmarks.processes import Command, broker_at, running

DRAIN_LIMIT_S = 240.0
SAMPLE_S = 60.0
"""Plain Faust would need half an hour for the backlog: it is watched for this long."""
PACED_RATE, PACED_S = 1_000, 10.0
PACED_LIMIT_S = 60.0
KAFKA_STREAMS = Path(__file__).parent / "kafka_streams"
TUNED = {"COMMIT_MS": "1000", "CACHE_BYTES": str(64 << 20), "BATCH_BYTES": str(256 << 10)}
EVENTS = "bench.events"

Say = Callable[[str], None]


class System(NamedTuple):
    """A system that can do the toy work."""

    name: str
    command: list[str]
    processes: int = 1
    group: str = "{service}"
    limit_s: float = DRAIN_LIMIT_S
    environment: dict[str, str] = {}  # noqa: RUF012  # a constant of the tuple, never changed


def systems() -> list[System]:
    """What is compared; Kafka Streams is left out where Java or Maven is missing."""
    python = [sys.executable, "-m"]
    engine = [*python, "benchmarks.toy", "worker", "-l", "warn"]
    faust = [*python, "benchmarks.plain_faust", "worker", "-l", "warn"]
    found = [
        System("engine", engine, processes=2, group="skustream.{service}"),
        System("engine_one_process", engine, group="skustream.{service}"),
        System("bare_loop", [*python, "benchmarks.bare_loop"]),
        System("plain_faust", faust, limit_s=SAMPLE_S),
    ]
    with suppress(Misconfigured):
        found.insert(2, System("kafka_streams", kafka_streams(), environment=TUNED))
    return found


def kafka_streams() -> list[str]:
    """The command of the Kafka Streams program, built when needed.

    Raises:
        Misconfigured: when Java or Maven is missing, or the build fails.
    """
    java, maven = shutil.which("java"), shutil.which("mvn")
    if java is None or maven is None:
        raise Misconfigured("Kafka Streams is left out: java and mvn are needed")
    target = KAFKA_STREAMS / "target"
    if not (target / "adjuster.jar").exists():
        built = subprocess.run(
            [maven, "-q", "-B", "-f", str(KAFKA_STREAMS / "pom.xml"), "package"],
            capture_output=True,
            text=True,
            check=False,
        )
        if built.returncode:
            raise Misconfigured(f"Kafka Streams does not build: {built.stdout[-500:]}")
    return [java, "-Xmx1g", "-cp", f"{target}/adjuster.jar:{target}/libs/*", "bench.Adjuster"]


class Started(NamedTuple):
    """A system at work."""

    service: str
    group: str
    outcomes: str
    processes: list[psutil.Process]


class Course:
    """A broker with the events in it, on which one system after the other runs."""

    def __init__(self, directory: Path, broker: LocalKafka) -> None:
        self.directory = directory
        self.bootstrap = broker.bootstrap_servers
        assert broker.process is not None
        self.broker = psutil.Process(broker.process.pid)
        self._number = 0

    async def load(self, events: int, progress: Progress) -> None:
        """Write the backlog that every system reads."""
        await create_topics(self.bootstrap, [EVENTS])
        await fill(self.bootstrap, EVENTS, toy_events(events), progress)

    async def backlog(self, system: System, events: int, progress: Progress) -> Run:
        """Let a system drain the backlog; its outcomes are counted afterwards.

        Raises:
            Retry: when it lost or doubled an outcome although it promises not to.
        """
        with await self._started(system, EVENTS) as started:
            run = await drain(
                self.bootstrap,
                started.group,
                [EVENTS],
                events,
                started.processes,
                self.broker,
                system.limit_s,
                progress,
            )
        found = await count(self.bootstrap, started.outcomes)
        if system.limit_s == DRAIN_LIMIT_S and found != events:
            raise Retry(f"{system.name}: {events} events, {found} outcomes; see {self.directory}")
        return run

    async def latency_ms(self, system: System) -> list[float]:
        """From sending an event to having its committed outcome, at a steady rate, in milliseconds."""
        topic = f"bench.paced.{system.name}"
        await create_topics(self.bootstrap, [topic])
        with await self._started(system, topic) as started:
            consumer = reader(self.bootstrap, fetch_max_wait_ms=20)
            producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap, acks="all")
            await consumer.start()
            await producer.start()
            try:
                consumer.assign([TopicPartition(started.outcomes, number) for number in range(PARTITIONS)])
                return await _latency(producer, topic, consumer)
            finally:
                await producer.stop()
                await consumer.stop()

    async def _started(self, system: System, events: str) -> AbstractContextManager[Started]:
        self._number += 1
        service = f"{system.name.replace('_', '-')}-{self._number}"
        outcomes = f"{service}.outcomes"
        plain = [outcomes, f"dead-letters.{service}"]
        own = [f"skustream.{service}.states", f"skustream.{service}.positions"]
        await create_topics(self.bootstrap, plain, [*own, f"{service}-states-changelog"])
        group = system.group.format(service=service)
        return _running(service, group, outcomes, _commands(self, system, service, events, outcomes))


@contextmanager
def _running(service: str, group: str, outcomes: str, commands: Iterable[Command]) -> Iterator[Started]:
    with running(commands) as processes:
        yield Started(service, group, outcomes, processes)


def _commands(course: Course, system: System, service: str, events: str, outcomes: str) -> Iterator[Command]:
    for number in range(system.processes):
        directory = course.directory / f"{service}-{number}"
        environment = {
            **system.environment,
            "SERVICE": service,
            "BOOTSTRAP": course.bootstrap,
            "DATA_DIR": str(directory),
            "WEB_PORT": str(free_port()),
            "EVENTS": events,
            "OUTCOMES": outcomes,
        }
        yield Command(system.command, environment, directory)


async def _latency(producer: AIOKafkaProducer, topic: str, consumer: AIOKafkaConsumer) -> list[float]:
    sent: dict[str, float] = {}
    arrived: dict[str, float] = {}
    marks = [b'"id":"', b'"']

    async def receive() -> None:
        while True:
            fetched = await consumer.getmany(timeout_ms=100)
            now = time.perf_counter()
            for records in fetched.values():
                for record in records:
                    name = record.value.split(marks[0], 1)[1].split(marks[1], 1)[0]
                    arrived.setdefault(name.decode(), now)

    receiving = asyncio.create_task(receive())
    tasks: set[asyncio.Task[object]] = set()

    def send(number: int, prefix: str = "p") -> None:
        name = f"{prefix}{number}"
        key = f"SKU-{number % 997:06}".encode()
        sent[name] = time.perf_counter()
        value = toy_event(name, -1)
        task = asyncio.ensure_future(
            producer.send(topic, value, key, partition=partition_of(key, PARTITIONS))
        )
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    try:
        for number in range(PARTITIONS * 25):
            send(number, "w")
        await until(lambda: len(arrived) >= len(sent), PACED_LIMIT_S, "the first outcomes", receiving)
        await paced(PACED_RATE, PACED_S, send)
        await until(lambda: len(arrived) >= len(sent), PACED_LIMIT_S, "all outcomes", receiving)
    finally:
        receiving.cancel()
    return [(arrived[name] - at) * 1000 for name, at in sent.items() if name.startswith("p")]


async def measure(
    directory: Path, events: int, only: tuple[str, ...], say: Say, bar: Bar
) -> dict[str, float]:
    """Run every system (or ``only`` some) and return the facts."""
    facts: dict[str, float] = {}
    async with broker_at(directory / "kafka", rebalance_delay_ms=3_000) as broker:
        course = Course(directory, broker)
        await course.load(events, bar("loading", events))
        for system in systems():
            if only and system.name not in only:
                continue
            run = await course.backlog(system, events, bar(system.name, events))
            latencies = await course.latency_ms(system)
            say(f"{system.name}: {run.events_per_s:,.0f} events/s")
            facts.update({f"{system.name}_{name}": value for name, value in run._asdict().items()})
            facts[f"{system.name}_p50_ms"] = round(percentile(latencies, 0.5), 1)
            facts[f"{system.name}_p99_ms"] = round(percentile(latencies, 0.99), 1)
    _ratios(facts)
    return facts


def _ratios(facts: dict[str, float]) -> None:
    ours, alone = facts.get("engine_events_per_s"), facts.get("engine_one_process_events_per_s")
    streams, faust = facts.get("kafka_streams_events_per_s"), facts.get("plain_faust_events_per_s")
    if ours and streams:
        facts["ratio_kafka_streams"] = round(ours / streams, 3)
        facts["ratio_cpu_kafka_streams"] = round(
            facts["engine_cpu_s_per_million"] / facts["kafka_streams_cpu_s_per_million"], 3
        )
    if alone and faust:
        facts["ratio_plain_faust"] = round(alone / faust, 1)
    for name in ("rss_mb_start", "rss_mb_end"):
        if f"engine_{name}" in facts:
            facts[name] = facts[f"engine_{name}"]
