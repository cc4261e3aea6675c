"""Which partition a key belongs to: murmur2, as Java's default partitioner, so that any client agrees."""

from __future__ import annotations

from functools import lru_cache

from aiokafka.partitioner import murmur2

CACHED_KEYS = 1 << 16
"""Keys whose partition is remembered: aiokafka's murmur2 is pure Python and costs microseconds a key."""


@lru_cache(maxsize=CACHED_KEYS)
def partition_of(key: bytes, partitions: int) -> int:
    """The partition of ``key`` in a topic of ``partitions`` partitions."""
    return int(murmur2(key) & 0x7FFFFFFF) % partitions
