"""The toy work on the engine: read a key's state, apply a delta, write it, emit one outcome for each event.

Environment: SERVICE, BOOTSTRAP, DATA_DIR, WEB_PORT, EVENTS (source topic), OUTCOMES, and optionally STANDBYS
and INSTANCE_ID.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from app.exactly_once import App, SourceRecord, Transaction
from app.exactly_once.app import DeadLetterRecord
from benchmarks.load import PARTITIONS


class Event(msgspec.Struct, gc=False):
    """What happened to a key."""

    id: str
    delta: int


class State(msgspec.Struct, gc=False):
    """The state of a key."""

    on: int = 1000
    v: int = 0


class Outcome(msgspec.Struct, gc=False):
    """What an event did."""

    id: str
    on: int
    v: int


def dead_letter(service: str, record: SourceRecord, error: Exception, now_ms: int) -> DeadLetterRecord:
    """The toy has no poison; the engine asks for this all the same."""
    return DeadLetterRecord(msgspec.json.encode(repr(error)), [])


app = App(
    os.environ.get("SERVICE", "bench"),
    kafka_options={"bootstrap_servers": os.environ.get("BOOTSTRAP", "127.0.0.1:9092")},
    data_dir=Path(os.environ.get("DATA_DIR", ".")),
    partitions=PARTITIONS,
    web_port=int(os.environ.get("WEB_PORT", "6066")),
    encode_dead_letter=dead_letter,
    standby_replicas=int(os.environ.get("STANDBYS", "0")),
    instance_id=os.environ.get("INSTANCE_ID"),
)
states = app.state_table("states", State)
events = app.batch_topic(os.environ.get("EVENTS", "bench.events"))
outcomes = os.environ.get("OUTCOMES", "bench.outcomes")
decode = msgspec.json.Decoder(Event).decode
encode = msgspec.json.Encoder().encode


def decide(transaction: Transaction, record: SourceRecord) -> None:
    """Apply one event."""
    key = record.key or b""
    event = decode(record.value or b"")
    state = transaction.get(states, key) or State()
    changed = State(state.on + event.delta, state.v + 1)
    transaction.put(states, key, changed)
    transaction.emit(outcomes, key, encode(Outcome(event.id, changed.on, changed.v)))


@app.agent(events, name="adjust")  # type: ignore[untyped-decorator]  # faust ships no types
async def adjust(batches: Any) -> None:
    """Hand each batch to its lane."""
    async for batch in batches:
        await app.process(batch, decide)


if __name__ == "__main__":
    app.main()
