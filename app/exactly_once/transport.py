"""Faust's transport, handing over a partition's fetched records as one batch."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import faust
from aiokafka import AIOKafkaConsumer
from faust.transport.drivers import aiokafka as driver
from faust.types import ConsumerMessage

from app.exactly_once.transaction import SourceRecord

FULL_LANE_POLL_S = 0.05
"""How long a fetch may wait while some lane is full: it may want records again any moment."""

FETCH_MIN_BYTES, FETCH_WAIT_MS = 64 << 10, 40
"""A broker answers when it has so much, or after so long: at a trickle of records it is asked 25 times a
second, not with every record. Less than a busy lane waits between two commits (``PACE_LIMIT_S``).
"""
IDLE_MIN_BYTES, IDLE_WAIT_MS = 1, 500
"""Of a consumer that has got nothing for a while: it asks seldom, and what comes first is told at once."""


class Batch(NamedTuple):
    """Records fetched together from one partition.

    ``fetched_from`` is the offset the fetch began at: a lane compares it with the position its last
    commit ended at, so that nothing dropped on the way is ever skipped.
    """

    topic: str
    partition: int
    records: list[SourceRecord]
    fetched_from: int | None
    epoch: int
    behind: int = 0  # records of the partition that come after these, as far as the consumer knows


class BatchSchema(faust.Schema):  # type: ignore[misc]  # faust ships no types
    """Passes batches through untouched; decoding is the agent's."""

    def loads_key(self, app: Any, message: Any, **_: Any) -> Any:
        """The message's own key."""
        return message.key

    def loads_value(self, app: Any, message: Any, **_: Any) -> Any:
        """The message's own value."""
        return message.value


class ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]  # faust ships no types
    """Faust's consumer thread with a ``read_committed`` consumer."""

    def _create_worker_consumer(self, transport: Any) -> AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"  # Faust sets it only in its own transaction mode
        # Faust has no settings for these; ``_fetch_records`` changes them.
        consumer._fetch_min_bytes, consumer._fetch_max_wait_ms = IDLE_MIN_BYTES, IDLE_WAIT_MS
        return consumer

    async def _fetch_records(
        self, consumer: AIOKafkaConsumer, active_partitions: set[Any], timeout: float | None = None,
        max_records: int | None = None,
    ) -> Any:  # fmt: skip
        """Take up to ``max_records`` from every partition: aiokafka would empty one before the next,
        so that the lanes took turns.
        """
        fetched = await super()._fetch_records(consumer, active_partitions, timeout, max_records) or {}
        fetcher = consumer._fetcher
        if fetched:
            fetcher._fetch_min_bytes, fetcher._fetch_max_wait_ms = FETCH_MIN_BYTES, FETCH_WAIT_MS
        elif active_partitions:  # nothing for the whole of the timeout
            fetcher._fetch_min_bytes, fetcher._fetch_max_wait_ms = IDLE_MIN_BYTES, IDLE_WAIT_MS
        for tp in (active_partitions or set()) - fetched.keys():
            fetched.update(await super()._fetch_records(consumer, {tp}, 0, max_records) or {})
        return fetched

    def request_rejoin(self) -> None:
        """Ask the group coordinator for a new generation; safe from any thread."""
        coordinator = self._ensure_consumer()._coordinator
        self.thread_loop.call_soon_threadsafe(coordinator.request_rejoin)


class Consumer(driver.Consumer):  # type: ignore[misc]  # faust ships no types
    """Yields one message per fetched partition of a batch topic: its value is a :class:`Batch`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fetch_position: dict[Any, int] = {}
        self._seeks = 0  # begun or ended: tells a fetch that a seek overtook from one that none did

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    def request_rejoin(self) -> None:
        """Leave the current generation and ask for a new one."""
        self._thread.request_rejoin()

    def _get_active_partitions(self) -> set[Any]:
        full = self.app.full_lanes()
        active = super()._get_active_partitions()
        return {tp for tp in active if tp.partition not in full} if full else active

    async def verify_all_partitions_active(self) -> None:
        """Leave it to the audit of the lanes (``progress``): Faust would look for events in its own streams,
        and after five minutes report every changelog as stalled.
        """

    async def perform_seek(self) -> None:
        """Seek every source partition to its lane's own position, not to the group's offsets."""
        self._seeks += 1
        for tp in self.assignment():
            await self._seek_to_lane(tp)
        self._seeks += 1

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[Any, Any]]:
        """Fetch, and yield each partition's records as one message.

        What is fetched and not handed over would be missing until the next record of its partition shows
        the gap, which may be never: so its partition is sought again.
        """
        await self.app.wait_for_room()
        if not self.flow_active:
            # Lanes change and seek while the flow is stopped: they are looked at after it.
            await self.wait(self.can_resume_flow)
        limit = FULL_LANE_POLL_S if self.app.full_lanes() else timeout
        epochs, seeks = self.app.lane_epochs(), self._seeks
        records, active = await self._wait_next_records(limit)
        generation = self.app.consumer_generation_id
        if records is None or self.should_stop:
            return
        for tp, fetched in records.items():
            current = self._seeks == seeks and self.flow_active
            current &= self.app.consumer_generation_id == generation
            wanted = active is None or tp in active or tp in self._buffered_partitions
            if not (current and wanted):
                await self._seek_to_lane(tp)
                continue
            fetched_from = self.fetch_position.get(tp)
            self.fetch_position[tp] = fetched[-1].offset + 1
            behind = (self.highwater(tp) or 0) - fetched[-1].offset - 1
            epoch = epochs.get(tp.partition, -1)
            batch = Batch(tp.topic, tp.partition, fetched, fetched_from, epoch, behind)
            yield tp, _message(tp, batch, generation)

    async def _seek_to_lane(self, tp: Any) -> None:
        """Fetch the partition from its lane's position; nothing to do when no lane of ours owns it."""
        offset = self.app.source_position(tp.topic, tp.partition)
        if offset is not None and tp in self.assignment():
            self.fetch_position[tp] = offset
            await self.seek(tp, offset)


def _message(tp: Any, batch: Batch, generation: int) -> Any:
    last = batch.records[-1]
    return ConsumerMessage(
        tp.topic, tp.partition, last.offset, last.timestamp / 1000, 0, (), None, batch, None, 0, 0, tp,
        generation_id=generation,
    )  # fmt: skip


class Transport(driver.Transport):  # type: ignore[misc]  # faust ships no types
    """Faust's aiokafka transport with the batch consumer."""

    Consumer = Consumer
