"""``skustream verify``: whether the stores of this machine hold what Kafka says, without stopping anything.

Each partition is rebuilt from its changelog into a scratch store and compared with the live one as of the
offset that the live one has reached. Keys that changed after it are left out and counted. With the ledger,
the levels are also followed from outcome to outcome and compared with where they have arrived.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Collection, Coroutine, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from app.errors import Misconfigured
from app.exactly_once.store import PartitionStore, StoreView, Table
from app.kafka_tools import read_topic
from app.records import Level, Outcome, StockRecord
from app.services import WORKERS
from app.settings import Settings

NAMED = 5
"""Differing keys that are named for each partition."""
DIGEST_BYTES = 16
LOOKS_AT_ONCE = 4


class Verified(Struct, frozen=True, kw_only=True):
    """One partition of one table."""

    store: str  # its directory
    offset: int  # of the changelog, that the store has reached
    keys: int
    moved_on: int  # keys that changed after that offset: not compared
    digest: str  # of the live store
    rebuilt: str  # of the store rebuilt from the changelog
    differing: list[str] = []  # the first keys that differ, or what is wrong with the ledger

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return self.digest == self.rebuilt and not self.differing


async def verify(settings: Settings, data_dir: Path, services: list[str], *, ledger: bool) -> list[Verified]:
    """Every partition store below a worker's data directory.

    Raises:
        Misconfigured: when there are no stores of these services; names the directory and the setting.
        BrokerUnavailable: when no broker answers.
    """
    looks: list[Coroutine[Any, Any, Verified]] = []
    for service in services:
        tables = {table.name: table for table in WORKERS[service](settings).state_tables}
        for path in _stores(data_dir / service, tables):
            looks.append(_verify(settings, path, tables[path.parent.name]))
            if ledger and (service, path.parent.name) == ("stock", "stock"):
                looks.append(_verify_ledger(settings, path))
    if not looks:
        raise Misconfigured(f"no stores of {', '.join(services)} in {data_dir} (SKUSTREAM_DATA_DIR)")
    slots = asyncio.Semaphore(LOOKS_AT_ONCE)

    async def look(work: Coroutine[Any, Any, Verified]) -> Verified:
        async with slots:
            return await work

    return await asyncio.gather(*map(look, looks))


def _stores(directory: Path, tables: Collection[str]) -> list[Path]:
    found = directory.glob("*/*")
    return sorted(path for path in found if path.parent.name in tables and path.name.isdigit())


async def _verify(settings: Settings, path: Path, table: Table[Any]) -> Verified:
    live = StoreView(path)
    with tempfile.TemporaryDirectory(prefix="skustream-verify-") as directory:
        scratch = PartitionStore(Path(directory) / "rebuilt")
        try:
            moved_on = await _rebuild(settings, table, int(path.name), live.offset, scratch)
            return _compared(path, live, scratch, moved_on)
        finally:
            scratch.close()
            live.close()


async def _rebuild(
    settings: Settings, table: Table[Any], partition: int, offset: int, scratch: PartitionStore
) -> set[bytes]:
    """Fill the scratch store up to an offset; returns the keys that changed after it."""
    moved_on: set[bytes] = set()
    async for records in read_topic(settings, table.changelog, [partition]):
        values = table.restored(record for record in records if record.offset <= offset)
        moved_on.update(record.key for record in records if record.offset > offset)
        if values:
            scratch.write(values, min(offset, records[-1].offset))
    return moved_on


def _compared(path: Path, live: StoreView, scratch: PartitionStore, moved_on: set[bytes]) -> Verified:
    hashes = blake2b(digest_size=DIGEST_BYTES), blake2b(digest_size=DIGEST_BYTES)
    keys = 0
    differing: list[str] = []
    for key, ours, theirs in _side_by_side(live.scan(), scratch.scan()):
        if key in moved_on:
            continue
        keys += 1
        for value, digest in zip((ours, theirs), hashes, strict=True):
            if value is not None:
                digest.update(len(key).to_bytes(4) + key + len(value).to_bytes(4) + value)
        if ours != theirs and len(differing) < NAMED:
            differing.append(repr(key))
    return Verified(
        store=str(path),
        offset=live.offset,
        keys=keys,
        moved_on=len(moved_on),
        digest=hashes[0].hexdigest(),
        rebuilt=hashes[1].hexdigest(),
        differing=differing,
    )


def _side_by_side(
    left: Iterator[tuple[bytes, bytes]], right: Iterator[tuple[bytes, bytes]]
) -> Iterator[tuple[bytes, bytes | None, bytes | None]]:
    """The keys of two sorted stores with the value that each has."""
    ours, theirs = next(left, None), next(right, None)
    while ours is not None or theirs is not None:
        if theirs is None or (ours is not None and ours[0] < theirs[0]):
            assert ours is not None
            yield ours[0], ours[1], None
            ours = next(left, None)
        elif ours is None or theirs[0] < ours[0]:
            yield theirs[0], None, theirs[1]
            theirs = next(right, None)
        else:
            yield ours[0], ours[1], theirs[1]
            ours, theirs = next(left, None), next(right, None)


async def _verify_ledger(settings: Settings, path: Path) -> Verified:
    """Follow every key through the ledger, as far as the live store has gone, and compare."""
    live = StoreView(path)
    try:
        decode = msgspec.json.Decoder(StockRecord).decode
        known = {key: decode(value) for key, value in live.scan()}
    finally:
        live.close()
    arrived, differing = await _follow_ledger(settings, int(path.name), known)
    zero = Level()
    differing += [
        f"{key!r}: the ledger arrives at {arrived.get(key, zero)}, the store has {record.level}"
        for key, record in known.items()
        if arrived.get(key, zero) != record.level
    ]
    digests = [
        _digest({key: arrived.get(key, zero) for key in known}),
        _digest({key: record.level for key, record in known.items()}),
    ]
    return Verified(
        store=f"{path} by stock.ledger",
        offset=live.offset,
        keys=len(known),
        moved_on=0,
        digest=digests[1],
        rebuilt=digests[0],
        differing=differing[:NAMED],
    )


async def _follow_ledger(
    settings: Settings, partition: int, known: dict[bytes, StockRecord]
) -> tuple[dict[bytes, Level], list[str]]:
    decode = msgspec.json.Decoder(Outcome).decode
    arrived: dict[bytes, Level] = {}
    broken: list[str] = []
    zero = Level()
    async for records in read_topic(settings, "stock.ledger", [partition]):
        for record in records:
            outcome = decode(record.value)
            if record.key not in known or outcome.version > known[record.key].version:
                continue  # after the view was opened
            if outcome.before != arrived.get(record.key, zero) and len(broken) < NAMED:
                broken.append(f"{record.key!r}: a gap in the ledger before offset {record.offset}")
            arrived[record.key] = outcome.after
    return arrived, broken


def _digest(levels: dict[bytes, Level]) -> str:
    digest = blake2b(digest_size=DIGEST_BYTES)
    for key, level in sorted(levels.items()):
        digest.update(key + msgspec.json.encode(level))
    return digest.hexdigest()
