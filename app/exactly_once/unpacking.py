"""What the consumer makes of fetched bytes: half of the work of aiokafka's own records.

aiokafka makes a dataclass of eleven fields for each record, by way of three Python frames; ``SourceRecord``
has what is used of it. aiokafka looks the class that unpacks up in its module, so it is exchanged there, for
all consumers of the process; they have no deserializers. Which records of a fetch count (aborted ones,
markers) stays aiokafka's decision.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aiokafka.consumer import fetcher

from app.exactly_once.transaction import SourceRecord


class Unpacked(fetcher.PartitionRecords):  # type: ignore[misc]  # aiokafka ships no types
    """The records of a fetched partition."""

    def __iter__(self) -> Iterator[SourceRecord]:
        """The generator itself, without a call of this object for each record."""
        records: Iterator[SourceRecord] = self._records_iterator
        return records

    def _consumer_record(self, tp: Any, record: Any) -> SourceRecord:
        return SourceRecord(
            tp.topic, tp.partition, record.offset, record.timestamp, record.key, record.value, record.headers
        )


def install() -> None:
    """Let every consumer that is made from now on unpack like this."""
    fetcher.PartitionRecords = Unpacked
