"""A transaction's layers against a plain dictionary, whatever is put, deleted, kept or dropped."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from app.exactly_once.store import PartitionStore, Table
from app.exactly_once.transaction import Transaction

KEYS = [b"a", b"b", b"c"]
STORED = {b"a": 1, b"b": 2}

steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(KEYS), st.integers(10, 99)),
        st.tuples(st.just("put"), st.sampled_from(KEYS), st.none()),
        st.tuples(st.just("get"), st.sampled_from(KEYS), st.none()),
        st.tuples(st.just("keep"), st.none(), st.none()),
        st.tuples(st.just("drop"), st.none(), st.none()),
        st.tuples(st.just("next"), st.none(), st.none()),  # it commits, another above it
    ),
    max_size=40,
)


@given(steps=steps)
def test_it_reads_what_a_dictionary_would_hold(
    steps: list[tuple[str, Any, Any]], tmp_path_factory: Any
) -> None:
    derived: list[tuple[bytes, Any, Any]] = []
    table = Table("sums", int, "sums", derive=lambda _, key, was, is_now: derived.append((key, was, is_now)))
    store = PartitionStore(tmp_path_factory.mktemp("store") / "sums")
    store.write(_encoded(table, STORED), 1)
    lane: Any = SimpleNamespace(partition=0, partitions=1, stores={table: store}, recent={})
    transaction = Transaction(lane, 0, 0)
    first: dict[bytes, int | None] = {**STORED}
    kept, now = dict(first), dict(first)
    sent, sent_kept = 0, 0
    below: Transaction | None = None
    for step, key, value in steps:
        if step == "put":
            if value is None:
                transaction.delete(table, key)
            else:
                transaction.put(table, key, value)
            transaction.emit("out", key, b"x")
            now[key] = value
            sent += 1
        elif step == "get":
            assert transaction.get(table, key) == now.get(key)
        elif step == "keep":
            transaction.keep()
            kept, sent_kept = dict(now), sent
        elif step == "drop":
            transaction.drop()
            now, sent = dict(kept), sent_kept
        else:
            transaction.keep()
            transaction.settle()
            if below is not None:
                stored = _encoded(table, below.changes().get(table, {}))
                store.write(stored, store.offset + 1)
            below, transaction = transaction, Transaction(lane, 0, 0, under=transaction)
            first, kept, sent, sent_kept = dict(now), dict(now), 0, 0
        assert len(transaction.out) == transaction.size == sent
    transaction.keep()
    transaction.derive()
    changes = transaction.changes().get(table, {})
    assert {**first, **changes} == {**first, **now}
    assert sorted(derived) == sorted((key, first.get(key), value) for key, value in changes.items())
    store.close()


def _encoded(table: Table[Any], values: Mapping[bytes, Any]) -> dict[bytes, bytes | None]:
    return {key: None if value is None else table.encode(value) for key, value in values.items()}
