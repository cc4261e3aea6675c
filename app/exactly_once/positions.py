"""A lane's position record: where in its source topics the state of the lane has arrived.

It is written to the compacted topic ``skustream.<service>.positions`` in the same transaction as the
state, and is the truth; the group's committed offsets only serve lag tools, because a group that idles
for a week loses them.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct


class Position(Struct, frozen=True, kw_only=True):
    """Next offset to read by source topic, and the newest record timestamp seen (epoch ms)."""

    offsets: dict[str, int] = {}
    stream_time_ms: int = 0


_decoder = msgspec.json.Decoder(Position)


def decode_position(value: bytes) -> Position:
    """The position in a record's value; raises msgspec.DecodeError when it is not one."""
    return _decoder.decode(value)


def positions_topic(service: str) -> str:
    """The name of a service's positions topic."""
    return f"skustream.{service}.positions"
