"""What every agent asks of a record before it decodes it."""

from __future__ import annotations

from app.errors import Rejected
from app.exactly_once import SourceRecord
from app.records import Record, check_schema


def payload_of(source: SourceRecord, expected: type[Record]) -> bytes:
    """The value of a record that says it is an ``expected``, or does not say what it is.

    Raises:
        UnknownSchema: it says that it is something else, or of a newer major version.
        Rejected: there is no value.
    """
    check_schema(source.headers, expected)
    if source.value is None:
        raise Rejected(f"{source.topic}: expected a {expected.__name__}, got an empty value")
    return source.value


def own_key(source: SourceRecord, expected: str) -> bytes:
    """The key of a record whose body says ``expected``.

    Raises:
        Rejected: key and body disagree.
    """
    key = expected.encode()
    if source.key != key:
        raise Rejected(f"{source.topic}: the body is about {expected!r}, the key is {source.key!r}")
    return key
