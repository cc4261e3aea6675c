from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.errors import LaneLost
from app.exactly_once.ahead import ReadAhead
from app.exactly_once.store import PartitionStore, Table

TABLE = Table("sums", int, "sums")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PartitionStore]:
    made = PartitionStore(tmp_path / "store")
    made.write({b"a": b"1", b"b": b"2", b"c": b"3"}, offset=1)
    yield made
    made.close()


async def test_what_is_there_and_what_is_not_is_read(store: PartitionStore) -> None:
    ahead = ReadAhead(TABLE, store, [b"a", b"b", b"none"])
    await ahead.wait()
    assert ahead.values == {b"a": b"1", b"b": b"2", b"none": None}


@pytest.mark.parametrize("read_first", [True, False])
async def test_a_value_that_was_overtaken_is_not_used(store: PartitionStore, read_first: bool) -> None:
    ahead = ReadAhead(TABLE, store, [b"a", b"b", b"none"])
    if read_first:
        await ahead.wait()
    store.write({b"a": b"10", b"none": b"20", b"other": None}, offset=2)
    ahead.overtake([b"a", b"none", b"other"])
    await ahead.wait()
    assert ahead.values == {b"b": b"2"}


async def test_a_store_that_is_closed_meanwhile_gives_nothing(store: PartitionStore) -> None:
    ahead = ReadAhead(TABLE, store, [b"a"])
    store.close()
    await ahead.wait()
    assert ahead.values == {}
    with pytest.raises(LaneLost, match="store"):
        store.get_many([b"a"])


def test_a_store_is_written_and_closed_while_a_thread_reads_it(store: PartitionStore) -> None:
    keys = [b"%06d" % number for number in range(20_000)]
    store.write(dict.fromkeys(keys, b"x" * 200), offset=2)
    with ThreadPoolExecutor(4) as threads:
        reading = [threads.submit(store.get_many, keys) for _ in range(4)]
        for offset in range(3, 200):
            store.write({keys[offset]: b"y"}, offset)
            assert store.get(keys[offset]) == b"y"
        store.close()  # waits for who has begun; those that have not are told
    read = [one.exception() or one.result() for one in reading]
    assert all(isinstance(one, LaneLost) or len(one) == len(keys) for one in read)
