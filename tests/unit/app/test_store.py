"""A partition's store on real RocksDB: who may open it, and when it begins anew."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import rocksdict

from app.errors import Bug, LaneLost, Misconfigured, Stale, StoreBroken, StoreLocked
from app.exactly_once import store as stores
from app.exactly_once.store import (
    VERSION_HEADER,
    VERSION_KEY,
    PartitionStore,
    RecentValues,
    StoreView,
    Table,
)

HOLD = """
import sys
from pathlib import Path
from app.exactly_once.store import PartitionStore

store = PartitionStore(Path(sys.argv[1]))
store.write({b"k": b"theirs"}, 7)
print("open", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "service" / "table" / "3"
    store = PartitionStore(made)
    store.write({b"k": b"v"}, 5)
    store.close()
    return made


def holder(path: Path) -> subprocess.Popen[str]:
    """Another process that has the store open until its input ends."""
    held = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert held.stdout is not None
    assert held.stdout.readline() == "open\n"
    return held


async def test_a_locked_store_is_waited_for_then_named_with_its_holder(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = holder(path)
    try:
        monkeypatch.setattr(stores, "LOCK_LIMIT_S", 0.6)
        with pytest.raises(StoreLocked, match=f"{path}.* is open in process {held.pid}"):
            await PartitionStore.opened(path)
        view = StoreView(path)  # a look does not need the lock
        assert (view.offset, dict(view.scan())) == (7, {b"k": b"theirs"})
        view.close()
    finally:
        held.communicate("")
    store = await PartitionStore.opened(path)
    assert store.get(b"k") == b"theirs"
    store.close()


def break_file(path: Path, name: str) -> None:
    """Write nonsense over the store's files of that name."""
    for file in path.glob(f"{name}*"):
        file.write_bytes(b"half a file")


@pytest.mark.parametrize("damage", ["MANIFEST", "CURRENT"])
async def test_a_damaged_store_begins_anew(path: Path, damage: str) -> None:
    break_file(path, damage)
    store = await PartitionStore.opened(path)
    assert (store.offset, store.get(b"k")) == (-1, None)
    store.close()


async def test_a_store_of_another_version_begins_anew(path: Path) -> None:
    store = await PartitionStore.opened(path, version=2)
    assert store.offset == -1
    store.write({b"k": b"new"}, 9)
    store.close()
    again = await PartitionStore.opened(path, version=2)
    assert (again.offset, dict(again.scan())) == (9, {b"k": b"new"})
    again.close()


async def test_what_is_not_a_directory_is_named_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_text("somebody's")
    with pytest.raises((Stale, OSError), match="data"):
        await PartitionStore.opened(file / "0")
    assert file.read_text() == "somebody's"


def test_an_unused_store_tells_for_how_long(path: Path) -> None:
    long_ago = time.time() - 3 * 24 * 3600
    for file in path.iterdir():
        os.utime(file, (long_ago, long_ago))
    store = PartitionStore(path)
    assert store.unused_s > 2 * 24 * 3600
    store.close()


def test_the_offset_never_falls_and_a_closed_store_takes_nothing(path: Path) -> None:
    store = PartitionStore(path)
    with pytest.raises(Bug, match="offset 4 after 5"):
        store.write({}, 4)
    store.close()
    with pytest.raises(LaneLost):
        store.write({}, 6)


@pytest.mark.asyncio
async def test_a_store_that_never_wrote_its_version_holds_the_first_one_and_begins_anew(path: Path) -> None:
    plain = rocksdict.Rdict(str(path), rocksdict.Options(raw_mode=True))
    plain.delete(VERSION_KEY)
    plain.close()
    with pytest.raises(StoreBroken, match="holds values of version 1, the code has 2"):
        PartitionStore(path, version=2)
    store = await PartitionStore.opened(path, version=2)
    assert (store.offset, list(store.scan())) == (-1, [])
    store.close()


class Old(msgspec.Struct):
    count: int


class New(msgspec.Struct):
    units: int


class Changelogged(NamedTuple):
    key: bytes
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    partition: int = 0
    offset: int = 0


def upgraded(value: bytes, version: int) -> bytes:
    assert version == 1
    return msgspec.json.encode(New(msgspec.json.decode(value, type=Old).count))


def test_older_values_are_upgraded_as_they_are_restored_and_newer_ones_refused() -> None:
    current = ((VERSION_HEADER, b"2"),)
    table: Table[Any] = Table("t", New, "changelog", version=2, upgrade=upgraded)
    records = [
        Changelogged(b"a", b'{"count":3}'),
        Changelogged(b"b", b'{"units":4}', current),
        Changelogged(b"c", None),
    ]
    assert table.headers == list(current)
    assert table.restored(records) == {b"a": b'{"units":3}', b"b": b'{"units":4}', b"c": None}
    old: Table[Any] = Table("t", Old, "changelog")
    with pytest.raises(Misconfigured, match="values of table t have version 2, this code knows 1"):
        old.restored(records)


def test_recent_values_are_bounded_and_the_newest_wins() -> None:
    recent = RecentValues(100 * stores.ENTRY_BYTES)
    missing = object()
    for number in range(1_000):
        recent.update({b"%d" % number: b"%d" % number})
        assert recent.get(b"%d" % number, missing) == b"%d" % number
    known = [number for number in range(1_000) if recent.get(b"%d" % number, missing) is not missing]
    assert 40 <= len(known) <= 110
    recent.update({b"999": None})
    assert recent.get(b"999", missing) is None
