"""A lane: one partition number of a service, its fenced producer, its stores and its one order of events."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import structlog
from aiokafka import AIOKafkaProducer, TopicPartition

from app.errors import Bug, LaneLost, Misconfigured, Stale
from app.exactly_once import metrics
from app.exactly_once.commit import commit
from app.exactly_once.partitioner import partition_of
from app.exactly_once.positions import Position
from app.exactly_once.store import PartitionStore, Table
from app.exactly_once.transaction import Outgoing, SourceRecord, Transaction
from app.exactly_once.transport import Batch

if TYPE_CHECKING:
    from app.exactly_once.app import App

T = TypeVar("T")
Decide = Callable[[Transaction, SourceRecord], None]

log = structlog.get_logger(__name__)

TRANSACTION_TIMEOUT_MS = 15_000
"""An open transaction of a dead worker holds back every read_committed reader; this bounds it."""
RETRY_BACKOFF_MS = 5
"""The broker answers CONCURRENT_TRANSACTIONS while the last markers are written; 100 ms doubles the p99."""
PRODUCER_BATCH_BYTES = 1 << 20
PRODUCER_REQUEST_BYTES = 9 << 20
"""Webhook records may have 8 MiB."""
WAITING_BATCHES = 2
"""Batches a lane takes ahead of the one it commits; the consumer fetches no more until there is room."""
RECORDS_A_TRANSACTION = 5_000
"""Bounds a transaction's time and memory when many batches wait."""
STOP_LIMIT_S = 3.0
"""How long a stop waits for the open transaction before it is abandoned to be fenced."""


class _Work(NamedTuple):
    """A small batch of its own: a timer, a pump's result, an operator's request."""

    run: Callable[[Transaction], Any]
    done: asyncio.Future[Any]


class _Source(NamedTuple):
    batch: Batch
    decide: Decide


class Lane:
    """Owns partition ``partition`` of every source topic and table of the service.

    Life: ``fence`` (inside the rebalance), ``open_stores``, restore, ``begin``, then jobs until ``stop``.
    """

    def __init__(self, app: App, partition: int, epoch: int) -> None:
        self.app = app
        self.service = app.service
        self.group: str = app.conf.id
        self.partition = partition
        self.partitions = app.partitions
        self.epoch = epoch
        self.stores: dict[Table[Any], PartitionStore] = {}
        self.position = Position()
        self.failed: Exception | None = None
        self.producer: AIOKafkaProducer
        self._jobs: deque[_Source | _Work] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def full(self) -> bool:
        """Whether the consumer should fetch nothing more for this lane yet."""
        return sum(isinstance(job, _Source) for job in self._jobs) >= WAITING_BATCHES

    async def fence(self) -> None:
        """Start the transactional producer: any older owner is fenced, its open transaction ended."""
        self.producer = AIOKafkaProducer(
            **self.app.kafka_options,
            transactional_id=f"{self.service}-{self.partition}",
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
            acks="all",
            compression_type="lz4",
            max_batch_size=PRODUCER_BATCH_BYTES,
            max_request_size=PRODUCER_REQUEST_BYTES,
            retry_backoff_ms=RETRY_BACKOFF_MS,
        )
        await self.producer.start()
        metrics.FENCES.labels(self.service).inc()

    def open_stores(self) -> None:
        """Open the stores of every table, for the restore."""
        for table in self.app.state_tables:
            self.stores[table] = self.app.open_store(table, self.partition)

    def begin(self, position: Position) -> None:
        """Take jobs from now on, starting at ``position``."""
        self.position = position
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"lane-{self.partition}")

    def offer(self, batch: Batch, decide: Decide) -> None:
        """Queue a fetched batch; one fetched for a former lane is dropped (it will be fetched again)."""
        if batch.epoch == self.epoch and self.failed is None and not self._stopping:
            self._jobs.append(_Source(batch, decide))
            self._wake.set()

    async def submit(self, work: Callable[[Transaction], T]) -> T:
        """Run ``work`` in the lane's order, in a transaction; returns its result after the commit.

        Raises:
            LaneLost: when the lane goes away first; nothing was committed as far as this worker knows.
        """
        if self.failed is not None or self._stopping:
            raise LaneLost(f"lane {self.service}-{self.partition} is closed")
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.append(_Work(work, done))
        self._wake.set()
        return await done

    def scan(self, table: Table[T]) -> Iterator[tuple[bytes, T]]:
        """Every committed key and value of a table in this lane, in key order."""
        return ((key, table.decode(value)) for key, value in self.stores[table].scan())

    async def stop(self) -> None:
        """Finish the open transaction if it can be done soon, then give everything back."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=STOP_LIMIT_S)
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=STOP_LIMIT_S)
        self._refuse_waiting()
        await self._stop_producer()
        for store in self.stores.values():
            store.close()
        self.stores.clear()

    async def _stop_producer(self) -> None:
        if not hasattr(self, "producer"):
            return
        try:
            await asyncio.wait_for(self.producer.stop(), STOP_LIMIT_S)
        except Exception as error:  # the producer may be fenced or its broker gone; it is dropped either way
            log.warning("the lane's producer did not stop cleanly", lane=self.partition, error=repr(error))

    def _refuse_waiting(self) -> None:
        for job in self._jobs:
            if isinstance(job, _Work) and not job.done.done():
                job.done.set_exception(LaneLost(f"lane {self.service}-{self.partition} is closed"))
        self._jobs.clear()

    async def _run(self) -> None:
        while not self._stopping:
            if not self._jobs:
                self._wake.clear()
                await self._wake.wait()
                continue
            jobs = self._take()
            try:
                await self._perform(jobs)
            except Exception as error:  # the one place that catches everything
                self._fail(error, jobs)
                return

    def _take(self) -> list[_Source | _Work]:
        """The waiting jobs that fit into one transaction: what is there, never waiting to fill."""
        jobs: list[_Source | _Work] = []
        records = 0
        while self._jobs and records < RECORDS_A_TRANSACTION:
            job = self._jobs.popleft()
            jobs.append(job)
            records += len(job.batch.records) if isinstance(job, _Source) else 1
        self.app.room_made()
        return jobs

    async def _perform(self, jobs: list[_Source | _Work]) -> None:
        started = time.perf_counter()
        now_ms = int(time.time() * 1000)
        transaction = Transaction(self, now_ms, self.position.stream_time_ms)
        offsets = dict(self.position.offsets)
        answers: list[tuple[asyncio.Future[Any], Any]] = []
        for job in jobs:
            if isinstance(job, _Work):
                answers.append((job.done, self._do_work(transaction, job)))
            else:
                self._decide_batch(transaction, job, offsets)
        position = Position(offsets=offsets, stream_time_ms=transaction.stream_time_ms)
        if transaction.dirty or transaction.out or position != self.position:
            await commit(self, transaction, position)
        else:
            for callback in transaction.callbacks:
                callback()
        self.position = position
        _answer(answers)
        metrics.TRANSACTION_SECONDS.labels(self.service).observe(time.perf_counter() - started)

    def _do_work(self, transaction: Transaction, job: _Work) -> Any:
        try:
            result = job.run(transaction)
        except (Bug, Stale):
            raise
        except Exception as error:  # the caller's own error: it gets it back, the batch goes on
            transaction.drop()
            return error
        transaction.keep()
        return result

    def _decide_batch(self, transaction: Transaction, job: _Source, offsets: dict[str, int]) -> None:
        batch = job.batch
        records = self._continuous(batch, offsets.get(batch.topic))
        route = self.app.route_of(batch.topic)
        for record in records:
            if self._forwarded(transaction, record, route):
                continue
            transaction.stream_time_ms = max(
                transaction.stream_time_ms, min(record.timestamp, transaction.now_ms)
            )
            try:
                job.decide(transaction, record)
            except (Bug, Stale, Misconfigured):
                raise
            except Exception as error:  # a poison record: only its own changes go, with its origin kept
                transaction.drop()
                self._dead_letter(transaction, record, error)
            transaction.keep()
        if records:
            offsets[batch.topic] = records[-1].offset + 1
            metrics.RECORDS.labels(self.service, batch.topic).inc(len(records))

    def _continuous(self, batch: Batch, expected: int | None) -> list[SourceRecord]:
        """The batch's records that are not committed yet.

        Raises:
            Stale: when the batch begins beyond the lane's position, so that something was dropped on the way.
        """
        if expected is None:
            return batch.records
        if batch.fetched_from is not None and batch.fetched_from > expected:
            raise Stale(
                f"gap in {batch.topic}/{batch.partition}: "
                f"expected {expected}, fetched from {batch.fetched_from}"
            )
        return [record for record in batch.records if record.offset >= expected]

    def _forwarded(
        self, transaction: Transaction, record: SourceRecord, route: Callable[[bytes], bytes] | None
    ) -> bool:
        """Send a record whose key belongs to another partition there; other clients partition otherwise."""
        if record.key is None:
            return False
        proper = partition_of(route(record.key) if route else record.key, self.partitions)
        if proper == record.partition:
            return False
        transaction.out.append(Outgoing(record.topic, proper, record.key, record.value, record.headers))
        transaction.keep()
        self.app.note_misrouted(record, proper)
        return True

    def _dead_letter(self, transaction: Transaction, record: SourceRecord, error: Exception) -> None:
        letter = self.app.dead_letter(record, error, transaction.now_ms)
        transaction.out.append(
            Outgoing(f"dead-letters.{self.service}", self.partition, record.key, letter.value, letter.headers)
        )
        metrics.DEAD_LETTERS.labels(self.service, record.topic, type(error).__name__).inc()
        log.warning(
            "a record was dead-lettered",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            error=f"{type(error).__name__}: {error}",
        )

    def _fail(self, error: Exception, jobs: list[_Source | _Work]) -> None:
        self.failed = error
        self._jobs.extendleft(job for job in jobs if isinstance(job, _Work))
        self._refuse_waiting()
        metrics.LANE_FAILURES.labels(self.service, type(error).__name__).inc()
        self.app.lane_failed(self, error)

    def source_positions(self) -> dict[TopicPartition, int]:
        """The next offset of each source partition."""
        return {
            TopicPartition(topic, self.partition): offset for topic, offset in self.position.offsets.items()
        }


def _answer(answers: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for done, result in answers:
        if done.done():
            continue
        if isinstance(result, Exception):
            done.set_exception(result)
        else:
            done.set_result(result)
