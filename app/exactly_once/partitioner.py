"""Which partition a key belongs to: murmur2, as Java's default partitioner, so that any client agrees."""

from __future__ import annotations

from functools import lru_cache
from struct import unpack_from

CACHED_KEYS = 1 << 15
"""Keys whose partition is remembered: hashing in Python costs a microsecond or two."""
_M = 0x5BD1E995
_MASK = 0xFFFFFFFF
_SEED = 0x9747B28C


@lru_cache(maxsize=CACHED_KEYS)
def partition_of(key: bytes, partitions: int) -> int:
    """The partition of ``key`` in a topic of ``partitions`` partitions."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def murmur2(key: bytes) -> int:
    """Kafka's variant of MurmurHash2, 32 bits (org.apache.kafka.common.utils.Utils.murmur2), word by word."""
    length = len(key)
    words = length >> 2
    value = _SEED ^ length
    for word in unpack_from(f"<{words}I", key):
        mixed = word * _M & _MASK
        mixed = (mixed ^ (mixed >> 24)) * _M & _MASK
        value = (value * _M & _MASK) ^ mixed
    rest = key[words << 2 :]
    if rest:
        value = (value ^ int.from_bytes(rest, "little")) * _M & _MASK
    value = (value ^ (value >> 13)) * _M & _MASK
    return value ^ (value >> 15)
