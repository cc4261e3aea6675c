"""Connections over a shop's records: filtered, sorted, and paged by cursors that survive changes.

A cursor holds the sort value and the id of its record, as Shopify's do: a record that changes between two
pages is seen again where it now belongs, and none is left out because another one moved.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from binascii import Error as BadBase64
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

from msgspec import Struct

from connectors.shopify.simulator.search import Fields, search
from connectors.shopify.simulator.views import MAX_IDS, View, invalid

MAX_OBJECTS = 25_000
"""Shopify pages through no more than this many objects of one sort order (facts 4)."""

RecordT = TypeVar("RecordT")
Key = tuple[Any, int]


class Records(Struct, Generic[RecordT], frozen=True, kw_only=True, eq=False):
    """One kind of record of a shop, as a root connection shows it."""

    all: Callable[[], Iterable[RecordT]]
    get: Callable[[int], RecordT | None]  # by its id
    id: Callable[[RecordT], int]
    fields: Callable[[RecordT], Fields]  # what ``query`` can ask for
    show: Callable[[RecordT], View]
    sorts: Mapping[str, Callable[[RecordT], Any]] = {}  # by sort key; without any it is the id
    keep: Callable[[RecordT, Mapping[str, Any]], bool] = lambda record, args: True  # by other arguments

    def select(self, args: Mapping[str, Any]) -> list[tuple[Key, RecordT]]:
        """The records that the arguments ask for, in their order, each with what it is sorted by."""
        value, records = self._sort(args), [each for each in self.all() if self.keep(each, args)]
        if args.get("query"):
            test = search(args["query"])
            records = [each for each in records if test({**self.fields(each), "id": self.id(each)})]
        found = [((value(each), self.id(each)), each) for each in records]
        return sorted(found, key=lambda pair: pair[0], reverse=bool(args.get("reverse")))

    def connection(self, info: object, **args: Any) -> View:
        """One page."""
        _refuse_unknown(args)
        first, last = sizes(args)
        rows = self.select(args)
        keys = [key for key, _ in rows]
        begin = _after(keys, args) if args.get("after") else 0
        end = _before(keys, args) if args.get("before") else len(rows)
        end, begin = (min(end, begin + first), begin) if last is None else (end, max(begin, end - last))
        edges = [{"cursor": _cursor(key), "node": self.show(record)} for key, record in rows[begin:end]]
        return {
            "edges": edges,
            "nodes": [edge["node"] for edge in edges],
            "pageInfo": {
                "hasNextPage": end < len(rows),
                "hasPreviousPage": begin > 0,
                "startCursor": edges[0]["cursor"] if edges else None,
                "endCursor": edges[-1]["cursor"] if edges else None,
            },
        }

    def _sort(self, args: Mapping[str, Any]) -> Callable[[RecordT], Any]:
        wanted = args.get("sortKey")
        if wanted is None or wanted == "ID":
            return next(iter(self.sorts.values()), self.id) if wanted is None else self.id
        if wanted not in self.sorts:
            raise invalid(f"the sort key {wanted} is not simulated; known are ID, {', '.join(self.sorts)}")
        return self.sorts[wanted]


def sizes(args: Mapping[str, Any]) -> tuple[int, int | None]:
    """``first`` and ``last`` of a page, of which one is given, from 0 to 250; the other one is 0 or None."""
    first, last = args.get("first"), args.get("last")
    if (first is None) == (last is None):
        raise invalid("you must provide one of first or last", "BAD_REQUEST")
    size = first if last is None else last
    if size is None or not 0 <= size <= MAX_IDS:
        raise invalid(f"a page has 0 to {MAX_IDS} nodes, not {size}", "BAD_REQUEST")
    return (size, None) if last is None else (0, size)


def _refuse_unknown(args: Mapping[str, Any]) -> None:
    if args.get("savedSearchId") is not None:
        raise invalid("saved searches are not simulated", "BAD_REQUEST")


def _after(keys: list[Key], args: Mapping[str, Any]) -> int:
    at = _position(keys, args["after"], bisect_right, bool(args.get("reverse")))
    if at > MAX_OBJECTS:
        raise invalid(f"cannot page beyond {MAX_OBJECTS} objects; use a filter or a bulk operation")
    return at


def _before(keys: list[Key], args: Mapping[str, Any]) -> int:
    return _position(keys, args["before"], bisect_left, bool(args.get("reverse")))


def _position(keys: list[Key], cursor: str, bisect: Callable[..., int], reverse: bool) -> int:
    """Where a cursor is, though its record may have gone or moved."""
    try:
        value, record_id = json.loads(b64decode(cursor, validate=True))
        if not reverse:
            return bisect(keys, (value, record_id))
        other = bisect_left if bisect is bisect_right else bisect_right
        return len(keys) - other(keys[::-1], (value, record_id))
    except (ValueError, TypeError, BadBase64):
        raise invalid(f"Invalid cursor: {cursor}", "BAD_REQUEST") from None


def _cursor(key: Key) -> str:
    return b64encode(json.dumps(key).encode()).decode()
