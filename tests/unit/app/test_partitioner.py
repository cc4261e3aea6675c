"""Our murmur2 against aiokafka's, which is slower and agrees with Java's."""

from __future__ import annotations

from aiokafka.partitioner import murmur2 as peer
from hypothesis import given
from hypothesis import strategies as st

from app.exactly_once.partitioner import murmur2, partition_of


@given(st.binary(max_size=64))
def test_murmur2_is_kafkas(key: bytes) -> None:
    assert murmur2(key) == peer(key)


def test_a_partition_is_the_positive_hash_modulo() -> None:
    # Kafka's own UtilsTest: murmur2("foobar") is -790332482.
    assert murmur2(b"foobar") == -790332482 & 0xFFFFFFFF
    assert partition_of(b"foobar", 8) == (-790332482 & 0x7FFFFFFF) % 8
