"""What a batch has decided and not yet committed: an overlay of the tables, and the records to send."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from app.errors import Bug, Rejected, Stale
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


Outgoing = tuple[str, int, bytes | None, bytes | None, Sequence[tuple[str, bytes]]]
"""A record to be sent: topic, partition, key, value, headers. A plain tuple: one is made for each event."""

SMALL_RECORD = 500_000
"""Bytes that every topic takes."""
_MISSING: Any = object()


class Transaction:
    """The staged changes of what is decided together. Each record's own changes can be dropped alone.

    ``under`` is the transaction that commits meanwhile: its values are read as if they were stored.
    Values are shared between transactions and must not be changed in place.
    """

    def __init__(
        self, lane: Lane, now_ms: int, stream_time_ms: int, under: Transaction | None = None
    ) -> None:
        self.lane = lane
        self.now_ms = now_ms
        self.stream_time_ms = stream_time_ms
        self.under = under
        self.out: list[Outgoing] = []
        self.callbacks: list[Callable[[], None]] = []
        self.size = 0  # bytes to be sent
        self.dirty: dict[Table[Any], dict[bytes, Any]] = {}
        self._before: dict[Table[Any], dict[bytes, Any]] = {}  # of tables that something is derived from
        self._known: dict[Table[Any], dict[bytes, Any]] = {table: {} for table in lane.stores}
        self._undo: list[tuple[Table[Any], bytes, Any, Any]] = []  # table, key, known and dirty before
        self._kept_out = 0
        self._kept_callbacks = 0

    def get(self, table: Table[V], key: bytes) -> V | None:
        """The value of a key as this transaction sees it, or None."""
        known = self._known[table]
        value = known.get(key, _MISSING)
        if value is _MISSING:
            value = known[key] = self._below(table, key)
        return value  # type: ignore[no-any-return]  # the overlay holds every table's type

    def put(self, table: Table[V], key: bytes, value: V) -> None:
        """Stage a value."""
        self._stage(table, key, value)

    def delete(self, table: Table[Any], key: bytes) -> None:
        """Stage a deletion: a tombstone in the changelog."""
        self._stage(table, key, None)

    def emit(
        self,
        topic: str,
        key: bytes,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
        route: bytes | None = None,
    ) -> None:
        """Stage a record; its partition is that of ``route``, or of the key.

        Raises:
            Rejected: when it is larger than its topic takes; the whole transaction would fail with it.
        """
        if value is not None:
            size = len(value)
            if size > SMALL_RECORD and size > self.lane.app.record_limit(topic):
                raise Rejected(f"{topic}: a record of {size} bytes would be made, its topic takes less")
            self.size += size
        partition = partition_of(key if route is None else route, self.lane.partitions)
        self.out.append((topic, partition, key, value, headers))

    def derive(self) -> None:
        """Stage what follows from the changed values of each table, once for each key."""
        for table, values in self.dirty.items():
            if table.derive is not None:
                before = self._before[table]
                for key, after in values.items():
                    self._derive(table, key, before[key], after)

    def _derive(self, table: Table[Any], key: bytes, before: Any, after: Any) -> None:
        assert table.derive is not None, "asked before"
        try:
            table.derive(self, key, before, after)
        except Exception as error:  # it would come again with every try
            raise Bug(f"table {table.name}: deriving from {key!r} failed: {error!r}") from error

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Run ``callback`` once the transaction is committed, never otherwise."""
        self.callbacks.append(callback)

    def keep(self) -> None:
        """Make the current record's changes part of the transaction."""
        self._undo.clear()
        self._kept_out = len(self.out)
        self._kept_callbacks = len(self.callbacks)

    def drop(self) -> None:
        """Forget the current record's changes."""
        for table, key, known, dirty in reversed(self._undo):
            _restore(self._known[table], key, known)
            _restore(self.dirty[table], key, dirty)
        self._undo.clear()
        del self.out[self._kept_out :]
        del self.callbacks[self._kept_callbacks :]

    def _stage(self, table: Table[Any], key: bytes, value: Any) -> None:
        known = self._known[table]
        dirty = self.dirty.get(table)
        if dirty is None:
            dirty = self.dirty[table] = {}
        if table.derive is not None and key not in dirty:
            self._before.setdefault(table, {})[key] = self.get(table, key)
        self._undo.append((table, key, known.get(key, _MISSING), dirty.get(key, _MISSING)))
        known[key] = dirty[key] = value

    def _below(self, table: Table[V], key: bytes) -> V | None:
        if self.under is not None:
            values = self.under.dirty.get(table)
            if values is not None and key in values:
                return values[key]  # type: ignore[no-any-return]  # as in get
        recent = self.lane.recent[table].get(key, _MISSING)
        if recent is not _MISSING:
            return recent  # type: ignore[no-any-return]  # as in get
        try:
            raw = self.lane.stores[table].get(key)
        except Exception as error:  # rocksdict raises bare exceptions; a failed disk is never a poison record
            raise Stale(f"table {table.name}, lane {self.lane.partition}: read failed: {error}") from error
        return table.decode(raw) if raw is not None else None


def _restore(values: dict[bytes, Any], key: bytes, before: Any) -> None:
    if before is _MISSING:
        values.pop(key, None)
    else:
        values[key] = before
