"""Reconcile: what we believe of each listing, what it should show, and what its shop really has.

The differences found, and their classes, are records of ``shopify.drift``; the newest of each listing is
kept, so that a difference has an age and a known edit stays known.
"""

from __future__ import annotations

from typing import Any

import msgspec

from agents.schedule import Schedule
from agents.shopify import shop_of
from app.errors import Rejected
from app.exactly_once import App, SourceRecord, Table, Transaction
from app.records import Drift, DriftClass, check_schema
from connectors.shopify.client import ShopClients

decode_drift = msgspec.json.Decoder(Drift).decode


def register(app: App, clients: ShopClients) -> Schedule:
    """Declare the tables, topics and agents on a service; returns the schedule, for what else shops need."""
    memory = Memory(app)
    drift = app.batch_topic("shopify.drift", route=shop_of)

    @app.agent(drift, name="remember")  # type: ignore[untyped-decorator]  # faust ships no types
    async def remember(batches: Any) -> None:
        async for batch in batches:
            await app.process(batch, memory.take)

    app.on_stopped(clients.close)
    return Schedule(app, clients.shops)


class Memory:
    """The newest difference of each listing, whoever found it (table ``drift``)."""

    def __init__(self, app: App) -> None:
        self.drift: Table[Drift] = app.state_table("drift", Drift)

    def take(self, transaction: Transaction, source: SourceRecord) -> None:
        """Take what was found about a listing; a difference that is gone is forgotten."""
        check_schema(source.headers, Drift)
        if source.value is None:
            raise Rejected(f"{source.topic}: expected a Drift, got an empty value")
        found = decode_drift(source.value)
        key = found.key.encode()
        if source.key != key:
            raise Rejected(f"{source.topic}: the body is about {found.key!r}, the key is {source.key!r}")
        if found.kind is not DriftClass.NONE:
            transaction.put(self.drift, key, found)
        elif transaction.get(self.drift, key) is not None:
            transaction.delete(self.drift, key)
