"""What a movement's calls into compiled libraries take alone, without rules, engine and clients around them.

JSON in and out, RocksDB, producer batches and their compression, for the records that the stock rules make of
movements. What the stock service takes for one cannot get below that, whatever its rules are written in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import NamedTuple

import msgspec
from aiokafka.codec import zstd_encode
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from agents.stock import decode_movement, digest_of
from app.exactly_once.lane import PRODUCER_BATCH_BYTES
from app.exactly_once.store import PartitionStore
from app.records import Record, StockRecord, encode, headers
from tables import stock

TRANSACTION = 2_000
"""Movements of a transaction of one lane under backlog."""
TRIES = 3
SEEN = b"20000"
"""A value of the table ``seen``: a day."""
decode_level = msgspec.json.Decoder(StockRecord).decode

Stored = tuple[bytes, bytes]
"""Key and value."""
Sent = tuple[bytes, bytes, list[tuple[str, bytes]]]
"""Key, value and headers of a record."""


class _Moved(NamedTuple):
    """A movement and what the rules make of it."""

    key: bytes
    value: bytes
    digest: bytes
    level: bytes
    made: list[Record]  # level, outcome, targets
    sent: list[Sent]


def floor(directory: Path, levels: Iterable[Stored], movements: Iterable[Stored]) -> dict[str, float]:
    """``floor_…_us`` a movement by step, and ``floor_us_per_movement``; each the best of a few tries."""
    moved = list(_moved(dict(levels), movements))
    batches = _batches(moved)
    stores = [PartitionStore(directory / name) for name in ("stock", "seen")]
    offsets = count(1)
    steps: dict[str, Callable[[], object]] = {
        "decode": lambda: [(decode_movement(one.value), decode_level(one.level)) for one in moved],
        "encode": lambda: [encode(record) for one in moved for record in one.made],
        "batches": lambda: _batches(moved),
        "compress": lambda: [zstd_encode(batch) for batch in batches],
        "store": lambda: _store(stores, moved, next(offsets)),
    }
    facts = {f"floor_{name}_us": _best_s(step) / len(moved) * 1e6 for name, step in steps.items()}
    for store in stores:
        store.close()
    facts["floor_us_per_movement"] = sum(facts.values())
    return {name: round(value, 2) for name, value in facts.items()}


def _moved(levels: dict[bytes, bytes], movements: Iterable[Stored]) -> Iterable[_Moved]:
    now = datetime.now(UTC)
    known = {key: decode_level(value) for key, value in levels.items()}
    for key, value in movements:
        movement, before = decode_movement(value), known[key]
        applied = stock.apply(before, movement, now=now, origin="stock.movements/0/0")
        known[key] = after = applied.record
        targets = stock.targets(key.decode(), before, after)
        told = [(key, applied.outcome), *((target.record_key.encode(), target) for target in targets)]
        sent = [(at, encode(one), headers(one, movement.correlation_id)) for at, one in told]
        level, digest = encode(after), digest_of(movement.id)
        made = [after, applied.outcome, *targets]
        yield _Moved(key, value, digest, level, made, [(key, level, []), (digest, SEEN, []), *sent])


def _batches(moved: Iterable[_Moved]) -> list[bytes]:
    full: list[DefaultRecordBatchBuilder] = []
    builder, number = _builder(), 0
    for one in moved:
        for key, value, head in one.sent:
            if builder.append(number, 0, key, value, head) is None:
                full.append(builder)
                builder, number = _builder(), 0
                builder.append(0, 0, key, value, head)
            number += 1
    return [bytes(one.build()) for one in [*full, builder]]


def _builder() -> DefaultRecordBatchBuilder:
    return DefaultRecordBatchBuilder(
        magic=2, compression_type=0, is_transactional=1, producer_id=1, producer_epoch=0, base_sequence=0,
        batch_size=PRODUCER_BATCH_BYTES,
    )  # fmt: skip


def _store(stores: list[PartitionStore], moved: list[_Moved], turn: int) -> None:
    """Look each key and id up, and write them, a transaction at a time."""
    levels, seen = stores
    for start in range(0, len(moved), TRANSACTION):
        some = moved[start : start + TRANSACTION]
        for one in some:
            seen.get(one.digest)
            levels.get(one.key)
        offset = turn * len(moved) + start
        levels.write({one.key: one.level for one in some}, offset)
        seen.write({one.digest: SEEN for one in some}, offset)


def _best_s(step: Callable[[], object]) -> float:
    times = []
    for _ in range(TRIES):
        began = time.process_time()
        step()
        times.append(time.process_time() - began)
    return min(times)
