"""Bringing lanes up: restore their stores from the changelogs and find their source positions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from faust.tables.manager import TableManager as FaustTableManager
from faust.tables.recovery import Recovery as FaustRecovery
from mode import Service

from app.errors import LaneLost, PositionMissing, Retry, SkustreamError
from app.exactly_once import metrics
from app.exactly_once.positions import Position, decode_position, positions_topic

if TYPE_CHECKING:
    from app.exactly_once.app import App
    from app.exactly_once.lane import Lane
    from app.exactly_once.store import PartitionStore, Table

log = structlog.get_logger(__name__)

RESTORE_RECORDS_A_POLL = 10_000
POLL_MS = 200
FETCH_WAIT_MS = 20
"""How long the broker holds an empty answer; a resumed partition waits for the answer under way."""
TAIL_RECORDS = 64
"""The last position is looked for in this many last offsets first, then in twice as many, and so on."""
STALLED_AFTER_S = 60.0
"""A restore that reads nothing for this long while it should is an error, not a wait."""
RETRY_PAUSE_S = 1.0
TOMBSTONES_KEPT_S = 24 * 60 * 60
"""``delete.retention.ms`` of the changelogs: compaction removes a deletion after it."""


Ranges = Mapping[TopicPartition, tuple[int, int]]
"""What to read of each partition: from the first offset up to, not including, the second."""


class Restorer:
    """Reads changelogs and positions with a ``read_committed`` consumer of its own, without a group."""

    def __init__(self, app: App, partitions: Iterable[int]) -> None:
        self._app = app
        self._consumer: AIOKafkaConsumer
        topics = [table.changelog for table in app.state_tables]
        topics += [*app.source_topics, positions_topic(app.service)]
        self._all = [TopicPartition(topic, number) for topic in topics for number in partitions]
        self._begins: dict[TopicPartition, int] = {}
        self._ends: dict[TopicPartition, int] = {}

    async def __aenter__(self) -> Restorer:
        self._consumer = self._app.reader(max_partition_fetch_bytes=4 << 20, fetch_max_wait_ms=FETCH_WAIT_MS)
        await self._consumer.start()
        # Assigned once and paused: each change of assignment would wait for a metadata update.
        self._consumer.assign(self._all)
        self._consumer.pause(*self._all)
        self._begins = await self._consumer.beginning_offsets(self._all)
        self._ends = await self._consumer.end_offsets(self._all)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()

    async def restore(self, lanes: Iterable[Lane]) -> None:
        """Bring the lanes' stores to the end of their changelogs, then give each lane its position.

        All partitions are read in one pass: a restore waits for the broker a few times, not once for each.
        """
        stores = {
            TopicPartition(table.changelog, lane.partition): await self._usable_store(lane, table)
            for lane in lanes
            for table in self._app.state_tables
        }
        ranges = {
            tp: (max(store.offset + 1, self._begins[tp]), self._ends[tp]) for tp, store in stores.items()
        }
        await self._fill(stores, ranges)
        found = await self._last_positions([lane.partition for lane in lanes])
        for lane in lanes:
            stateful = any(self._ends[tp] > 0 for tp in stores if tp.partition == lane.partition)
            lane.position = self._position(lane, found.get(lane.partition), stateful)

    async def _fill(self, stores: Mapping[TopicPartition, PartitionStore], ranges: Ranges) -> None:
        service = self._app.service
        tables = {table.changelog: table for table in self._app.state_tables}
        counters = {name: metrics.RESTORED.labels(service, table.name) for name, table in tables.items()}
        remaining = {tp: max(0, end - start) for tp, (start, end) in ranges.items()}
        began = time.perf_counter()
        async for tp, records in self._read(ranges):
            stores[tp].write(tables[tp.topic].restored(records), records[-1].offset)
            counters[tp.topic].inc(len(records))
            self._app.note_restoring()
            remaining[tp] = ranges[tp][1] - records[-1].offset - 1
            metrics.RESTORE_REMAINING.labels(service).set(sum(remaining.values()))
        for tp, store in stores.items():
            if self._ends[tp] > self._begins[tp]:
                store.write({}, self._ends[tp] - 1)
        metrics.RESTORE_REMAINING.labels(service).set(0)
        metrics.RESTORE_SECONDS.labels(service).set(time.perf_counter() - began)

    async def _usable_store(self, lane: Lane, table: Table[Any]) -> PartitionStore:
        """The lane's store of a table, emptied when it does not fit its changelog any more."""
        tp = TopicPartition(table.changelog, lane.partition)
        store, end = lane.stores[table], self._ends[tp]
        why = ""
        if store.offset >= end:
            why = "the changelog is shorter than the store (topic recreated)"
        elif store.unused_s > TOMBSTONES_KEPT_S and 0 <= store.offset < end - 1:
            why = "the store was unused for so long that the changelog may have forgotten deletions"
        if why:
            log.warning("a store is restored from nothing", why=why, store=str(store.path))
            lane.stores[table] = await self._app.wipe_store(table, lane.partition)
        return lane.stores[table]

    def _position(self, lane: Lane, found: Position | None, stateful: bool) -> Position:
        """The lane's recorded position, checked against what the source topics still hold.

        Raises:
            PositionMissing: state without a position, or a position outside of its topic.
        """
        if found is None and stateful:
            raise PositionMissing(
                f"lane {lane.service}-{lane.partition} has state but no record in "
                f"{positions_topic(lane.service)}; run: skustream positions set {lane.service} --to earliest "
                f"(or latest, or group)"
            )
        offsets: dict[str, int] = {}
        for topic in self._app.source_topics:
            tp = TopicPartition(topic, lane.partition)
            begin, end = self._begins[tp], self._ends[tp]
            offset = found.offsets.get(topic, begin) if found else begin
            if not begin <= offset <= end:
                raise PositionMissing(
                    f"lane {lane.service}-{lane.partition}: position {offset} of {topic} is outside of what "
                    f"the topic holds ({begin} to {end}); run: "
                    f"skustream positions set {lane.service} --to earliest"
                )
            offsets[topic] = offset
        return Position(offsets=offsets, stream_time_ms=found.stream_time_ms if found else 0)

    async def _last_positions(self, partitions: list[int]) -> dict[int, Position]:
        """The last recorded position of each lane; lanes without one are left out."""
        topic = positions_topic(self._app.service)
        found: dict[int, Position] = {}
        missing = {TopicPartition(topic, partition) for partition in partitions}
        span = TAIL_RECORDS
        while missing:
            ranges = {tp: (max(self._begins[tp], self._ends[tp] - span), self._ends[tp]) for tp in missing}
            async for tp, records in self._read(ranges):
                found[tp.partition] = decode_position(records[-1].value)
            missing = {tp for tp in missing if tp.partition not in found and ranges[tp][0] > self._begins[tp]}
            span *= 2
        return found

    async def _read(self, ranges: Ranges) -> AsyncIterator[tuple[TopicPartition, list[Any]]]:
        """Committed records of each range, in order by partition, until every end is reached."""
        reached = {tp: start for tp, (start, end) in ranges.items() if start < end}
        for tp, start in reached.items():
            self._consumer.seek(tp, start)
            self._consumer.resume(tp)
        loop = asyncio.get_running_loop()
        progress = loop.time()
        while reached:
            fetched = await self._consumer.getmany(timeout_ms=POLL_MS, max_records=RESTORE_RECORDS_A_POLL)
            for tp, records in fetched.items():
                inside = [record for record in records if record.offset < ranges[tp][1]]
                if inside:
                    yield tp, inside
            before = dict(reached)
            for tp in before:
                reached[tp] = await self._consumer.position(tp)
                if reached[tp] >= ranges[tp][1]:
                    self._consumer.pause(tp)
                    del reached[tp]
            if reached != before:
                progress = loop.time()
            elif loop.time() - progress > STALLED_AFTER_S:
                tp, offset = next(iter(reached.items()))
                raise Retry(
                    f"reading {tp.topic}/{tp.partition} stalled at {offset}, its end is {ranges[tp][1]}"
                )


class Recovery(FaustRecovery):  # type: ignore[misc]  # faust ships no types
    """Replaces Faust's recovery: lanes restore themselves, then Faust resumes its flow."""

    @Service.task  # type: ignore[untyped-decorator]  # mode ships no types
    async def _restart_recovery(self) -> None:
        while not self.should_stop:
            if await self.wait_for_stopped(self.signal_recovery_start):
                break
            self.signal_recovery_start.clear()
            generation = self._generation_id
            self._set_recovery_started()
            try:
                await self.app.open_lanes(generation)
                if not self.signal_recovery_start.is_set():
                    await self.on_recovery_completed(generation)
            except (KafkaError, Retry, TimeoutError, OSError) as error:
                log.warning("bringing the lanes up failed; trying again", error=repr(error))
                await self.sleep(RETRY_PAUSE_S)
                self.signal_recovery_start.set()
            except LaneLost as error:  # the rebalance that took the lanes starts us again
                log.info("bringing the lanes up was overtaken by a rebalance", error=str(error))
            except SkustreamError as error:
                log.error("the lanes cannot be brought up", error=str(error))
                self.app.end(error)


class TableManager(FaustTableManager):  # type: ignore[misc]  # faust ships no types
    """Faust's table manager with our recovery; fences the lanes before anything is read."""

    _recovery: Recovery | None = None

    @property
    def recovery(self) -> Recovery:
        """The recovery service, made once."""
        if self._recovery is None:
            self._recovery = Recovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery

    async def on_rebalance(
        self, assigned: Iterable[Any], revoked: Any, newly_assigned: Any, generation_id: int = 0
    ) -> None:
        """Fence every assigned lane, then let Faust go on."""
        await self.app.fence_lanes(assigned)
        await super().on_rebalance(assigned, revoked, newly_assigned, generation_id)
