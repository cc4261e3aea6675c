"""Dead letters: a record that could not be used, kept whole with its origin and its error."""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime

from app.exactly_once import SourceRecord
from app.exactly_once.app import DeadLetterRecord
from app.records import DeadLetter, correlation_of, encode, headers

MAX_MESSAGE = 2_000
"""Characters kept of an error's text: some libraries quote the whole input."""


def dead_letter(service: str, record: SourceRecord, error: Exception, now_ms: int) -> DeadLetterRecord:
    """The dead letter of a poison record; its correlation id goes on in the headers."""
    letter = DeadLetter(
        service=service,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        error=type(error).__name__,
        message=str(error)[:MAX_MESSAGE],
        headers={name: (value or b"").decode(errors="replace") for name, value in record.headers},
        key=b64encode(record.key or b"").decode(),
        value=b64encode(record.value or b"").decode(),
        failed_at=datetime.fromtimestamp(now_ms / 1000, UTC),
    )
    return DeadLetterRecord(encode(letter), headers(letter, correlation_of(record.headers)))
