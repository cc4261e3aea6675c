"""The Faust app whose agents process batches exactly once."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import shutil
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import faust
import prometheus_client
import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from app.errors import Bug, LaneLost, Misconfigured, Stale
from app.exactly_once import metrics, unpacking
from app.exactly_once.assignor import Assignor
from app.exactly_once.lane import Decide, Lane
from app.exactly_once.positions import Position
from app.exactly_once.progress import Audit, Watchdog
from app.exactly_once.recovery import Restorer, TableManager
from app.exactly_once.standby import Standbys
from app.exactly_once.store import CommittedStore, Derive, PartitionStore, Table, Upgrade
from app.exactly_once.transaction import SourceRecord
from app.exactly_once.transport import Batch, BatchSchema, Transport

V = TypeVar("V")
Route = Callable[[bytes], bytes]

log = structlog.get_logger(__name__)

FENCE_LIMIT_S = 8.0
"""Fencing runs inside the rebalance callback, without heartbeats: it must end before the session does."""
REOPEN_BUDGET_S = 120.0
"""A worker with a failed lane that is not up again by then ends, loudly: no worker looks alive without it."""
_KEEP_LOGGING = {"version": 1, "incremental": True}
"""Whoever starts the worker sets up logging; Faust's own set-up would replace it."""
GC_THRESHOLDS = (200_000, 20, 50)
"""A batch is ten thousands of objects without a cycle among them: Python's own thresholds (700, 10, 10) look
through all of them again and again, for a fifth of the time (docs/benchmarks.md).
"""
M_ARENA_MAX, ARENAS = -8, 2
"""glibc gives each thread a heap, which keeps what it once had (malloc.h); RocksDB has many threads."""
LETTERS_TOLD_S = 10.0
"""A million bad records are a million dead letters, and a line in the log every so often."""
LETTER_ERROR = 500
"""Characters of an error in the log; the dead letter has more."""
SAME_FAILURES = 10
"""A lane that fails so often without getting on will not get on by itself."""
RECORD_BYTES, RECORD_OVERHEAD = 1 << 20, 16 << 10
"""Kafka's default for ``max.message.bytes``, and what key, headers and the batch may take of it."""
END_LIMIT_S, END_STATUS = 20.0, 71
"""A worker that ends because of an error is gone after so long, by force with this status."""
POLL_RECORDS = 2_000
FETCH_BYTES = 2 << 20
"""Of a partition at once; a larger batch comes alone (Kafka, KIP-74). A full lane has so much in hand."""


class DeadLetterRecord(NamedTuple):
    """What goes to the dead-letter topic for a poison record."""

    value: bytes
    headers: list[tuple[str, bytes]]


DeadLetterEncoder = Callable[[str, SourceRecord, Exception, int], DeadLetterRecord]


class _Worker(faust.Worker):  # type: ignore[misc]  # faust ships no types
    """Faust's worker without its spinner, which would set the root logger to debug, for good."""

    def on_setup_root_logger(self, logger: logging.Logger, level: int) -> None:
        """Leave it as it is."""
        self.spinner = None


class App(faust.App):  # type: ignore[misc]  # faust ships no types
    """A service: its source topics, tables and lanes.

    ``kafka_options`` are the connection arguments of every aiokafka client; ``partitions`` is the
    number of lanes: all source topics and changelogs of the service have that many partitions;
    ``record_limits`` are the ``max.message.bytes`` of topics with another than Kafka's default.
    """

    def __init__(
        self,
        service: str,
        *,
        kafka_options: Mapping[str, Any],
        data_dir: Path,
        partitions: int,
        encode_dead_letter: DeadLetterEncoder,
        web_port: int,
        web_host: str = "127.0.0.1",
        session_timeout_s: float = 10.0,
        standby_replicas: int = 0,
        instance_id: str | None = None,
        record_limits: Mapping[str, int] | None = None,
    ) -> None:
        self.service = service
        self.kafka_options = dict(kafka_options)
        self.partitions = partitions
        self.state_tables: list[Table[Any]] = []
        self.lanes: dict[int, Lane] = {}
        self.fatal: BaseException | None = None
        self._data_dir = data_dir
        self._encode_dead_letter = encode_dead_letter
        self._routes: dict[str, Route | None] = {}
        self._states: dict[str, Table[Any] | None] = {}
        self._opened: list[Callable[[Lane], None]] = []
        self._closed: list[Callable[[Lane], None]] = []
        self._before: list[Callable[[], Awaitable[None]]] = []
        self._when_stopped: list[Callable[[], Awaitable[None]]] = []
        self._background: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()
        self._epoch = 0
        self._misrouted: set[str] = set()
        self._told_letters: dict[tuple[str, str], tuple[float, int]] = {}  # when, and how many since
        self._watchdog: asyncio.Task[None] | None = None
        self._last_progress = 0.0
        self._audit = Audit(self)
        self._record_limits = dict(record_limits or {})
        self._failures: dict[int, tuple[Position, int]] = {}  # by partition: where, and how often
        self._ending: asyncio.Task[None] | None = None
        self._open_lanes: set[int] = set()
        self._standbys = Standbys(self, ())
        unpacking.install()
        super().__init__(
            f"skustream.{service}",
            broker=_broker_urls(self.kafka_options),
            broker_credentials=_credentials(self.kafka_options),
            store="memory://",
            datadir=str(data_dir / service),
            topic_partitions=partitions,
            topic_allow_declare=False,
            topic_disable_leader=True,
            table_standby_replicas=standby_replicas,
            consumer_group_instance_id=instance_id,
            # A static member gets its former assignment back, which names its URL: that may not change.
            canonical_url=f"http://{instance_id}" if instance_id else None,
            stream_buffer_maxsize=64,
            stream_wait_empty=False,
            stream_recovery_delay=0.0,
            broker_session_timeout=session_timeout_s,
            broker_heartbeat_interval=session_timeout_s / 10,
            broker_max_poll_records=POLL_RECORDS,
            consumer_max_fetch_size=FETCH_BYTES,
            consumer_auto_offset_reset="earliest",
            producer_api_version="auto",
            web_enabled=True,
            web_bind=web_host,
            web_port=web_port,
            web_host=web_host,
            worker_redirect_stdouts=False,
            loghandlers=list(logging.root.handlers),
            logging_config=dict(_KEEP_LOGGING) if logging.root.handlers else None,
            Worker=_Worker,
            TableManager=TableManager,
            PartitionAssignor=Assignor,
        )
        self.transport = Transport(self.conf.broker_consumer, self)
        self._serve_pages()

    # -- declaring a service -----------------------------------------------------------------

    def state_table(
        self,
        name: str,
        value_type: type[V],
        changelog: str | None = None,
        derive: Derive[V] | None = None,
        version: int = 1,
        upgrade: Upgrade | None = None,
        remember: bool = True,
    ) -> Table[V]:
        """Declare a table (see ``Table``); Faust knows it too, so the assignor keeps it with its sources."""
        changelog = changelog or f"skustream.{self.service}.{name}"
        table = Table(name, value_type, changelog, derive, version, upgrade, remember)
        topic = self.topic(table.changelog, key_type=bytes, value_type=bytes, partitions=self.partitions)
        faust_table = self.Table(name, partitions=self.partitions, changelog_topic=topic)
        faust_table._data = CommittedStore(f"committed://{name}", self, faust_table)
        self.state_tables.append(table)
        return table

    def batch_topic(self, name: str, route: Route | None = None, state: Table[Any] | None = None) -> Any:
        """Declare a source topic whose agent gets batches; ``route`` is the part of a key that is hashed.

        ``state`` is the table with the same keys that every record is decided on: a backlog's values are read
        ahead. A key that has one needs no hashing any more: it was found to belong here when it came first.
        """
        self._routes[name] = route
        self._states[name] = state
        return self.topic(name, schema=BatchSchema(), acks=False, partitions=self.partitions)

    def on_lane_opened(self, callback: Callable[[Lane], None]) -> None:
        """Call ``callback`` whenever a lane starts to take jobs."""
        self._opened.append(callback)

    def on_lane_closed(self, callback: Callable[[Lane], None]) -> None:
        """Call ``callback`` before an opened lane goes away."""
        self._closed.append(callback)

    def before_lanes(self, ready: Callable[[], Awaitable[None]]) -> None:
        """Await ``ready`` once before any lane gets records."""
        self._before.append(ready)

    def on_stopped(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Await ``callback`` once after the last lane is closed."""
        self._when_stopped.append(callback)

    def background(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run ``work`` beside the lanes. It ends quietly when its lane is lost; any other failure ends the
        worker: no worker looks alive while a part of it is dead.
        """
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._background.add(task)
        task.add_done_callback(self._background_done)
        return task

    def _background_done(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None or isinstance(error, LaneLost):
            return
        log.error("background work failed", work=task.get_name(), exc_info=error)
        self.end(error)

    async def process(self, batch: Batch, decide: Decide) -> None:
        """Hand a batch to its lane; a batch for a lane that is gone will be fetched by its new owner."""
        lane = self.lanes.get(batch.partition)
        if lane is not None:
            lane.offer(batch, decide)

    def reader(self, **options: Any) -> AIOKafkaConsumer:
        """A ``read_committed`` consumer without a group, not started yet."""
        return AIOKafkaConsumer(
            **self.kafka_options,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            **options,
        )

    # -- what the transport asks -------------------------------------------------------------

    @property
    def source_topics(self) -> list[str]:
        """The names of the declared batch topics."""
        return list(self._routes)

    def needed_topics(self) -> list[str]:
        """Every topic without which the service cannot run: sources, changelogs, positions, dead letters."""
        changelogs = [table.changelog for table in self.state_tables]
        own = [f"skustream.{self.service}.positions", f"dead-letters.{self.service}"]
        return [*self._routes, *changelogs, *own]

    def route_of(self, topic: str) -> Route | None:
        """The routing function of a source topic."""
        return self._routes[topic]

    def state_of(self, topic: str) -> Table[Any] | None:
        """The table that a source topic's records are decided on, if it was told."""
        return self._states[topic]

    def record_limit(self, topic: str) -> int:
        """Bytes that a value in a topic may have; a record's own bytes come on top."""
        return self._record_limits.get(topic, RECORD_BYTES) - RECORD_OVERHEAD

    def full_lanes(self) -> set[int]:
        """Partitions for which nothing should be fetched now."""
        return {partition for partition, lane in self.lanes.items() if lane.full}

    async def wait_for_room(self) -> None:
        """Wait while every lane is full."""
        while self.lanes and len(self.full_lanes()) == len(self.lanes):
            self._room.clear()
            await self._room.wait()

    def room_made(self) -> None:
        """A lane took jobs: the consumer may fetch again."""
        self._room.set()

    def lane_epochs(self) -> dict[int, int]:
        """The epoch of each lane: a batch fetched for a former lane carries another."""
        return {partition: lane.epoch for partition, lane in self.lanes.items()}

    def source_position(self, topic: str, partition: int) -> int | None:
        """Where to read a source partition from, or None when no lane of ours owns it."""
        lane = self.lanes.get(partition)
        return lane.position.offsets.get(topic) if lane is not None else None

    # -- the life of lanes -------------------------------------------------------------------

    async def fence_lanes(self, assigned: Iterable[Any]) -> None:
        """Inside the rebalance: close what was open, fence every assigned lane, in parallel and bounded."""
        await self._close_lanes()
        self._epoch += 1
        partitions = {tp.partition for tp in assigned if tp.topic in self._routes}
        log.info("lanes are assigned", service=self.service, lanes=sorted(partitions))
        lanes = [Lane(self, partition, self._epoch) for partition in sorted(partitions)]
        self.lanes = {lane.partition: lane for lane in lanes}
        if lanes:
            self._watch_opening("they were assigned")
        try:
            async with asyncio.timeout(FENCE_LIMIT_S):
                await asyncio.gather(*(lane.fence() for lane in lanes))
        except (KafkaError, TimeoutError, OSError) as error:
            for lane in lanes:
                lane.failed = error
            log.warning("fencing failed; asking the group again", error=repr(error))

    async def open_lanes(self, generation: int) -> None:
        """After the rebalance: restore every lane and let it take jobs."""
        failed = next((lane.failed for lane in self.lanes.values() if lane.failed), None)
        if failed is not None:
            self._rejoin(failed)
            return
        while self._before:
            await self._before[0]()
            self._before.pop(0)
        lanes = list(self.lanes.values())
        log.info("lanes are fenced, restoring", service=self.service, lanes=sorted(self.lanes))
        for lane in lanes:
            if not lane.stores:
                await lane.open_stores()
        async with Restorer(self, list(self.lanes)) as restorer:
            await restorer.restore(lanes)
        if self.consumer_generation_id != generation:
            return
        for lane in lanes:
            lane.begin(lane.position)
            self._open_lanes.add(lane.partition)
            for opened in self._opened:
                opened(lane)
        self._follow_as_standby()
        metrics.LANES.labels(self.service).set(len(lanes))
        self._end_watch()
        log.info("lanes are open", service=self.service, lanes=sorted(self.lanes))

    def _follow_as_standby(self) -> None:
        changelogs = {table.changelog for table in self.state_tables}
        standbys = {tp.partition for tp in self.assignor.assigned_standbys() if tp.topic in changelogs}
        self._standbys = Standbys(self, standbys - self.lanes.keys())
        if self._standbys.partitions:
            log.info("following as standby", service=self.service, lanes=self._standbys.partitions)
            self._standbys.start()

    async def _close_lanes(self) -> None:
        await self._standbys.stop()
        lanes, self.lanes = self.lanes, {}
        for lane in lanes.values():
            if lane.partition in self._open_lanes:
                self._open_lanes.discard(lane.partition)
                for closed in self._closed:
                    closed(lane)
        await asyncio.gather(*(lane.stop() for lane in lanes.values()))
        metrics.LANES.labels(self.service).set(0)
        self._room.set()

    def lane_failed(self, lane: Lane, error: Exception) -> None:
        """A lane gave up: ask the group who we are (a zombie must not fence the rightful owner)."""
        log.warning("a lane failed", lane=lane.partition, error=f"{type(error).__name__}: {error}")
        where, times = self._failures.get(lane.partition, (lane.position, 0))
        times = times + 1 if where == lane.position else 1
        self._failures[lane.partition] = lane.position, times
        if isinstance(error, Bug | Misconfigured):
            self.end(error)
        elif times >= SAME_FAILURES:
            self.end(
                Stale(
                    f"lane {self.service}-{lane.partition} failed {times} times at {lane.position}: {error}"
                )
            )
        else:
            self._rejoin(error)

    def _rejoin(self, error: Exception) -> None:
        self._watch_opening(repr(error))
        self.consumer.request_rejoin()

    def note_restoring(self) -> None:
        """A restore got on: it may take as long as it needs."""
        self._last_progress = asyncio.get_running_loop().time()

    def _watch_opening(self, why: str) -> None:
        """End the worker unless its lanes are open, or a restore gets on, within the budget."""
        if self._watchdog is None:
            self.note_restoring()
            self._watchdog = asyncio.get_running_loop().create_task(self._watch(why), name="reopen-watchdog")

    async def _watch(self, why: str) -> None:
        loop = asyncio.get_running_loop()
        left = REOPEN_BUDGET_S
        while left > 0:
            await asyncio.sleep(left)
            left = self._last_progress + REOPEN_BUDGET_S - loop.time()
        self.end(Stale(f"lanes of {self.service} not open within {REOPEN_BUDGET_S:.0f} s after: {why}"))

    def _end_watch(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None

    def end(self, error: BaseException) -> None:
        """End the worker, loudly: whatever started it starts it again."""
        if self.fatal is not None:
            return
        self.fatal = error
        log.error("the worker ends", error=f"{type(error).__name__}: {error}")
        # Whatever of the worker still waits for something must not keep the process.
        limit = threading.Timer(END_LIMIT_S, os._exit, [END_STATUS])
        limit.daemon = True
        limit.start()
        self._ending = asyncio.get_running_loop().create_task(self.crash(error), name="end")

    async def _on_partitions_revoked(self, revoked: Any) -> None:
        await self._close_lanes()
        await super()._on_partitions_revoked(revoked)

    async def on_start(self) -> None:
        """Set up the garbage collector and the memory for batches."""
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS)
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        self.background(Watchdog().run(), "watchdog")
        self.background(self._audit.run(), "audit")
        await super().on_start()

    async def on_stop(self) -> None:
        """Finish the lanes before the group is left."""
        self._end_watch()
        await self._close_lanes()
        for task in list(self._background):
            task.cancel()
        for callback in self._when_stopped:
            await callback()
        await super().on_stop()

    def _create_directories(self) -> None:
        self.conf.datadir.mkdir(parents=True, exist_ok=True)
        super()._create_directories()

    # -- stores ------------------------------------------------------------------------------

    async def open_store(self, table: Table[Any], partition: int) -> PartitionStore:
        """Open the local store of a table's partition."""
        store = await self.open_standby(table, partition)
        self.tables[table.name]._data.partitions[partition] = store
        return store

    async def open_standby(self, table: Table[Any], partition: int) -> PartitionStore:
        """Open the local store of a partition whose lane another worker owns."""
        return await PartitionStore.opened(self._store_path(table, partition), table.version)

    async def wipe_store(self, table: Table[Any], partition: int) -> PartitionStore:
        """Drop the local store of a table's partition and open an empty one."""
        self.tables[table.name]._data.partitions.pop(partition).close()
        shutil.rmtree(self._store_path(table, partition))
        return await self.open_store(table, partition)

    def _store_path(self, table: Table[Any], partition: int) -> Path:
        return self._data_dir / self.service / table.name / str(partition)

    # -- what operators see ------------------------------------------------------------------

    def dead_letter(self, record: SourceRecord, error: Exception, now_ms: int) -> DeadLetterRecord:
        """The dead letter of a poison record."""
        return self._encode_dead_letter(self.service, record, error, now_ms)

    def note_dead_letter(self, record: SourceRecord, error: Exception) -> None:
        """Count a dead letter; name one of each kind in the log, and how many followed it."""
        kind = record.topic, type(error).__name__
        metrics.DEAD_LETTERS.labels(self.service, *kind).inc()
        now = time.monotonic()
        told_at, more = self._told_letters.get(kind, (-LETTERS_TOLD_S, 0))
        if now - told_at < LETTERS_TOLD_S:
            self._told_letters[kind] = told_at, more + 1
            return
        self._told_letters[kind] = now, 0
        log.warning(
            "a record was dead-lettered",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            error=f"{type(error).__name__}: {error}"[:LETTER_ERROR],
            more_before=more,
            correlation_id=(dict(record.headers).get("correlation_id") or b"").decode(errors="replace"),
        )

    def note_misrouted(self, record: SourceRecord, proper: int) -> None:
        """Count a forwarded record; name its topic once in the log."""
        metrics.MISROUTED.labels(self.service, record.topic).inc()
        if record.topic not in self._misrouted:
            self._misrouted.add(record.topic)
            log.warning(
                "records arrive in partitions that are not their key's (the producer is not murmur2)",
                topic=record.topic,
                partition=record.partition,
                proper=proper,
                offset=record.offset,
            )

    def health(self) -> dict[str, Any]:
        """Whether every lane works; ``ok`` is false from the first failure until the lanes are open again.

        ``lanes`` take records; ``opening`` are ours and still being restored; ``standby_lag`` has the lanes
        of others that are followed here.
        """
        failed = {lane.partition: repr(lane.failed) for lane in self.lanes.values() if lane.failed}
        opening = sorted(self.lanes.keys() - self._open_lanes)
        stuck = self._audit.stuck()
        return {
            "ok": not failed and not stuck and self.fatal is None,
            "service": self.service,
            "pid": os.getpid(),
            "lanes": sorted(self._open_lanes),
            "opening": opening,
            "failed": failed,
            "stuck": stuck,
            "standby_lag": self._standbys.lags(),
        }

    def _serve_pages(self) -> None:
        @self.page("/healthz")  # type: ignore[untyped-decorator]  # faust ships no types
        async def healthz(web: Any, request: Any) -> Any:
            health = self.health()
            return web.json(health, status=200 if health["ok"] else 503)

        @self.page("/readyz")  # type: ignore[untyped-decorator]  # faust ships no types
        async def readyz(web: Any, request: Any) -> Any:
            health = self.health()
            ready = health["ok"] and health["lanes"] and not health["opening"]
            return web.json(health, status=200 if ready else 503)

        @self.page("/metrics")  # type: ignore[untyped-decorator]  # faust ships no types
        async def exposition(web: Any, request: Any) -> Any:
            text = prometheus_client.generate_latest()
            return web.bytes(text, content_type="text/plain")


def _broker_urls(kafka_options: Mapping[str, Any]) -> str:
    servers = kafka_options["bootstrap_servers"]
    names = servers.split(",") if isinstance(servers, str) else servers
    return ";".join(f"kafka://{name.strip()}" for name in names)


def _credentials(kafka_options: Mapping[str, Any]) -> Any:
    protocol = kafka_options.get("security_protocol", "PLAINTEXT")
    context = kafka_options.get("ssl_context")
    if protocol == "SSL":
        return faust.SSLCredentials(context)
    if protocol.startswith("SASL"):
        return faust.SASLCredentials(
            username=kafka_options.get("sasl_plain_username"),
            password=kafka_options.get("sasl_plain_password"),
            mechanism=kafka_options.get("sasl_mechanism"),
            ssl_context=context,
        )
    return None
