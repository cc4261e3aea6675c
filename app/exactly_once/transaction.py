"""What a batch has decided and not yet committed: an overlay of the tables, and the records to send."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self, TypeVar

import msgspec

from app.errors import Bug, Rejected, Stale
from app.exactly_once.partitioner import partition_of

if TYPE_CHECKING:
    from app.exactly_once.ahead import ReadAhead
    from app.exactly_once.lane import Lane
    from app.exactly_once.store import Table

V = TypeVar("V")


Headers = Sequence[tuple[str, bytes | None]]


class SourceRecord(msgspec.Struct, gc=False):
    """A record that was fetched, or what stands for one; ``timestamp`` is in ms."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers

    @classmethod
    def stand_in(cls, topic: str, timestamp: int, key: bytes, value: bytes | None = None) -> Self:
        """What stands for a record where none was fetched: it has no place in the topic."""
        return cls(topic, -1, -1, timestamp, key, value, ())


Outgoing = tuple[str, int, bytes | None, bytes | None, Headers]
"""A record to be sent: topic, partition, key, value, headers. A plain tuple: one is made for each event."""

SMALL_RECORD = 500_000
"""Bytes that every topic takes."""
_MISSING: Any = object()
_NOTHING: Mapping[bytes, Any] = {}
_NO_HEADERS: Headers = []


class _Overlay:
    """One table as a transaction sees it, in layers: what is fresh, what is staged or was read, what is below
    (of the transaction that commits, remembered, read ahead, stored).
    """

    __slots__ = (
        "_lane",
        "_recent",
        "_store",
        "_table",
        "_under",
        "ahead",
        "before",
        "dirty",
        "fresh",
        "known",
    )

    def __init__(self, lane: Lane, table: Table[Any], under: Mapping[bytes, Any]) -> None:
        self.fresh: dict[bytes, Any] = {}  # staged since the last keep
        self.dirty: dict[bytes, Any] = {}  # staged and kept
        self.known: dict[bytes, Any] = {}  # staged and kept, or read
        self.before: dict[bytes, Any] | None = {} if table.derive is not None else None
        self._lane = lane
        self._table = table
        self._under = under
        self._store = lane.stores[table]
        self._recent = lane.recent.get(table)
        self.ahead: Mapping[bytes, bytes | None] = _NOTHING

    def kept(self, key: bytes) -> Any:
        """The value of a key but for what is fresh."""
        value = self.known.get(key, _MISSING)
        if value is _MISSING:
            value = self.known[key] = self._below(key)
        return value

    def read_before(self) -> None:
        """Read what the fresh values replace, if the table derives from that."""
        before = self.before
        if before is not None:
            for key in self.fresh:
                if key not in before:
                    before[key] = self.kept(key)

    def keep(self) -> None:
        """Make what is fresh part of what is staged."""
        self.known.update(self.fresh)
        self.dirty.update(self.fresh)
        self.fresh.clear()

    def settle(self) -> None:
        """What was under it is committed: its values are in the stores."""
        self._under = _NOTHING

    def _below(self, key: bytes) -> Any:
        value = self._under.get(key, _MISSING)
        if value is not _MISSING:
            return value
        raw = _MISSING if self._recent is None else self._recent.get(key, _MISSING)
        if raw is _MISSING:
            raw = self.ahead.get(key, _MISSING)
        if raw is _MISSING:
            raw = self._stored(key)
        return self._table.decode(raw) if raw is not None else None

    def _stored(self, key: bytes) -> bytes | None:
        try:
            return self._store.get(key)
        except Exception as error:  # rocksdict raises bare exceptions; a failed disk is never a poison record
            where = f"table {self._table.name}, lane {self._lane.partition}"
            raise Stale(f"{where}: read failed: {error}") from error


class Transaction:
    """The staged changes of what is decided together: what was staged since the last ``keep`` can be dropped.

    ``under`` is the transaction that commits meanwhile: its values are read as if they were stored.
    Values are shared between transactions and must not be changed in place.
    """

    def __init__(
        self, lane: Lane, now_ms: int, stream_time_ms: int, under: Transaction | None = None
    ) -> None:
        self.lane = lane
        self.now_ms = now_ms
        self.stream_time_ms = stream_time_ms
        self.record_key: bytes | None = None  # known to hash to this lane
        self.out: list[Outgoing] = []
        self.callbacks: list[Callable[[], None]] = []
        self.size = 0  # bytes to be sent
        below = under._overlays if under is not None else {}
        self._overlays: dict[Table[Any], _Overlay] = {
            table: _Overlay(lane, table, below[table].dirty if table in below else _NOTHING)
            for table in lane.stores
        }
        self._partition, self._partitions = lane.partition, lane.partitions
        self._kept_out = 0
        self._kept_size = 0
        self._kept_stream_time_ms = stream_time_ms
        self._kept_callbacks = 0

    def get(self, table: Table[V], key: bytes) -> V | None:
        """The value of a key as this transaction sees it, or None."""
        overlay = self._overlays[table]
        value = overlay.fresh.get(key, _MISSING)
        return overlay.kept(key) if value is _MISSING else value  # type: ignore[no-any-return]  # of any type

    def put(self, table: Table[V], key: bytes, value: V) -> None:
        """Stage a value."""
        self._overlays[table].fresh[key] = value

    def delete(self, table: Table[Any], key: bytes) -> None:
        """Stage a deletion: a tombstone in the changelog."""
        self._overlays[table].fresh[key] = None

    def changes(self) -> dict[Table[Any], dict[bytes, Any]]:
        """The staged values of every table that has any."""
        return {table: overlay.dirty for table, overlay in self._overlays.items() if overlay.dirty}

    @contextmanager
    def using(self, ahead: ReadAhead | None) -> Iterator[Mapping[bytes, bytes | None]]:
        """What was read ahead is not looked up meanwhile: the stores hold it until the next commit."""
        if ahead is None:
            yield _NOTHING
            return
        overlay = self._overlays[ahead.table]
        overlay.ahead = ahead.values
        try:
            yield ahead.values
        finally:
            overlay.ahead = _NOTHING

    def settle(self) -> None:
        """Let go of the transaction below this one: it is committed."""
        for overlay in self._overlays.values():
            overlay.settle()

    def emit(
        self,
        topic: str,
        key: bytes,
        value: bytes | None,
        headers: list[tuple[str, bytes]] | None = None,
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
        if route is None and key == self.record_key:
            partition = self._partition
        else:
            partition = partition_of(key if route is None else route, self._partitions)
        self.out.append((topic, partition, key, value, headers or _NO_HEADERS))

    def derive(self) -> None:
        """Stage what follows from the changed values of each table, once for each key."""
        for table, overlay in self._overlays.items():
            if overlay.before is not None:
                for key, after in overlay.dirty.items():
                    self._derive(table, key, overlay.before[key], after)
        self.keep()

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
        """Make what was staged since the last time part of the transaction.

        Raises what reading raises; then nothing is kept.
        """
        changed = [overlay for overlay in self._overlays.values() if overlay.fresh]
        for overlay in changed:
            overlay.read_before()
        for overlay in changed:
            overlay.keep()
        self._kept_out = len(self.out)
        self._kept_size = self.size
        self._kept_stream_time_ms = self.stream_time_ms
        self._kept_callbacks = len(self.callbacks)

    def drop(self) -> None:
        """Forget what was staged since the last ``keep``, and how far stream time has come since then."""
        for overlay in self._overlays.values():
            overlay.fresh.clear()
        del self.out[self._kept_out :]
        self.size = self._kept_size
        self.stream_time_ms = self._kept_stream_time_ms
        del self.callbacks[self._kept_callbacks :]
