"""The toy work on plain Faust, as its documentation shows it: at least once, RocksDB tables.

Environment: SERVICE, BOOTSTRAP, DATA_DIR, WEB_PORT, EVENTS, OUTCOMES.
"""

from __future__ import annotations

import os
from typing import Any

import faust
import msgspec

from benchmarks.load import PARTITIONS

app = faust.App(
    os.environ["SERVICE"],
    broker=f"kafka://{os.environ['BOOTSTRAP']}",
    store="rocksdb://",
    datadir=os.environ["DATA_DIR"],
    web_port=int(os.environ["WEB_PORT"]),
    topic_partitions=PARTITIONS,
    topic_disable_leader=True,
    table_standby_replicas=0,
    stream_recovery_delay=0,
    stream_wait_empty=False,
    broker_max_poll_records=2_000,
    consumer_auto_offset_reset="earliest",
)
raw = {"key_type": bytes, "value_type": bytes, "key_serializer": "raw", "value_serializer": "raw"}
events = app.topic(os.environ["EVENTS"], **raw)
outcomes = app.topic(os.environ["OUTCOMES"], **raw)
states = app.Table(
    "states", partitions=PARTITIONS, key_type=bytes, value_type=bytes, options={"driver": "rocksdict"}
)


@app.agent(events)  # type: ignore[untyped-decorator]  # faust ships no types
async def adjust(stream: Any) -> None:
    """Apply each event."""
    async for event in stream.events():
        change = msgspec.json.decode(event.value)
        stored = states.get(event.key)
        state = msgspec.json.decode(stored) if stored else {"on": 1000, "v": 0}
        state["on"] += change["delta"]
        state["v"] += 1
        states[event.key] = msgspec.json.encode(state)
        await outcomes.send(key=event.key, value=msgspec.json.encode({"id": change["id"], **state}))


if __name__ == "__main__":
    app.main()
