"""Committed state on local disk: one RocksDB per table and partition, written after each commit only."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import takewhile
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec
import rocksdict
import structlog
from faust.stores.base import SerializedStore

from app.errors import Bug, LaneLost, Misconfigured, Stale, StoreBroken, StoreLocked

if TYPE_CHECKING:
    from app.exactly_once.transaction import Transaction

log = structlog.get_logger(__name__)

V = TypeVar("V")
Derive = Callable[["Transaction", bytes, V | None, V | None], None]
Upgrade = Callable[[bytes, int], bytes]

OFFSET_KEY = b"\x00skustream.offset"
VERSION_KEY = b"\x00skustream.version"
_OWN_KEYS = frozenset({OFFSET_KEY, VERSION_KEY})
VERSION_HEADER = "table_version"
"""Of changelog records whose table has another version than 1."""
LOCK_LIMIT_S, LOCK_POLL_S = 15.0, 0.5
_DISK_ERRORS = ("No space left", "Read-only file system", "Permission denied", "Not a directory")
WRITE_BUFFER_BYTES = 8 << 20
"""One memtable: each partition of each table has its own database."""
ALL_WRITE_BUFFERS_BYTES = 32 << 20
BLOCK_CACHE_BYTES = 32 << 20
"""Shared by all databases of the process, so that memory does not grow with the number of lanes."""
RECENT_BYTES = 16 << 20
"""What the remembered values of all lanes and tables of a process may take, about."""
ENTRY_BYTES = 200
"""What a remembered value takes beside its JSON: its key, its place, and the objects' heads."""
BLOOM_BITS_PER_KEY = 10
"""About 1 % false positives: most lookups of seen ids are for keys that are not there."""
MEMTABLE_BLOOM = 0.05
"""The share of a memtable that its own bloom filter takes; it halves a lookup of a key that is not there."""


class PartitionStore:
    """The database of one partition of one table; the changelog offset rises with every write."""

    def __init__(self, path: Path, version: int = 1) -> None:
        """Open or create the database.

        Raises:
            StoreLocked: when another process holds it; names the path and the process.
            StoreBroken: when its files cannot be read as a database, or hold values of another version.
            Stale: when the disk is full or may not be written; names the path.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.unused_s = _unused_s(path)
        self._closed = False
        self._reading = Lock()  # held by a thread that reads: closing waits for it
        try:
            self._db = rocksdict.Rdict(str(path), options=_options())
        except Exception as error:  # rocksdict raises a bare Exception for every failure to open
            raise _cannot_open(path, str(error)) from error
        stored = self._db.get(OFFSET_KEY)
        self.offset: int = int(stored) if stored else -1
        # Stores that were written before versions were kept hold values of the first one.
        found = int(self._db.get(VERSION_KEY) or (version if stored is None else 1))
        if found != version:
            self._db.close()
            raise StoreBroken(f"store {path}: holds values of version {found}, the code has {version}")
        if stored is None:
            self._db.put(VERSION_KEY, str(version).encode())

    @classmethod
    async def opened(cls, path: Path, version: int = 1) -> PartitionStore:
        """Open a store: one that is locked is waited for, a broken one begins anew; the changelog has all.

        Raises:
            StoreLocked: when the other process does not let go in time.
            Stale: as the constructor.
        """
        end = time.monotonic() + LOCK_LIMIT_S
        while True:
            try:
                return cls(path, version)
            except StoreLocked as error:
                if time.monotonic() > end:
                    raise
                log.warning("waiting for a store", error=str(error))
                await asyncio.sleep(LOCK_POLL_S)
            except StoreBroken as error:
                log.warning("a store begins anew; it is restored from its changelog", error=str(error))
                shutil.rmtree(path)

    def get(self, key: bytes) -> bytes | None:
        """The committed bytes of a key."""
        value: bytes | None = self._db.get(key)
        return value

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The committed bytes of many keys; other threads run meanwhile, and may write.

        Raises:
            LaneLost: when the store is closed.
            Stale: when the disk is broken.
        """
        with self._reading:
            self._require_open()
            try:
                values: list[bytes | None] = self._db.get(keys)
            except Exception as error:  # as rocksdict tells it
                raise Stale(f"cannot read the store {self.path} (SKUSTREAM_DATA_DIR): {error}") from error
        return values

    def write(self, items: Mapping[bytes, bytes | None], offset: int) -> None:
        """Write committed values (None deletes) together with their changelog offset.

        Raises:
            Stale: when the disk is full or broken.
            LaneLost: when the store was closed meanwhile, because a rebalance took the lane.
            Bug: when the offset falls, because then two owners write the same store.
        """
        self._require_open()
        if offset < self.offset:
            raise Bug(f"store {self.path}: offset {offset} after {self.offset}")
        batch = rocksdict.WriteBatch(raw_mode=True)
        for key, value in items.items():
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        batch.put(OFFSET_KEY, str(offset).encode())
        try:
            self._db.write(batch)
        except Exception as error:  # a full disk, as rocksdict tells it
            raise Stale(f"cannot write the store {self.path} (SKUSTREAM_DATA_DIR): {error}") from error
        self.offset = offset

    def scan(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Every committed key and value, in key order; with ``prefix`` those whose key begins with it."""
        found = self._db.items(from_key=prefix) if prefix else self._db.items()
        ours = ((key, value) for key, value in found if key not in _OWN_KEYS)
        return takewhile(lambda item: item[0].startswith(prefix), ours)

    def _require_open(self) -> None:
        if self._closed:
            raise LaneLost(f"store {self.path}: closed by a rebalance")

    def close(self) -> None:
        """Release the database and its lock."""
        if not self._closed:
            self._closed = True
            with self._reading:
                self._db.close()


class StoreView:
    """A look at a store that another process may be writing: what it held when the view was opened."""

    def __init__(self, path: Path) -> None:
        """Open the view.

        Raises:
            Stale: when there is no store that can be read; names the path.
        """
        options = rocksdict.Options(raw_mode=True)
        options.set_max_open_files(-1)  # the writer may delete files that are read
        try:
            self._db = rocksdict.Rdict(str(path), options, access_type=rocksdict.AccessType.read_only())
        except Exception as error:  # rocksdict raises a bare Exception for every failure to open
            raise Stale(f"cannot read the store {path}: {error}") from error
        stored = self._db.get(OFFSET_KEY)
        self.offset: int = int(stored) if stored else -1

    def scan(self) -> Iterator[tuple[bytes, bytes]]:
        """Every key and value, in key order."""
        return ((key, value) for key, value in self._db.items() if key not in _OWN_KEYS)

    def close(self) -> None:
        """Release the view."""
        self._db.close()


def _unused_s(path: Path) -> float:
    """Seconds since anything was written below a directory; 0 for a new one."""
    written = max((file.stat().st_mtime for file in path.glob("*")), default=time.time())
    return time.time() - written


def _cannot_open(path: Path, error: str) -> Stale:
    if "lock hold" in error or "LOCK" in error:
        return StoreLocked(f"store {path} (SKUSTREAM_DATA_DIR) is open in {_holder(path)}")
    if any(text in error for text in _DISK_ERRORS):
        return Stale(f"cannot open the store {path} (SKUSTREAM_DATA_DIR): {error}")
    return StoreBroken(f"store {path}: {error}")


def _holder(path: Path) -> str:
    """The process that has a store's lock, where the system tells (Linux: /proc/locks)."""
    try:
        inode = (path / "LOCK").stat().st_ino
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if fields[5].rpartition(":")[2] == str(inode):
                return f"process {fields[4]}"
    except (OSError, IndexError):
        pass
    return "another process"


@cache
def _shared() -> tuple[rocksdict.WriteBufferManager, rocksdict.Cache]:
    manager = rocksdict.WriteBufferManager(ALL_WRITE_BUFFERS_BYTES, False)
    return manager, rocksdict.Cache(BLOCK_CACHE_BYTES)


def _options() -> rocksdict.Options:
    """For point reads and batch writes: bloom filters, and bounded memory over all databases.

    Indexes and filters stay out of the cache, about five bytes a key: in it, the data of a few million keys
    pushes them out, and every look-up reads megabytes to find a block.
    """
    write_buffers, block_cache = _shared()
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(WRITE_BUFFER_BYTES)
    options.set_write_buffer_manager(write_buffers)
    options.set_memtable_prefix_bloom_ratio(MEMTABLE_BLOOM)
    options.set_memtable_whole_key_filtering(True)
    options.set_max_open_files(64)
    blocks = rocksdict.BlockBasedOptions()
    blocks.set_block_cache(block_cache)
    blocks.set_cache_index_and_filter_blocks(False)
    blocks.set_bloom_filter(BLOOM_BITS_PER_KEY, block_based=False)
    options.set_block_based_table_factory(blocks)
    return options


class RecentValues:
    """Committed values of one table in one lane, as JSON, bounded: what was not used for long is forgotten.

    Decoding one costs a fraction of looking it up in the store, and five times as many fit as JSON.
    Two generations instead of an order of use: a lookup costs one or two dictionary reads.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes // 2
        self._size = 0
        self._young: dict[bytes, bytes | None] = {}
        self._old: dict[bytes, bytes | None] = {}

    def get(self, key: bytes, default: Any) -> Any:
        """The value of a key (None: known to be absent), or ``default``."""
        value = self._young.get(key, default)
        if value is default:
            value = self._old.get(key, default)
        return value

    def update(self, values: Mapping[bytes, bytes | None]) -> None:
        """Remember committed values."""
        self._young.update(values)
        self._size += len(values) * ENTRY_BYTES + sum(map(len, filter(None, values.values())))
        if self._size > self._limit:
            self._old, self._young, self._size = self._young, {}, 0


class Table(Generic[V]):
    """A typed, changelogged table of a service; values are JSON of ``value_type``.

    ``derive`` is called once for each key that a transaction changed, with its value before and after: it
    emits what others shall know of the new state, whatever number of records changed it. A table whose values
    are hardly ever asked for again sets ``remember`` to false and leaves the memory for them to the others.

    A new field with a default needs nothing. Any other change of ``value_type`` raises ``version`` and brings
    ``upgrade``, which makes the JSON of the current version of that of an older one: stores of another
    version are dropped, and the changelog is upgraded as it is restored.
    """

    def __init__(
        self,
        name: str,
        value_type: type[V],
        changelog: str,
        derive: Derive[V] | None = None,
        version: int = 1,
        upgrade: Upgrade | None = None,
        remember: bool = True,
    ) -> None:
        self.name = name
        self.changelog = changelog
        self.derive = derive
        self.version = version
        self.remember = remember
        self.headers = [(VERSION_HEADER, str(version).encode())] if version != 1 else []
        self._upgrade = upgrade
        self.encode = msgspec.json.Encoder().encode
        self.decode = msgspec.json.Decoder(value_type).decode

    def restored(self, records: Iterable[Any]) -> dict[bytes, bytes | None]:
        """The last values of changelog records, in the current version.

        Raises:
            Misconfigured: when a newer version of the code wrote one of them, or nobody can upgrade it.
        """
        return {record.key: self._current(record) for record in records}

    def _current(self, record: Any) -> bytes | None:
        found = 1
        for name, value in record.headers:
            if name == VERSION_HEADER:
                found = int(value)
        if found == self.version or record.value is None:
            return record.value  # type: ignore[no-any-return]  # aiokafka ships no types
        if found > self.version or self._upgrade is None:
            raise Misconfigured(
                f"{self.changelog}/{record.partition} offset {record.offset}: values of table {self.name} "
                f"have version {found}, this code knows {self.version}; run the newer version"
            )
        return self._upgrade(record.value, found)


class CommittedStore(SerializedStore):  # type: ignore[misc]  # faust ships no types
    """What Faust knows as the table's store: it lists the partitions' stores and refuses writes.

    Faust's own recovery and write path are not used; a write from outside a transaction raises.
    """

    def __init__(self, url: Any, app: Any, table: Any, **kwargs: Any) -> None:
        super().__init__(url, app, table, **kwargs)
        self.partitions: dict[int, PartitionStore] = {}

    def persisted_offset(self, tp: Any) -> int | None:
        """The changelog offset that the store of the partition holds, when it is open."""
        store = self.partitions.get(tp.partition)
        return store.offset if store is not None and store.offset >= 0 else None

    def _refuse(self) -> None:
        raise Bug(f"table {self.table_name}: written outside a transaction; use Transaction.put")

    def _get(self, key: bytes) -> bytes | None:
        found = (store.get(key) for store in self.partitions.values())
        return next((value for value in found if value is not None), None)

    def _set(self, key: bytes, value: bytes | None) -> None:
        self._refuse()

    def _del(self, key: bytes) -> None:
        self._refuse()

    def _clear(self) -> None:
        self._refuse()

    def reset_state(self) -> None:
        """Faust calls this on a reset; committed state is never dropped by it."""

    async def backup_partition(self, tp: Any, flush: bool = True, purge: bool = False, keep: int = 1) -> None:
        """Refused: the changelog is the backup; an empty store is restored from it."""
        raise Bug(f"table {self.table_name}: the changelog is the backup")

    def restore_backup(self, tp: Any, latest: bool = True, backup_id: int = 0) -> None:
        """Refused: an empty store is restored from the changelog."""
        raise Bug(f"table {self.table_name}: the changelog is the backup")

    def _iteritems(self) -> Iterator[tuple[bytes, bytes]]:
        for store in self.partitions.values():
            yield from store.scan()

    def _iterkeys(self) -> Iterator[bytes]:
        return (key for key, _ in self._iteritems())

    def _itervalues(self) -> Iterator[bytes]:
        return (value for _, value in self._iteritems())

    def _size(self) -> int:
        return sum(1 for _ in self._iteritems())

    def _contains(self, key: bytes) -> bool:
        return self._get(key) is not None
