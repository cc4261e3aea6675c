"""Bringing lanes up: restore their stores from the changelogs and find their source positions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from faust.tables.manager import TableManager as FaustTableManager
from faust.tables.recovery import Recovery as FaustRecovery
from mode import Service

from app.errors import PositionMissing, Retry, SkustreamError
from app.exactly_once import metrics
from app.exactly_once.positions import Position, decode_position, positions_topic

if TYPE_CHECKING:
    from app.exactly_once.app import App
    from app.exactly_once.lane import Lane
    from app.exactly_once.store import Table

log = structlog.get_logger(__name__)

RESTORE_RECORDS_A_POLL = 10_000
POLL_MS = 200
TAIL_RECORDS = 64
"""The last position is looked for in this many last offsets first, then in twice as many, and so on."""
STALLED_AFTER_S = 60.0
"""A restore that reads nothing for this long while it should is an error, not a wait."""
RETRY_PAUSE_S = 1.0


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
        self._consumer = AIOKafkaConsumer(
            **self._app.kafka_options,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=4 << 20,
        )
        await self._consumer.start()
        # Assigned once and paused: each change of assignment would wait for a metadata update.
        self._consumer.assign(self._all)
        self._consumer.pause(*self._all)
        self._begins = await self._consumer.beginning_offsets(self._all)
        self._ends = await self._consumer.end_offsets(self._all)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()

    async def restore(self, lane: Lane) -> None:
        """Bring the lane's stores to the end of their changelogs, then give the lane its position."""
        stateful = False
        for table in self._app.state_tables:
            stateful |= await self._restore_table(lane, table)
        lane.position = await self._position(lane, stateful)

    async def _restore_table(self, lane: Lane, table: Table[Any]) -> bool:
        """Restore one table; returns whether its changelog ever held anything."""
        tp = TopicPartition(table.changelog, lane.partition)
        begin, end = self._begins[tp], self._ends[tp]
        store = lane.stores[table]
        if store.offset >= end:
            log.warning(
                "the changelog is shorter than the store: topic recreated; restoring from nothing", tp=tp
            )
            store = lane.stores[table] = self._app.wipe_store(table, lane.partition)
        start = max(store.offset + 1, begin)
        count = 0
        async for records in self._read(tp, start, end):
            store.write({record.key: record.value for record in records}, records[-1].offset)
            count += len(records)
        if end > begin:
            store.write({}, end - 1)
        metrics.RESTORED.labels(lane.service, table.name).inc(count)
        return end > 0

    async def _position(self, lane: Lane, stateful: bool) -> Position:
        """The lane's recorded position, checked against what the source topics still hold.

        Raises:
            PositionMissing: state without a position, or a position outside of its topic.
        """
        found = await self._last_position(TopicPartition(positions_topic(lane.service), lane.partition))
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

    async def _last_position(self, tp: TopicPartition) -> Position | None:
        begin, end = self._begins[tp], self._ends[tp]
        span = TAIL_RECORDS
        while end > begin:
            start = max(begin, end - span)
            last = None
            async for records in self._read(tp, start, end):
                last = records[-1]
            if last is not None:
                return decode_position(last.value)
            if start == begin:
                break
            span *= 2
        return None

    async def _read(self, tp: TopicPartition, start: int, end: int) -> Any:
        """Committed records from ``start`` until the consumer's position reaches ``end``, batch by batch."""
        if start >= end:
            return
        self._consumer.seek(tp, start)
        self._consumer.resume(tp)
        loop = asyncio.get_running_loop()
        progress, reached = loop.time(), start
        while reached < end:
            fetched = await self._consumer.getmany(tp, timeout_ms=POLL_MS, max_records=RESTORE_RECORDS_A_POLL)
            for records in fetched.values():
                inside = [record for record in records if record.offset < end]
                if inside:
                    yield inside
            position = await self._consumer.position(tp)
            if position > reached:
                progress, reached = loop.time(), position
            elif loop.time() - progress > STALLED_AFTER_S:
                raise Retry(f"reading {tp.topic}/{tp.partition} stalled at {reached}, its end is {end}")
        self._consumer.pause(tp)


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
            except SkustreamError as error:
                log.error("the lanes cannot be brought up", error=str(error))
                await self.app.crash(error)


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
