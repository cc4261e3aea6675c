"""The owner of a stock key unites the changes of its listings, whoever found them.

``stock.listings`` holds all listings of a key in one record, and two shops may list the same new product at
the same moment. So whoever finds a change sends it to ``stock.listing-changes``, by key, and one lane makes
the next record. What the key has now is followed in memory; the table ``united`` holds what this lane made
last, because that may not have come round yet. A record that somebody else writes as a whole counts like any
other: the later one wins.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from agents.listings import ListingFollower
from agents.source import own_key, payload_of
from app.errors import Rejected
from app.exactly_once import App, SourceRecord, Table, Transaction
from app.records import (
    MAX_LISTINGS,
    ListingChange,
    Listings,
    correlation_of,
    encode,
    headers,
)
from tables.catalog import merge
from tables.listings import ListingIndex

decode_change = msgspec.json.Decoder(ListingChange).decode


def register(app: App, listings: ListingFollower[ListingIndex]) -> None:
    """Declare the table, topic and agent on a service."""
    uniter = Uniter(app, listings.directory)
    changes = app.batch_topic("stock.listing-changes")

    @app.agent(changes, name="unite")  # type: ignore[untyped-decorator]  # faust ships no types
    async def unite(batches: Any) -> None:
        async for batch in batches:
            await app.process(batch, uniter.take)


class Uniter:
    """Decides changes over what is known of their keys and the table ``united``."""

    def __init__(self, app: App, index: ListingIndex) -> None:
        self.united: Table[Listings] = app.state_table("united", Listings)
        self._index = index

    def take(self, transaction: Transaction, source: SourceRecord) -> None:
        """Write the key's next record, if the change makes a difference."""
        change = decode_change(payload_of(source, ListingChange))
        key = own_key(source, change.key)
        last = transaction.get(self.united, key)
        known = self._index.newest(change.key, last)
        merged = merge(known.listings, change)
        if merged == known.listings:
            return
        if len(merged) > MAX_LISTINGS:
            raise Rejected(f"{change.key}: {len(merged)} listings, at most {MAX_LISTINGS} fit into a record")
        record = Listings(
            sku=change.sku,
            location=change.location,
            listings=merged,
            updated_at=datetime.fromtimestamp(transaction.now_ms / 1000, UTC),
            united=max(known.united, last.united if last is not None else 0) + 1,
        )
        transaction.put(self.united, key, record)
        head = headers(record, change.correlation_id or correlation_of(source.headers))
        transaction.emit("stock.listings", key, encode(record), head)
