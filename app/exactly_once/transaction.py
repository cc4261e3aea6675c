"""What a batch has decided and not yet committed: an overlay of the tables, and the records to send."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from app.errors import Stale
from app.exactly_once.partitioner import partition_of

if TYPE_CHECKING:
    from app.exactly_once.lane import Lane
    from app.exactly_once.store import Table

V = TypeVar("V")


class SourceRecord(Protocol):
    """A record as the consumer fetched it (aiokafka's ConsumerRecord)."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


class Outgoing(NamedTuple):
    """A record to be sent in the transaction."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


class Transaction:
    """The staged changes of one batch. Each record's own changes can be dropped without the others'."""

    def __init__(self, lane: Lane, now_ms: int, stream_time_ms: int) -> None:
        self.lane = lane
        self.now_ms = now_ms
        self.stream_time_ms = stream_time_ms
        self.out: list[Outgoing] = []
        self.callbacks: list[Callable[[], None]] = []
        self.dirty: dict[Table[Any], dict[bytes, Any]] = {}
        self._clean: dict[Table[Any], dict[bytes, Any]] = {}
        self._record: dict[Table[Any], dict[bytes, Any]] = {}
        self._record_out = 0
        self._record_callbacks = 0

    def get(self, table: Table[V], key: bytes) -> V | None:
        """The value of a key as this transaction sees it, or None."""
        for overlay in (self._record, self.dirty, self._clean):
            values = overlay.get(table)
            if values is not None and key in values:
                return values[key]  # type: ignore[no-any-return]  # overlays hold every table's type
        raw = self._read(table, key)
        value = table.decode(raw) if raw is not None else None
        self._clean.setdefault(table, {})[key] = value
        return value

    def put(self, table: Table[V], key: bytes, value: V) -> None:
        """Stage a value."""
        self._record.setdefault(table, {})[key] = value

    def delete(self, table: Table[Any], key: bytes) -> None:
        """Stage a deletion: a tombstone in the changelog."""
        self._record.setdefault(table, {})[key] = None

    def emit(
        self,
        topic: str,
        key: bytes,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
        route: bytes | None = None,
    ) -> None:
        """Stage a record; its partition is that of ``route``, or of the key."""
        partition = partition_of(key if route is None else route, self.lane.partitions)
        self.out.append(Outgoing(topic, partition, key, value, headers))

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Run ``callback`` once the transaction is committed, never otherwise."""
        self.callbacks.append(callback)

    def keep(self) -> None:
        """Make the current record's changes part of the batch."""
        for table, values in self._record.items():
            self.dirty.setdefault(table, {}).update(values)
        self._record.clear()
        self._record_out = len(self.out)
        self._record_callbacks = len(self.callbacks)

    def drop(self) -> None:
        """Forget the current record's changes."""
        self._record.clear()
        del self.out[self._record_out :]
        del self.callbacks[self._record_callbacks :]

    def _read(self, table: Table[Any], key: bytes) -> bytes | None:
        try:
            return self.lane.stores[table].get(key)
        except Exception as error:  # rocksdict raises bare exceptions; a failed disk is never a poison record
            raise Stale(f"table {table.name}, lane {self.lane.partition}: read failed: {error}") from error
