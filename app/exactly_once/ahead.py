"""Reading ahead: what a chunk of records will look up is read by a thread before the chunk is decided.

RocksDB's look-up of many keys leaves the other threads running, that of a single key does not: under backlog
the reads cost the lanes nothing while there is a second core.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from app.errors import LaneLost, Stale
from app.exactly_once.store import PartitionStore, Table

_READER = ThreadPoolExecutor(1, "read-ahead")
"""One thread: each has memory of its own that it never gives back."""


class ReadAhead:
    """The committed values of some keys of a table: read at any moment, and true at every later one."""

    def __init__(self, table: Table[Any], store: PartitionStore, keys: Sequence[bytes]) -> None:
        self.table = table
        self.values: dict[bytes, bytes | None] = {}
        self._overtaken: set[bytes] = set()
        self._reading = asyncio.get_running_loop().create_task(self._read(store, keys))

    @property
    def done(self) -> bool:
        """Whether the values are here, or cannot be had: then each is looked up alone, and fails alone."""
        return self._reading.done()

    async def wait(self) -> None:
        """Wait until it is done."""
        await asyncio.wait({self._reading})

    def overtake(self, keys: Collection[bytes]) -> None:
        """These keys got new values, which the reading may have missed: theirs are forgotten."""
        if self.done:
            for key in keys:
                self.values.pop(key, None)
        else:
            self._overtaken.update(keys)

    async def _read(self, store: PartitionStore, keys: Sequence[bytes]) -> None:
        try:
            loop = asyncio.get_running_loop()
            values = await loop.run_in_executor(_READER, store.get_many, keys)
        except (LaneLost, Stale):  # whoever asks for a key gets it again
            return
        read = zip(keys, values, strict=True)
        self.values = {key: value for key, value in read if key not in self._overtaken}
