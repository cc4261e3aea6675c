"""Order records as older versions of the rules wrote them, in the names that the rules use now.

Version 1 had a line at one location: that of its pin. What it took back there had names without a location,
and units that shipped from elsewhere were released and committed again by two effects of their fulfilment.
Now effects that belong to no fact name their location, and one difference at each keeps the promise
(``tables.order_effects``). The units are the same, so their running totals go on under the new names, and no
movement is emitted again. Records that the rules of version 2 wrote before the version was raised have the
new names, and stay as they are.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from tables.order_record import MovedEffect, OrderRecord

ORDERS_VERSION = 2
"""Of table ``orders``: raised whenever the meaning of what is stored changes."""

_TAKEN_BACK = frozenset(
    {
        "edited",
        "edited-undone",
        "written-off",
        "written-off-undone",
        "written-off-found",
        "cancelled",
        "cancelled-undone",
        "cancelled-found",
    }
)
_SHIFTED = {"shift-release": "away", "shift-commit": "here"}

_decode = msgspec.json.Decoder(OrderRecord).decode
_encode = msgspec.json.Encoder().encode


def upgraded(value: bytes, version: int) -> bytes:
    """The JSON of a record of this version, from that of an older one (``Table.upgrade``)."""
    assert version == 1, version
    record = _decode(value)
    moved: dict[str, MovedEffect] = {}
    for name, effect in record.moved.items():
        now = _named_now(name, effect)
        before = moved.get(now)
        moved[now] = effect if before is None else replace(before, quantity=before.quantity + effect.quantity)
    return _encode(replace(record, moved=moved))


def _named_now(name: str, effect: MovedEffect) -> str:
    kind, *parts = name.split("/")
    if kind in _SHIFTED:
        _, line_id = parts  # of each fulfilment; together they are one difference
        return f"{_SHIFTED[kind]}/{effect.at.location_id}/{line_id}"
    if kind in _TAKEN_BACK and len(parts) == 1:
        return f"{kind}/{effect.at.location_id}/{parts[0]}"
    return name
