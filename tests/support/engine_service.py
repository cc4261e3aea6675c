"""A small service on the engine, run as a worker of its own by the tests: sums deltas by key.

Environment: SERVICE, BOOTSTRAP, DATA_DIR, WEB_PORT, optionally STANDBYS and INSTANCE_ID. With FORGET values
are not remembered but read from the store; with NEXT it is the service's next release, with one more field in
its values and one more table.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from app.errors import Rejected
from app.exactly_once import App, SourceRecord, Transaction
from app.exactly_once.app import DeadLetterRecord
from app.exactly_once.store import Table

PARTITIONS = 4
SERVICE = os.environ.get("SERVICE", "toy")
NEXT = "NEXT" in os.environ


class Sum(msgspec.Struct, frozen=True, omit_defaults=True):
    """The state of one key."""

    total: int = 0
    version: int = 0


class NextSum(Sum, frozen=True, omit_defaults=True):
    """The same in the next release."""

    last: str = ""  # the id of the last event


def dead_letter(service: str, record: SourceRecord, error: Exception, now_ms: int) -> DeadLetterRecord:
    """The origin of a poison record and its error, as JSON."""
    origin = f"{record.topic}/{record.partition}/{record.offset}"
    return DeadLetterRecord(msgspec.json.encode({"origin": origin, "error": repr(error)}), [])


app = App(
    SERVICE,
    kafka_options={"bootstrap_servers": os.environ.get("BOOTSTRAP", "127.0.0.1:9092")},
    data_dir=Path(os.environ.get("DATA_DIR", ".")),
    partitions=PARTITIONS,
    web_port=int(os.environ.get("WEB_PORT", "6066")),
    encode_dead_letter=dead_letter,
    session_timeout_s=6.0,
    standby_replicas=int(os.environ.get("STANDBYS", "0")),
    instance_id=os.environ.get("INSTANCE_ID"),
)
sums: Table[Any] = app.state_table("sums", NextSum if NEXT else Sum, remember="FORGET" not in os.environ)
counts: Table[int] | None = app.state_table("counts", int) if NEXT else None
events = app.batch_topic(f"{SERVICE}.in", state=sums)
decode = msgspec.json.Decoder(dict[str, Any]).decode


def decide(transaction: Transaction, record: SourceRecord) -> None:
    """Add the delta; a delta of zero is refused after it was staged, to show that staged changes go."""
    assert record.key is not None
    event = decode(record.value or b"")
    state = transaction.get(sums, record.key) or Sum()
    changed = Sum(state.total + event["delta"], state.version + 1)
    if counts is not None:
        changed = NextSum(changed.total, changed.version, event["id"])
        transaction.put(counts, record.key, (transaction.get(counts, record.key) or 0) + 1)
    transaction.put(sums, record.key, changed)
    transaction.emit(
        f"{SERVICE}.out", record.key, msgspec.json.encode({"id": event["id"], "sum": changed.total})
    )
    if event["delta"] == 0:
        raise Rejected(f"delta of event {event['id']}: expected not zero, got 0")


@app.agent(events, name="add")
async def add(batches: Any) -> None:
    """Hand each batch to its lane."""
    async for batch in batches:
        await app.process(batch, decide)


if __name__ == "__main__":
    app.main()
