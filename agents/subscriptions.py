"""The keeper of webhook subscriptions: makes what is missing, mends what is wrong, tells what was removed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import structlog
from prometheus_client import Gauge

from app.exactly_once import App, Lane, Table, Transaction
from app.records import Record
from connectors.shopify.client import ShopClients
from connectors.shopify.subscriptions import (
    WANTED,
    Difference,
    NotSubscribed,
    differences,
    mend,
    subscriptions,
)

EVERY_S = 600.0
"""Shopify removes a subscription after four hours of failures: ten minutes more are little beside that."""

MISSING = Gauge(
    "skustream_missing_subscriptions", "Webhook topics without a subscription, as last looked", ["shop"]
)

log = structlog.get_logger(__name__)


class Subscribed(Record, frozen=True, kw_only=True):
    """The topics to which a shop was last seen subscribed (table ``subscribed``)."""

    topics: frozenset[str]


class SubscriptionKeeper:
    """Keeps every shop subscribed to what we need, at one address."""

    def __init__(self, app: App, clients: ShopClients, uri: str) -> None:
        self.subscribed: Table[Subscribed] = app.state_table("subscribed", Subscribed)
        self._clients = clients
        self._uri = uri

    async def run(self, lane: Lane, shop: str) -> None:
        """Look at a shop's subscriptions and mend them. One that was there before and is gone is an alert.

        Raises:
            NotSubscribed: naming every topic that the shop refuses, after all others were mended.
            Retry, Rejected: as the shop's client.
        """
        client = self._clients.of(shop)
        found = differences(await subscriptions(client), self._uri)
        MISSING.labels(shop).set(sum(one.found is None for one in found))
        before = await lane.submit(partial(self._known, shop=shop))
        refused: list[str] = []
        for one in found:
            try:
                await mend(client, one, self._uri)
            except NotSubscribed as error:
                refused.append(str(error))
            else:
                _tell(shop, one, removed=one.found is None and one.wanted.topic in before)
        left = differences(await subscriptions(client), self._uri) if found else []
        await lane.submit(partial(self._remember, shop=shop, left=left))
        if refused:
            raise NotSubscribed("; ".join(refused))

    def _known(self, transaction: Transaction, shop: str) -> frozenset[str]:
        """The topics to which the shop was subscribed when we last looked."""
        known = transaction.get(self.subscribed, shop.encode())
        return known.topics if known is not None else frozenset()

    def _remember(self, transaction: Transaction, shop: str, left: Sequence[Difference]) -> None:
        topics = frozenset(wanted.topic for wanted in WANTED) - {one.wanted.topic for one in left}
        if topics != self._known(transaction, shop):
            transaction.put(self.subscribed, shop.encode(), Subscribed(topics=topics))


def _tell(shop: str, one: Difference, *, removed: bool) -> None:
    if removed:
        log.error(
            "Shopify removed a webhook subscription; it was made again",
            shop=shop,
            topic=one.wanted.topic,
            advice="what was missed is read by the catch-up and reconcile; see why the receiver failed",
        )
    else:
        log.info("a webhook subscription was mended", shop=shop, topic=one.wanted.topic, was=one.what)
