"""How far a service is behind: the records of its sources that no transaction has taken yet."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, TopicPartition

from app.errors import Retry
from app.exactly_once.positions import positions_topic
from app.exactly_once.reading import Offsets, parts_reader, records_between
from app.exactly_once.set_positions import last_positions
from app.settings import Settings

COUNTED = 200
"""Up to this many offsets are looked at one by one: the marker of a transaction takes one."""
POLLS = 10
LOOK_S = 0.5


class NotTaken(Retry):
    """A service has not taken its input in time; it may be away, or far behind."""


async def lag_of(settings: Settings, service: str, sources: Sequence[str]) -> int:
    """Records that the service has not taken, over all its lanes."""
    return sum((await lane_lags(settings, service, sources)).values())


async def lane_lags(settings: Settings, service: str, sources: Sequence[str]) -> dict[int, int]:
    """Records that the service has not taken, by lane."""
    async with lag_reader(settings, [service], sources) as reader:
        return await reader.lags(service, await reader.committed_ends(sources))


async def wait_taken(settings: Settings, service: str, source: str, limit_s: float) -> None:
    """Return when a service has taken all that is in a source now; see ``LagReader``."""
    async with lag_reader(settings, [service], [source]) as reader:
        await reader.wait_taken(service, source, limit_s)


@asynccontextmanager
async def lag_reader(
    settings: Settings, services: Iterable[str], topics: Iterable[str]
) -> AsyncIterator[LagReader]:
    """A reader of these topics, and of how far these services are, with its consumers."""
    names = [*topics, *(positions_topic(service) for service in services)]
    parts = [TopicPartition(name, number) for name in names for number in range(settings.partitions)]
    options = settings.kafka_options()
    async with (
        parts_reader(options, parts) as committed,
        parts_reader(options, parts, committed=False) as written,
    ):
        yield LagReader(settings.partitions, committed, written)


class LagReader:
    """Reads positions and topics as far as they are committed, up to ends that count what is not.

    A transaction becomes visible one partition after the other. Whoever has seen one of its records knows
    that the others are there, not that they can be read: so what has to be read ends where the log does.
    """

    def __init__(self, partitions: int, committed: AIOKafkaConsumer, written: AIOKafkaConsumer) -> None:
        self._partitions = partitions
        self._committed = committed
        self._written = written
        self._values: dict[str, dict[bytes, bytes | None]] = defaultdict(dict)  # by topic, as far as read
        self._read: dict[TopicPartition, int] = {}  # up to where

    async def committed_ends(self, topics: Sequence[str]) -> Offsets:
        """The end of what is committed."""
        return dict(await self._committed.end_offsets(self._parts(topics)))

    async def wait_taken(self, service: str, source: str, limit_s: float) -> None:
        """Return when a service has taken all that is in a source now, whatever comes after.

        Raises:
            NotTaken: naming the service and what it has left after the limit.
        """
        ends = dict(await self._written.end_offsets(self._parts([source])))
        end = asyncio.get_running_loop().time() + limit_s
        while behind := sum((await self.lags(service, ends)).values()):
            if asyncio.get_running_loop().time() >= end:
                raise NotTaken(
                    f"{service} has not taken {behind} records of {source} in {limit_s:.0f} s: is it up?"
                )
            await asyncio.sleep(LOOK_S)

    async def last_values(self, topic: str) -> dict[bytes, bytes]:
        """The newest value of each key of a compacted topic, of all that was written when this was asked."""
        ends = dict(await self._written.end_offsets(self._parts([topic])))
        begins = await self._committed.beginning_offsets(list(ends))
        values = self._values[topic]
        starts = {part: self._read.get(part, begin) for part, begin in begins.items()}
        async for records in records_between(self._committed, starts, ends):
            values.update((record.key, record.value) for record in records)
        self._read.update({part: await self._committed.position(part) for part in ends})
        return {key: value for key, value in values.items() if value is not None}

    async def lags(self, service: str, ends: Offsets) -> dict[int, int]:
        """Records before ``ends`` that a service has not taken, by lane.

        A position outside of its topic counts as not having taken anything: the service cannot start on it.
        """
        positions = await last_positions(self._committed, self._parts([positions_topic(service)]))
        parts = list(ends)
        begins = await self._committed.beginning_offsets(parts)
        log_ends = await self._written.end_offsets(parts)
        behind: dict[TopicPartition, int] = {}
        for part, end in ends.items():
            position = positions.get(part.partition)
            start = position.offsets.get(part.topic) if position is not None else None
            if start is None or start > log_ends[part]:
                start = begins[part]
            if end > start:
                behind[part] = start
        offsets = Counter(dict.fromkeys(range(self._partitions), 0))
        for part, start in behind.items():
            offsets[part.partition] += ends[part] - start
        if offsets.total() <= COUNTED and behind:
            counted = await self._count({part: max(at, begins[part]) for part, at in behind.items()}, ends)
            lost = {part.partition for part, at in behind.items() if at < begins[part]}
            return {lane: counted[lane] + (lane in lost) for lane in range(self._partitions)}
        return dict(offsets)

    async def _count(self, behind: Offsets, ends: Offsets) -> Counter[int]:
        """Records between those offsets, by lane; what cannot be looked at in time counts as records."""
        total: Counter[int] = Counter()
        async for records in records_between(self._committed, behind, ends, polls=POLLS):
            for record in records:
                part = TopicPartition(record.topic, record.partition)
                total[record.partition] += record.offset < ends[part]
        left = {part: at for part in behind if (at := await self._committed.position(part)) < ends[part]}
        for part, at in left.items():
            total[part.partition] += ends[part] - at
        return total

    def _parts(self, topics: Sequence[str]) -> list[TopicPartition]:
        return [TopicPartition(topic, number) for topic in topics for number in range(self._partitions)]
