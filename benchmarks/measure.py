"""What a system under measurement has done and used: committed offsets, CPU seconds, resident memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import psutil
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError, NotCoordinatorForGroupError

from app.errors import Retry
from benchmarks.load import PARTITIONS

Progress = Callable[[int], None]
"""Is told by how many steps something has got on."""
Bar = Callable[[str, int], Progress]
"""Makes a progress bar of a name and a total."""
POLL_S = 0.2
UNTIL_POLL_S = 0.05
WARM = 0.05
"""The share of the events after which a rate begins: what comes before is starting up."""
SETTLED = 0.25
"""The share after which memory is called warmed up."""


class Sample(NamedTuple):
    """One look at a running system."""

    at: float  # perf_counter seconds
    done: int  # events whose transaction is committed
    cpu_s: float
    broker_cpu_s: float
    rss_mb: float


class Run(NamedTuple):
    """What a drained backlog showed."""

    events: int
    seconds: float
    events_per_s: float
    cpu_s_per_million: float
    broker_cpu_s_per_million: float
    rss_mb_start: float
    rss_mb_end: float


async def committed(admin: AIOKafkaAdminClient, group: str, topics: Sequence[str]) -> int:
    """The sum of the group's committed offsets over all partitions of the topics."""
    parts = [TopicPartition(topic, number) for topic in topics for number in range(PARTITIONS)]
    try:
        offsets = await admin.list_consumer_group_offsets(group, partitions=parts)
    except (GroupCoordinatorNotAvailableError, NotCoordinatorForGroupError):
        return 0  # the first group of a broker: its topic of offsets is being made
    return sum(max(0, one.offset) for one in offsets.values())


async def drain(
    bootstrap: str,
    group: str,
    topics: Sequence[str],
    total: int,
    processes: Iterable[psutil.Process],
    broker: psutil.Process,
    limit_s: float,
    progress: Progress,
) -> Run:
    """Watch a system until it has committed ``total`` events, or for ``limit_s``.

    Raises:
        Retry: when nothing at all was committed in time, or a process ended.
    """
    watched = list(processes)
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    samples: list[Sample] = []
    end = time.perf_counter() + limit_s
    try:
        while time.perf_counter() < end:
            done = await committed(admin, group, topics)
            samples.append(_sample(done, watched, broker))
            progress(done - (samples[-2].done if len(samples) > 1 else 0))
            if done >= total:
                break
            await asyncio.sleep(POLL_S)
    finally:
        await admin.close()
    return _run(samples, min(total, samples[-1].done))


def _sample(done: int, watched: Sequence[psutil.Process], broker: psutil.Process) -> Sample:
    ended = [process.pid for process in watched if process.status() == psutil.STATUS_ZOMBIE]
    if ended:
        raise Retry(f"a measured process ended (pid {ended[0]}); see its log in the directory")
    cpu = sum(cpu_s(process) for process in watched)
    rss = sum(process.memory_info().rss for process in watched) / 1e6
    return Sample(time.perf_counter(), done, cpu, cpu_s(broker), rss)


def _run(samples: Sequence[Sample], total: int) -> Run:
    if total <= 0:
        raise Retry("nothing was committed in time")
    first = next(sample for sample in samples if sample.done >= total * WARM and sample.done > 0)
    settled = next(sample for sample in samples if sample.done >= total * SETTLED)
    last = samples[-1]
    events, seconds = last.done - first.done, last.at - first.at
    if events <= 0:
        raise Retry("the whole backlog was committed at once: too few events to measure a rate")
    return Run(
        events=last.done,
        seconds=round(seconds, 2),
        events_per_s=round(events / seconds),
        cpu_s_per_million=round((last.cpu_s - first.cpu_s) / events * 1e6, 2),
        broker_cpu_s_per_million=round((last.broker_cpu_s - first.broker_cpu_s) / events * 1e6, 2),
        rss_mb_start=round(settled.rss_mb, 1),
        rss_mb_end=round(last.rss_mb, 1),
    )


def reader(bootstrap: str, **options: Any) -> AIOKafkaConsumer:
    """A ``read_committed`` consumer without a group."""
    return AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        **options,
    )


async def count(bootstrap: str, topic: str) -> int:
    """How many committed records a topic has, read one by one."""
    consumer = reader(bootstrap, max_partition_fetch_bytes=4 << 20)
    await consumer.start()
    try:
        parts = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        consumer.assign(parts)
        ends = await consumer.end_offsets(parts)
        found = 0
        while not all([await consumer.position(part) >= ends[part] for part in parts]):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                found += len(records)
        return found
    finally:
        await consumer.stop()


def cpu_s(process: psutil.Process) -> float:
    """The CPU seconds of a process so far, user and system."""
    return sum(process.cpu_times()[:2])


async def until(condition: Callable[[], bool], limit_s: float, what: str, beside: asyncio.Task[None]) -> None:
    """Wait for a condition that a task brings about.

    Raises:
        Retry: when it does not come in time; and whatever ended the task.
    """
    end = time.perf_counter() + limit_s
    while not condition():
        if beside.done():
            beside.result()
        if time.perf_counter() > end:
            raise Retry(f"not within {limit_s:.0f} s: {what}")
        await asyncio.sleep(UNTIL_POLL_S)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
