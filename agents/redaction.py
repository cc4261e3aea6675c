"""The redaction agent: forget what the tables of a service hold of a shop that is gone.

Every service whose tables have keys that begin with a shop's domain takes part. The tables stay the services'
own: nobody else writes their changelogs, and what is forgotten is a deletion in the same transaction as the
position of the record that asked for it.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice
from typing import Any

import msgspec
import structlog

from agents.source import own_key, payload_of
from app.errors import Rejected
from app.exactly_once import App, SourceRecord, Transaction
from app.records import Redaction

TOPIC = "shopify.redactions"
FORGOTTEN_AT_ONCE = 2_000
"""Of one table in one transaction; whoever asks does so again while anything is left."""

log = structlog.get_logger(__name__)
decode_redaction = msgspec.json.Decoder(Redaction).decode


def register(app: App, shops: Collection[str]) -> None:
    """Declare the topic and the agent on a service that knows ``shops``."""
    redactor = Redactor(app, shops)
    redactions = app.batch_topic(TOPIC)

    @app.agent(redactions, name="redact")  # type: ignore[untyped-decorator]  # faust ships no types
    async def redact(batches: Any) -> None:
        async for batch in batches:
            await app.process(batch, redactor.take)


class Redactor:
    """Forgets shops, table by table, in the lane that a redaction was sent to."""

    def __init__(self, app: App, shops: Collection[str]) -> None:
        self._app = app
        self._shops = shops

    def take(self, transaction: Transaction, source: SourceRecord) -> None:
        """Delete what this lane's tables hold of a shop, a bounded part of it."""
        redaction = decode_redaction(payload_of(source, Redaction))
        own_key(source, redaction.key)
        if redaction.shop in self._shops:
            raise Rejected(
                f"shop {redaction.shop} is in the shops file (SKUSTREAM_SHOPS_FILE): it would begin anew"
            )
        shop = redaction.shop.encode()
        for table in self._app.state_tables:
            found = transaction.lane.stores[table].scan(shop)
            own = (key for key, _ in found if key == shop or key.startswith(shop + b"/"))
            keys = list(islice(own, FORGOTTEN_AT_ONCE))
            for key in keys:
                transaction.delete(table, key)
            if keys:
                log.info("a shop is forgotten", shop=redaction.shop, table=table.name, keys=len(keys))
