"""What chaos compares after its minute: stores of stopped workers, of whatever version their tables are."""

from __future__ import annotations

from pathlib import Path

from app.dev.chaos import _newest_stores
from app.exactly_once.store import PartitionStore


def test_of_each_partition_the_store_that_went_furthest_is_compared_whatever_its_version(
    tmp_path: Path,
) -> None:
    for worker, offset in (("orders-1", 3), ("orders-2", 5)):
        store = PartitionStore(tmp_path / worker / "orders" / "orders" / "0", version=2)
        store.write({b"k": worker.encode()}, offset)
        store.close()
    newest = _newest_stores([tmp_path / "orders-1", tmp_path / "orders-2"])
    assert newest == {"orders/orders/0": {b"k": b"orders-2"}}
