"""A lane: one partition number of a service, its fenced producer, its stores and its one order of events."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import structlog
from aiokafka import AIOKafkaProducer, TopicPartition

from app.errors import Bug, LaneLost, Misconfigured, Stale
from app.exactly_once import metrics
from app.exactly_once.ahead import ReadAhead
from app.exactly_once.commit import commit
from app.exactly_once.partitioner import partition_of
from app.exactly_once.positions import Position
from app.exactly_once.store import RECENT_BYTES, PartitionStore, RecentValues, Table
from app.exactly_once.transaction import SourceRecord, Transaction
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
CHUNK_RECORDS = 1_000
"""Records decided at a stretch: the loop serves the other lanes' sockets in between."""
OWN_KEYS, OWN_KEY_BYTES = 1 << 16, 100
"""Keys of a topic that the lanes of a process together remember to be theirs: hashing one takes 1.4 µs."""
AHEAD_RECORDS = 200
"""A chunk of fewer records is decided sooner than read ahead."""
WAITING_RECORDS, ALL_WAITING_RECORDS = 4_000, 16_000
WAITING_BYTES = 32 << 20
"""With this much waiting a lane is full: the consumer fetches no more for it until there is room. The bytes
are not those of what is read ahead for records, so the records of all lanes of a process are bounded as well.
"""
TRANSACTION_RECORDS = 40_000
TRANSACTION_BYTES = 6 << 20
TRANSACTION_DECIDE_S = 1.0
"""What bounds a transaction under backlog; without one it takes what is there and never waits to fill.

The bytes, waiting and in transactions (in and out), are for all lanes of a process together: what they decode
to takes several times as much, and each lane has two transactions in hand.
"""
BACKLOG_RECORDS = 5_000
"""With more than this left in a partition its lane has a backlog."""
BACKLOG_HOLD_S = 0.5
"""Under backlog a transaction waits this long for more: a key that changes twice in it is written once."""
PACE, PACE_LIMIT_S = 8.0, 0.06
"""A commit begins no sooner than so many times the last one's duration after that began: a transaction costs
the same at any size, and a broker that gets slow gets fewer. What comes alone never waits.
"""
GROUP_OFFSETS_S = 1.0
"""So long from one telling of the group's offsets to the next: they are for lag tools, and take two of a
transaction's requests and one of its partitions. An idle lane has one for them alone.
"""
TELL_LIMIT_S = 1.0
"""For the last telling of a lane that stops: the broker may be away, or the lane be somebody else's."""
STOP_LIMIT_S = 3.0
"""How long a stop waits for the open transaction before it is abandoned to be fenced."""


_FATAL = (Bug, Stale, Misconfigured)
"""What ends the lane when a record's decision raises it; any other error is the record's own."""


class _Work(NamedTuple):
    """A small batch of its own: a timer, a pump's result, an operator's request."""

    run: Callable[[Transaction], Any]
    done: asyncio.Future[Any]
    size: int = 0  # bytes, as of a chunk


class _Chunk(NamedTuple):
    """Records of one fetch, in order."""

    topic: str
    records: list[SourceRecord]
    fetched_from: int | None
    decide: Decide
    size: int
    behind: int  # records of the partition that come after those of the fetch
    ahead: ReadAhead | None  # of its topic's table


class _Skip(NamedTuple):
    """Offsets of a source without a record: the markers of transactions."""

    topic: str
    expected: int
    offset: int
    size: int = 0


class _Decided:
    """A transaction that takes what is decided while the one before it commits."""

    def __init__(self, transaction: Transaction, offsets: dict[str, int], limit_bytes: int) -> None:
        self.transaction = transaction
        self._limit_bytes = limit_bytes
        self.offsets = offsets
        self.answers: list[tuple[asyncio.Future[Any], Any]] = []
        self.started = time.perf_counter()
        self.records = 0
        self.size = 0
        self.more = False

    @property
    def position(self) -> Position:
        """Where the lane's sources have arrived with it."""
        return Position(offsets=self.offsets, stream_time_ms=self.transaction.stream_time_ms)

    @property
    def full(self) -> bool:
        """Whether it should take no more."""
        return (
            self.records >= TRANSACTION_RECORDS
            or self.size + self.transaction.size >= self._limit_bytes
            or time.perf_counter() - self.started >= TRANSACTION_DECIDE_S
        )


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
        self.recent: dict[Table[Any], RecentValues] = {}
        self.position = Position()
        self.failed: Exception | None = None
        self.producer: AIOKafkaProducer
        self._jobs: deque[_Chunk | _Work | _Skip] = deque()
        self._waiting_records = 0
        self._waiting_bytes = 0
        self._decided: _Decided | None = None
        self._committing: _Decided | None = None
        self._own_keys: defaultdict[str, set[bytes]] = defaultdict(set)  # by topic
        self._siblings = 1  # lanes of this process
        self._paced_until = 0.0  # perf_counter seconds
        self._told_group: dict[str, int] = {}  # offsets by topic, as last told
        self._told_group_at = float("-inf")  # perf_counter seconds
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def full(self) -> bool:
        """Whether the consumer should fetch nothing more for this lane yet."""
        limit_records = min(WAITING_RECORDS, ALL_WAITING_RECORDS // self._siblings)
        limit_bytes = WAITING_BYTES // self._siblings
        return self._waiting_records >= limit_records or self._waiting_bytes >= limit_bytes

    @property
    def idle(self) -> bool:
        """Whether the lane works, and has nothing to do."""
        working = self._task is not None and self.failed is None and not self._stopping
        return working and not (self._jobs or self._decided or self._committing)

    async def fence(self) -> None:
        """Start the transactional producer: any older owner is fenced, its open transaction ended."""
        self.producer = AIOKafkaProducer(
            **self.app.kafka_options,
            transactional_id=f"{self.service}-{self.partition}",
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
            acks="all",
            compression_type="zstd",
            max_batch_size=PRODUCER_BATCH_BYTES,
            max_request_size=PRODUCER_REQUEST_BYTES,
            retry_backoff_ms=RETRY_BACKOFF_MS,
        )
        await self.producer.start()
        metrics.FENCES.labels(self.service).inc()

    async def open_stores(self) -> None:
        """Open the stores of every table, for the restore."""
        tables = self.app.state_tables
        self._siblings = max(1, len(self.app.lanes))
        remembering = sum(table.remember for table in tables)
        share = RECENT_BYTES // max(1, self._siblings * remembering)
        for table in tables:
            store = await self.app.open_store(table, self.partition)
            if self._stopping:  # a rebalance took the lane while a locked store was waited for
                store.close()
                raise LaneLost(f"lane {self.service}-{self.partition} is closed")
            self.stores[table] = store
            if table.remember:
                self.recent[table] = RecentValues(share)

    def begin(self, position: Position) -> None:
        """Take jobs from now on, starting at ``position``."""
        self.position = position
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"lane-{self.partition}")

    def offer(self, batch: Batch, decide: Decide) -> None:
        """Queue a fetched batch; one fetched for a former lane is dropped (it will be fetched again)."""
        if batch.epoch == self.epoch and self.failed is None and not self._stopping:
            fetched_from = batch.fetched_from
            for start in range(0, len(batch.records), CHUNK_RECORDS):
                records = batch.records[start : start + CHUNK_RECORDS]
                size = sum(len(record.value) for record in records if record.value is not None)
                ahead = self._read_ahead(batch.topic, records)
                self._jobs.append(
                    _Chunk(batch.topic, records, fetched_from, decide, size, batch.behind, ahead)
                )
                self._waiting_records += len(records)
                self._waiting_bytes += size
                fetched_from = records[-1].offset + 1
            self._wake.set()

    def _read_ahead(self, topic: str, records: Sequence[SourceRecord]) -> ReadAhead | None:
        table = self.app.state_of(topic)
        if table is None or len(records) < AHEAD_RECORDS:
            return None
        recent, unknown = self.recent.get(table), object()
        keys = list({record.key for record in records if record.key is not None})
        if recent is not None:
            keys = [key for key in keys if recent.get(key, unknown) is unknown]
        return ReadAhead(table, self.stores[table], keys) if keys else None

    def overtake(self, table: Table[Any], keys: Collection[bytes]) -> None:
        """These keys of a table have new values in its store."""
        for job in self._jobs:
            if isinstance(job, _Chunk) and job.ahead is not None and job.ahead.table is table:
                job.ahead.overtake(keys)

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

    def skip(self, topic: str, expected: int, offset: int) -> None:
        """Move the position of a source past offsets that hold no record, if it is still where it was."""
        self._jobs.append(_Skip(topic, expected, offset))
        self._wake.set()

    def give_up(self, error: Exception) -> None:
        """Fail from outside: the lane is reopened."""
        if self.failed is None:
            self._fail(error)

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
        refused = [job.done for job in self._jobs if isinstance(job, _Work)]
        for decided in (self._committing, self._decided):
            refused += [done for done, _ in decided.answers] if decided is not None else []
        for done in refused:
            if not done.done():
                done.set_exception(LaneLost(f"lane {self.service}-{self.partition} is closed"))
        self._jobs.clear()
        self._decided = self._committing = None

    async def _run(self) -> None:
        """Decide what waits on top of what commits, and commit one transaction after the other."""
        commit_task: asyncio.Task[None] | None = None
        try:
            while True:
                if self._jobs and not self._stopping and not (self._decided and self._decided.full):
                    first = self._jobs[0]
                    if isinstance(first, _Chunk) and first.ahead is not None and not first.ahead.done:
                        await first.ahead.wait()
                        continue
                    self._decide(self._jobs.popleft())
                    await asyncio.sleep(0)
                    continue
                if commit_task is not None and commit_task.done():
                    commit_task.result()
                    commit_task, self._committing = None, None
                hold_s = inf
                if commit_task is None:
                    if self._stopping and self._decided is None:
                        await self._tell_group_at_last()
                        return
                    hold_s = self._hold_s(self._decided)
                    if hold_s <= 0:
                        self._committing, self._decided = self._decided or self._next(), None
                        commit_task = asyncio.create_task(self._commit(self._committing))
                        commit_task.add_done_callback(lambda _: self._wake.set())
                        continue
                await self._woken(hold_s)
        except Exception as error:  # the one place that catches everything
            self._fail(error)
        finally:
            if commit_task is not None:
                commit_task.cancel()
                await asyncio.wait({commit_task})

    async def _woken(self, limit_s: float) -> None:
        """Wait until there is something new, or for the limit."""
        self._wake.clear()
        timer = asyncio.get_running_loop().call_later(limit_s, self._wake.set) if limit_s < inf else None
        await self._wake.wait()
        if timer is not None:
            timer.cancel()

    def _hold_s(self, decided: _Decided | None) -> float:
        """How long a transaction shall wait for more before it is committed; without one: until the group's
        offsets are due.
        """
        if decided is None:
            untold = self.failed is None and self._told_group != self.position.offsets
            return self._told_group_at + GROUP_OFFSETS_S - time.perf_counter() if untold else inf
        if self._stopping or decided.full:
            return 0.0
        until = self._paced_until
        if decided.more:
            until = max(until, decided.started + BACKLOG_HOLD_S)
        return until - time.perf_counter()

    async def _commit(self, decided: _Decided) -> None:
        transaction, position = decided.transaction, decided.position
        began = time.perf_counter()
        due = began - self._told_group_at >= GROUP_OFFSETS_S
        tell_group = due and position.offsets != self._told_group
        if transaction.out or transaction.changes() or position != self.position or tell_group:
            await commit(self, transaction, position, tell_group=tell_group)
        else:
            for callback in transaction.callbacks:
                callback()
        self.position = position
        if tell_group:
            self._told_group, self._told_group_at = position.offsets, began
        _answer(decided.answers)
        self._paced_until = began + min(PACE * (time.perf_counter() - began), PACE_LIMIT_S)
        metrics.TRANSACTION_SECONDS.labels(self.service).observe(time.perf_counter() - decided.started)

    async def _tell_group_at_last(self) -> None:
        if self._told_group == self.position.offsets:
            return
        try:
            async with asyncio.timeout(TELL_LIMIT_S):
                await commit(self, self._next().transaction, self.position, tell_group=True)
        except Exception as error:  # only lag tools miss it, until the lane's next owner tells them
            log.debug("the group's offsets were not told", lane=self.partition, error=repr(error))
            with suppress(Exception):  # else readers wait for the transaction until it times out
                async with asyncio.timeout(TELL_LIMIT_S):
                    await self.producer.abort_transaction()

    def _decide(self, job: _Chunk | _Work | _Skip) -> None:
        decided = self._decided
        if decided is None:
            decided = self._decided = self._next()
        decided.transaction.now_ms = int(time.time() * 1000)
        decided.size += job.size
        if isinstance(job, _Work):
            decided.answers.append((job.done, self._do_work(decided.transaction, job)))
            return
        if isinstance(job, _Skip):
            if decided.offsets.get(job.topic) == job.expected:
                decided.offsets[job.topic] = job.offset
            return
        self._waiting_records -= len(job.records)
        self._waiting_bytes -= job.size
        self.app.room_made()
        decided.records += len(job.records)
        decided.more = job.behind >= BACKLOG_RECORDS
        with decided.transaction.using(job.ahead) as stored:
            self._decide_chunk(decided.transaction, job, decided.offsets, stored)

    def _next(self) -> _Decided:
        """A transaction on top of the one that commits, if one does."""
        below = self._committing
        position = below.position if below is not None else self.position
        transaction = Transaction(
            self, 0, position.stream_time_ms, under=below.transaction if below is not None else None
        )
        return _Decided(transaction, dict(position.offsets), TRANSACTION_BYTES // self._siblings)

    def _do_work(self, transaction: Transaction, job: _Work) -> Any:
        try:
            result = job.run(transaction)
        except (Bug, Stale):
            self._jobs.appendleft(job)  # its caller is told with those that wait
            raise
        except Exception as error:  # the caller's own error: it gets it back, the batch goes on
            transaction.drop()
            return error
        transaction.keep()
        return result

    def _decide_chunk(
        self,
        transaction: Transaction,
        chunk: _Chunk,
        offsets: dict[str, int],
        stored: Mapping[bytes, bytes | None],
    ) -> None:
        records = self._continuous(chunk, offsets.get(chunk.topic))
        if not records:
            return
        try:
            self._decide_all(transaction, chunk, records, stored)
            transaction.keep()
        except _FATAL:
            raise
        except Exception:  # a poison record: they are decided again one by one, so that only its changes go
            transaction.drop()
            for record in records:
                self._decide_alone(transaction, chunk, record, stored)
        transaction.record_key = None
        offsets[chunk.topic] = records[-1].offset + 1
        metrics.RECORDS.labels(self.service, chunk.topic).inc(len(records))

    def _decide_alone(
        self,
        transaction: Transaction,
        chunk: _Chunk,
        record: SourceRecord,
        stored: Mapping[bytes, bytes | None],
    ) -> None:
        try:
            self._decide_all(transaction, chunk, [record], stored)
            transaction.keep()
        except _FATAL:
            raise
        except Exception as error:
            transaction.drop()
            self._dead_letter(transaction, record, error)
            transaction.keep()

    def _decide_all(
        self,
        transaction: Transaction,
        chunk: _Chunk,
        records: Iterable[SourceRecord],
        stored: Mapping[bytes, bytes | None],
    ) -> None:
        route, decide = self.app.route_of(chunk.topic), chunk.decide
        own_keys, now_ms = self._own_keys[chunk.topic], transaction.now_ms
        for record in records:
            key = record.key
            if key not in own_keys and key is not None and stored.get(key) is None:
                proper = partition_of(key if route is None else route(key), self.partitions)
                if proper != self.partition:
                    self._forward(transaction, record, proper)
                    continue
                if len(own_keys) >= OWN_KEYS // self._siblings:
                    own_keys.clear()
                if len(key) <= OWN_KEY_BYTES:
                    own_keys.add(key)
            transaction.record_key = key if route is None else None
            timestamp = record.timestamp
            if timestamp > transaction.stream_time_ms:
                transaction.stream_time_ms = min(timestamp, now_ms)
            decide(transaction, record)

    def _continuous(self, chunk: _Chunk, expected: int | None) -> list[SourceRecord]:
        """The chunk's records that are not decided yet.

        Raises:
            Stale: when the chunk begins beyond the lane's position, so that something was dropped on the way.
        """
        if expected is None or chunk.fetched_from == expected:
            return chunk.records
        if chunk.fetched_from is not None and chunk.fetched_from > expected:
            raise Stale(
                f"gap in {chunk.topic}/{self.partition}: "
                f"expected {expected}, fetched from {chunk.fetched_from}"
            )
        return [record for record in chunk.records if record.offset >= expected]

    def _forward(self, transaction: Transaction, record: SourceRecord, proper: int) -> None:
        """Send a record whose key belongs to another partition there; other clients partition otherwise."""
        transaction.out.append((record.topic, proper, record.key, record.value, list(record.headers)))
        transaction.after_commit(partial(self.app.note_misrouted, record, proper))

    def _dead_letter(self, transaction: Transaction, record: SourceRecord, error: Exception) -> None:
        letter = self.app.dead_letter(record, error, transaction.now_ms)
        transaction.out.append(
            (f"dead-letters.{self.service}", self.partition, record.key, letter.value, letter.headers)
        )
        self.app.note_dead_letter(record, error)

    def _fail(self, error: Exception) -> None:
        self.failed = error
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
