"""``skustream bench failover``: how long the keys of a killed, and of a stopped, worker stand still."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import psutil
from aiokafka import AIOKafkaProducer, TopicPartition

from app.errors import Retry
from app.exactly_once.partitioner import partition_of
from app.local_kafka import LocalKafka
from benchmarks.adjuster import positions
from benchmarks.load import PARTITIONS, create_topics, fill, paced, toy_event
from benchmarks.measure import Bar, reader
from benchmarks.processes import Command, broker_at, running
from benchmarks.restore import states, toy_worker

RATE = 400
READY_LIMIT_S, BACK_LIMIT_S = 60.0, 60.0
STEADY_S = 3.0
POLL_S = 0.1


class Case(NamedTuple):
    """How the workers are set up, and how one of them ends."""

    name: str
    signal: signal.Signals
    standbys: int = 0
    static: bool = False
    back: bool = False  # it is started again at once


CASES = (
    Case("killed", signal.SIGKILL),
    Case("killed_with_standby", signal.SIGKILL, standbys=1),
    Case("killed_static", signal.SIGKILL, standbys=1, static=True),
    Case("stopped", signal.SIGTERM, standbys=1),
    Case("restarted_static", signal.SIGTERM, static=True, back=True),
)


async def measure(directory: Path, records: int, bar: Bar) -> dict[str, float]:
    """For each case: the longest silence of the ended worker's lanes, and of the other's, in seconds."""
    facts: dict[str, float] = {}
    progress = bar("failover", len(CASES))
    async with broker_at(directory / "kafka") as broker:
        for case in CASES:
            facts.update(await _fail_over(case, broker, directory / case.name, records, bar))
            progress(1)
    return facts


async def _fail_over(
    case: Case, broker: LocalKafka, directory: Path, records: int, bar: Bar
) -> dict[str, float]:
    service = case.name.replace("_", "-")
    events, bootstrap = f"{service}.in", broker.bootstrap_servers
    internal = [f"skustream.{service}.states", f"skustream.{service}.positions"]
    await create_topics(bootstrap, [events, f"dead-letters.{service}", f"{service}.out"], internal)
    await fill(bootstrap, internal[0], states(records), bar(f"loading for {case.name}", records))
    await fill(bootstrap, internal[1], positions([events]), lambda _: None)
    workers = [_worker(case, service, bootstrap, events, directory, number) for number in range(2)]
    with running(workers) as processes:
        owned = await _shared(workers, case)
        silence = asyncio.create_task(_silence(bootstrap, service))
        sending = asyncio.create_task(_send(bootstrap, events))
        await asyncio.sleep(STEADY_S)
        began = time.monotonic()
        processes[0].send_signal(case.signal)
        stop_s = await asyncio.to_thread(_ended, processes[0], began)
        with running(workers[:1] if case.back else []):
            await sending
            gaps = await silence
    facts = {
        f"{case.name}_silence_s": round(max(gaps[lane] for lane in owned), 2),
        f"{case.name}_other_lanes_silence_s": round(max(gaps[p] for p in gaps.keys() - owned), 2),
    }
    if case.signal is signal.SIGTERM:
        facts[f"{case.name}_stop_s"] = round(stop_s, 2)
    return facts


def _worker(case: Case, service: str, bootstrap: str, events: str, directory: Path, number: int) -> Command:
    further = {"STANDBYS": str(case.standbys)}
    if case.static:
        further["INSTANCE_ID"] = f"worker-{number}"
    return toy_worker(service, bootstrap, events, directory / str(number), **further)


def _ended(process: psutil.Process, began: float) -> float:
    psutil.wait_procs([process], READY_LIMIT_S)
    return time.monotonic() - began


async def _shared(workers: list[Command], case: Case) -> set[int]:
    """The first worker's lanes, once the workers share them all and their standbys have arrived."""
    end = time.monotonic() + READY_LIMIT_S
    urls = [f"http://127.0.0.1:{worker.environment['WEB_PORT']}/healthz" for worker in workers]
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < end:
            found = [await _health(session, url) for url in urls]
            lanes = [set(one.get("lanes", [])) for one in found]
            lags = [lag for one in found for lag in one.get("standby_lag", {}).values()]
            ready = all(one and not one["opening"] for one in found)
            if ready and all(lanes) and (not case.standbys or (lags and not any(lags))):
                return lanes[0]
            await asyncio.sleep(POLL_S)
    raise Retry(f"{case.name}: the workers never shared the lanes")


async def _health(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    try:
        async with session.get(url) as answer:
            found: dict[str, Any] = await answer.json(content_type=None)
            return found
    except aiohttp.ClientError:
        return {}


async def _send(bootstrap: str, topic: str) -> None:
    """Events for all lanes at a steady rate, from before the end of a worker until long after it."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", linger_ms=5)
    await producer.start()
    sent: set[asyncio.Future[object]] = set()

    def send(number: int) -> None:
        key = b"SKU-%07d" % (number % 4_001)
        value = toy_event(str(number), 1)
        task = asyncio.ensure_future(
            producer.send(topic, value, key, partition=partition_of(key, PARTITIONS))
        )
        sent.add(task)
        task.add_done_callback(sent.discard)

    try:
        await paced(RATE, STEADY_S + 20.0, send)
    finally:
        await producer.stop()


async def _silence(bootstrap: str, service: str) -> dict[int, float]:
    """The longest time without a committed outcome, by partition, until every event is answered."""
    consumer = reader(bootstrap, fetch_max_wait_ms=20)
    await consumer.start()
    total, expected = 0, int(RATE * (STEADY_S + 20.0))
    last: dict[int, float] = {}
    gaps: dict[int, float] = dict.fromkeys(range(PARTITIONS), 0.0)
    end = time.monotonic() + BACK_LIMIT_S
    try:
        consumer.assign([TopicPartition(f"{service}.out", number) for number in range(PARTITIONS)])
        while total < expected:
            for part, records in (await consumer.getmany(timeout_ms=100)).items():
                now = time.monotonic()
                gaps[part.partition] = max(gaps[part.partition], now - last.get(part.partition, now))
                last[part.partition] = now
                total += len(records)
            if time.monotonic() > end:
                raise Retry(f"{service}: {total} of {expected} events answered")
        return gaps
    finally:
        await consumer.stop()
