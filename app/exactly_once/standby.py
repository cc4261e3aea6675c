"""Standby replicas: stores of lanes that other workers own, kept close to the ends of their changelogs.

A standby is promoted by being closed: the lane that opens its stores next restores only their tail.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from app.exactly_once import metrics

if TYPE_CHECKING:
    from app.exactly_once.app import App
    from app.exactly_once.store import PartitionStore, Table

log = structlog.get_logger(__name__)

RECORDS_A_POLL = 10_000
POLL_MS = 500
RETRY_PAUSE_S = 1.0
STOP_LIMIT_S = 2.0


class Standbys:
    """Follows the changelogs of some partitions until it is stopped."""

    def __init__(self, app: App, partitions: Iterable[int]) -> None:
        self.partitions = sorted(partitions)
        self._app = app
        self._stores: dict[TopicPartition, PartitionStore] = {}
        self._tables: dict[TopicPartition, Table[Any]] = {}
        self._behind: dict[TopicPartition, int] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Open the stores and follow; a failed disk ends the worker, a missing broker is waited for."""
        self._task = self._app.background(self._run(), f"standby of lanes {self.partitions}")

    async def stop(self) -> None:
        """Stop following and release the stores."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        for store in self._stores.values():
            store.close()
        self._stores.clear()

    def lags(self) -> dict[int, int]:
        """Changelog offsets that the stores of each lane are behind, markers included; -1 until known."""
        return {
            partition: max((lag for tp, lag in self._behind.items() if tp.partition == partition), default=-1)
            for partition in self.partitions
        }

    async def _run(self) -> None:
        for table in self._app.state_tables:
            for partition in self.partitions:
                tp = TopicPartition(table.changelog, partition)
                self._stores[tp] = await self._app.open_standby(table, partition)
                self._tables[tp] = table
        while True:
            try:
                await self._follow()
            except (KafkaError, OSError) as error:
                log.warning("a standby lost its broker; trying again", error=repr(error))
                await asyncio.sleep(RETRY_PAUSE_S)

    async def _follow(self) -> None:
        consumer = self._app.reader()
        await consumer.start()
        try:
            consumer.assign(list(self._stores))
            for tp, store in self._stores.items():
                consumer.seek(tp, store.offset + 1)
            while True:
                fetched = await consumer.getmany(timeout_ms=POLL_MS, max_records=RECORDS_A_POLL)
                for tp, records in fetched.items():
                    self._stores[tp].write(self._tables[tp].restored(records), records[-1].offset)
                await self._note_lags(consumer)
        finally:
            with suppress(KafkaError, TimeoutError):
                await asyncio.wait_for(consumer.stop(), STOP_LIMIT_S)

    async def _note_lags(self, consumer: AIOKafkaConsumer) -> None:
        for tp in self._stores:
            end = consumer.last_stable_offset(tp)
            if end is not None and end >= 0:
                self._behind[tp] = max(0, end - await consumer.position(tp))
        for partition, lag in self.lags().items():
            metrics.STANDBY_LAG.labels(self._app.service, str(partition)).set(lag)
