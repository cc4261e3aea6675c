"""Whether the lanes get on: a worker that cannot make progress must not look alive.

Two watches. The *audit* looks at idle lanes whose source holds more than they have taken: either that is only
the markers of transactions, and the position is moved past them so that lag reads zero; or there is a record
that never reached the lane, and the lane is reopened. The *watchdog* is a thread that ends the process when
the event loop does not run.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import sys
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from app.errors import Stale
from app.exactly_once import metrics

if TYPE_CHECKING:
    from app.exactly_once.app import App
    from app.exactly_once.lane import Lane

log = structlog.get_logger(__name__)

AUDIT_S = 5.0
STUCK_AUDITS = 6
"""A record that an idle lane does not take during so many audits (half a minute) has got lost on the way."""
POLL_MS = 200
LOOK_LIMIT_S = 10.0
BEAT_S = 5.0
MISSED_BEATS = 12
"""So many missed beats (a minute) end the process. They are counted, not timed: a process that was stopped
and continued has missed none.
"""
BLOCKED_STATUS = 70


class Audit:
    """Looks after the lanes of an app, one round after the other."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._seen: dict[TopicPartition, int] = {}  # the position of each source partition, a round ago
        self._stuck: dict[tuple[TopicPartition, int], int] = {}  # rounds by partition and position
        self._reopened: set[tuple[TopicPartition, int]] = set()

    def stuck(self) -> list[str]:
        """Where a lane did not take a record for two rounds: ``{topic}/{partition} at {position}``."""
        return [
            f"{tp.topic}/{tp.partition} at {offset}"
            for (tp, offset), rounds in self._stuck.items()
            if rounds > 1
        ]

    async def run(self) -> None:
        """Audit until cancelled; a broker that is away is somebody else's to tell."""
        while True:
            try:
                await self._rounds()
            except (KafkaError, TimeoutError, OSError) as error:
                log.debug("no audit of the lanes", error=repr(error))
                await asyncio.sleep(AUDIT_S)

    async def _rounds(self) -> None:
        consumer = self._app.reader()
        await consumer.start()
        try:
            while True:
                await asyncio.sleep(AUDIT_S)
                async with asyncio.timeout(LOOK_LIMIT_S):
                    await self._round(consumer)
        finally:
            await consumer.stop()

    async def _round(self, consumer: AIOKafkaConsumer) -> None:
        owned = {
            tp: (lane, offset)
            for lane in self._app.lanes.values()
            for tp, offset in lane.source_positions().items()
        }
        positions = {tp: known for tp, known in owned.items() if known[0].idle}
        still = [tp for tp, (_, offset) in positions.items() if self._seen.get(tp) == offset]
        self._seen = {tp: offset for tp, (_, offset) in positions.items()}
        ends = await consumer.end_offsets(list(owned)) if owned else {}
        self._measure(owned, ends)
        behind = {tp: ends[tp] for tp in still if ends[tp] > positions[tp][1]}
        for tp, end in behind.items():
            lane, offset = positions[tp]
            if await _holds_records(consumer, tp, offset, end):
                self._note_stuck(lane, tp, offset)
            else:
                lane.skip(tp.topic, offset, end)
        if behind:
            consumer.unsubscribe()
        self._stuck = {key: rounds for key, rounds in self._stuck.items() if self._seen.get(key[0]) == key[1]}

    def _measure(
        self, owned: Mapping[TopicPartition, tuple[Lane, int]], ends: Mapping[TopicPartition, int]
    ) -> None:
        """Tell how many records of each source topic the lanes of this worker have not taken."""
        lags = dict.fromkeys(self._app.source_topics, 0)
        for tp, (_, offset) in owned.items():
            lags[tp.topic] += max(0, ends[tp] - offset)
        for topic, lag in lags.items():
            metrics.LAG.labels(self._app.service, topic).set(lag)

    def _note_stuck(self, lane: Lane, tp: TopicPartition, offset: int) -> None:
        key = tp, offset
        self._stuck[key] = self._stuck.get(key, 0) + 1
        if self._stuck[key] < STUCK_AUDITS or not lane.idle or lane.source_positions().get(tp) != offset:
            return
        del self._stuck[key]
        error = Stale(f"{tp.topic}/{tp.partition} holds records from {offset} on that never reached the lane")
        if key in self._reopened:
            self._app.end(error)
        self._reopened.add(key)
        lane.give_up(error)


async def _holds_records(consumer: AIOKafkaConsumer, tp: TopicPartition, start: int, end: int) -> bool:
    """Whether there is a committed record between two offsets, and not only markers."""
    consumer.assign([tp])
    consumer.seek(tp, start)
    while await consumer.position(tp) < end:
        if await consumer.getmany(tp, timeout_ms=POLL_MS, max_records=1):
            return True
    return False


class Watchdog:
    """Ends the process, with all stacks on standard error, when the event loop does not run any more."""

    def __init__(self) -> None:
        self._beats = 0
        self._stopped = threading.Event()

    async def run(self) -> None:
        """Beat until cancelled, with the thread that listens."""
        thread = threading.Thread(target=self._listen, name="watchdog", daemon=True)
        thread.start()
        try:
            while True:
                self._beats += 1
                await asyncio.sleep(BEAT_S / 2)
        finally:
            self._stopped.set()

    def _listen(self) -> None:
        heard, missed = -1, 0
        while not self._stopped.wait(BEAT_S):
            missed = missed + 1 if self._beats == heard else 0
            heard = self._beats
            if missed >= MISSED_BEATS:
                print(
                    f"the event loop did not run for {missed * BEAT_S:.0f} s; the worker ends",
                    file=sys.stderr,
                )
                faulthandler.dump_traceback()
                os._exit(BLOCKED_STATUS)
