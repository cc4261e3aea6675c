"""A transaction's layers against a plain dictionary, whatever is put, deleted, kept or dropped."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.exactly_once.store import PartitionStore, RecentValues, Table
from app.exactly_once.transaction import Transaction

KEYS = [b"a", b"b", b"c"]
STORED = {b"a": 1, b"b": 2}

keys = st.sampled_from(KEYS)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), keys, st.integers(10, 99) | st.none()),
        st.tuples(st.just("get"), keys, st.none()),
        st.tuples(st.sampled_from(["keep", "drop", "read ahead", "commit"]), st.none(), st.none()),
    ),
    max_size=40,
)


class Model:
    """What a transaction should hold."""

    def __init__(self, values: Mapping[bytes, int | None], time_ms: int) -> None:
        self.first = dict(values)
        self.now, self.kept = dict(values), dict(values)
        self.staged, self.staged_kept = 0, 0
        self.time_ms, self.time_ms_kept = time_ms, time_ms

    def put(self, key: bytes, value: int | None) -> None:
        self.now[key] = value
        self.staged += 1
        self.time_ms += 1

    def keep(self) -> None:
        self.kept, self.staged_kept, self.time_ms_kept = dict(self.now), self.staged, self.time_ms

    def drop(self) -> None:
        self.now, self.staged, self.time_ms = dict(self.kept), self.staged_kept, self.time_ms_kept


@given(steps=steps, remembered=st.booleans())
def test_it_holds_what_a_dictionary_would(
    steps: list[tuple[str, Any, Any]], remembered: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    derived: list[tuple[bytes, Any, Any]] = []
    table = Table("sums", int, "sums", derive=lambda _, key, was, is_now: derived.append((key, was, is_now)))
    store = PartitionStore(tmp_path_factory.mktemp("store") / "sums")
    store.write(_encoded(table, STORED), 1)
    recent = {table: RecentValues(1 << 20)} if remembered else {}
    lane: Any = SimpleNamespace(partition=0, partitions=1, stores={table: store}, recent=recent)
    below = Transaction(lane, 0, 0)
    transaction, model = Transaction(lane, 0, 0, under=below), Model(STORED, 0)
    ahead = SimpleNamespace(table=table, values={})
    for step, key, value in steps:
        with transaction.using(ahead):  # type: ignore[arg-type]  # as much of it as is used
            if step == "put":
                if value is None:
                    transaction.delete(table, key)
                else:
                    transaction.put(table, key, value)
                transaction.emit("out", key, b"x")
                transaction.after_commit(list)
                transaction.stream_time_ms += 1
                model.put(key, value)
            elif step == "get":
                assert transaction.get(table, key) == model.now.get(key)
            elif step == "keep":
                transaction.keep()
                model.keep()
            elif step == "drop":
                transaction.drop()
                model.drop()
            elif step == "read ahead":
                ahead.values.update({key: store.get(key) for key in KEYS})
            else:  # what is below is stored, and another transaction is above this one
                transaction.keep()
                model.keep()
                stored = _encoded(table, below.changes().get(table, {}))
                store.write(stored, store.offset + 1)
                if remembered:
                    recent[table].update(stored)
                for changed in stored:
                    ahead.values.pop(changed, None)
                transaction.settle()
        if step == "commit":
            below = transaction
            transaction = Transaction(lane, 0, transaction.stream_time_ms, under=below)
            model = Model(model.now, model.time_ms)
        assert len(transaction.out) == len(transaction.callbacks) == transaction.size == model.staged
        assert transaction.stream_time_ms == model.time_ms
    transaction.keep()
    transaction.derive()
    changes = transaction.changes().get(table, {})
    assert {**model.first, **changes} == {**model.first, **model.now}
    assert sorted(derived) == sorted((key, model.first.get(key), value) for key, value in changes.items())
    store.close()


def _encoded(table: Table[Any], values: Mapping[bytes, Any]) -> dict[bytes, bytes | None]:
    return {key: None if value is None else table.encode(value) for key, value in values.items()}
