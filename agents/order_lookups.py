"""Webhooks that do not name their order: what they are about is looked up, and they come again under it.

``fulfillment_orders/*`` and ``reverse_fulfillment_orders/dispose`` name only their own object. The receiver
puts them into ``shopify.orders`` under ``{shop}/{kind}/{number}``; here the shop is asked whose it is, and
the webhook is sent on under ``{shop}/{order_id}``, to the lane of that order.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import structlog
from msgspec.structs import replace

from agents.shop_queues import ShopQueues
from app.errors import Rejected, Retry
from app.exactly_once import App, Lane, Table, Transaction
from app.records import Envelope, Record, encode, headers
from connectors.shopify.client import ShopClients

LOOKUPS_AT_ONCE = 10
"""Asked one after the other: they are rare, and each costs four points."""

KINDS = frozenset({"FulfillmentOrder", "ReverseFulfillmentOrder", "Return"})
"""What a webhook can be about that belongs to an order and does not name it."""

log = structlog.get_logger(__name__)


class Lookup(Record, frozen=True, kw_only=True):
    """A webhook whose order is not known yet (table ``lookups``)."""

    envelope: Envelope
    correlation_id: str = ""


class OrderLookups:
    """Keeps such webhooks until their order is known."""

    def __init__(self, app: App, clients: ShopClients) -> None:
        self.table: Table[Lookup] = app.state_table("lookups", Lookup)
        self._clients = clients
        self._queues = ShopQueues(app, "lookups", self._work, size=LOOKUPS_AT_ONCE, gather_s=0.0)

    def open(self, lane: Lane) -> None:
        """Go on with what the lane's table says."""
        self._queues.open(lane, [key for key, _ in lane.scan(self.table)])

    def close(self, lane: Lane) -> None:
        """The lane is gone."""
        self._queues.close(lane)

    def take(self, transaction: Transaction, key: bytes, envelope: Envelope, correlation_id: str) -> None:
        """Remember a webhook under the object it names; a later one of the same object says the same.

        Raises:
            Rejected: when the key is none of ``{shop}/{kind}/{number}``.
        """
        shop, kind, number = key.decode(errors="replace").split("/")
        if shop != envelope.shop or kind not in KINDS or not number.isdecimal():
            raise Rejected(f"{envelope.topic}: the key {key!r} names nothing that belongs to an order")
        transaction.put(self.table, key, Lookup(envelope=envelope, correlation_id=correlation_id))
        transaction.after_commit(partial(self._queues.want, transaction.lane, key))

    async def _work(self, lane: Lane, shop: str, keys: list[bytes]) -> set[bytes]:
        found: dict[bytes, int | None] = {}
        for key in keys:
            try:
                found[key] = await self._clients.of(shop).order_of(gid_of(key))
            except Retry as error:
                log.warning("the order of a webhook could not be looked up", shop=shop, error=str(error))
                break
            except Rejected as error:
                log.error("a webhook's order cannot be looked up", key=key.decode(), error=str(error))
                found[key] = None
        if found:
            await lane.submit(partial(self._resolve, found=found))
        return set(found)

    def _resolve(self, transaction: Transaction, found: Mapping[bytes, int | None]) -> None:
        for key, order_id in found.items():
            lookup = transaction.get(self.table, key)
            if lookup is None:
                continue
            transaction.delete(self.table, key)
            if order_id is None:
                log.warning("a webhook is about something that its shop does not have", key=key.decode())
            else:
                envelope = replace(lookup.envelope, order_id=order_id)
                order_key = f"{envelope.shop}/{order_id}".encode()
                head = headers(envelope, lookup.correlation_id)
                transaction.emit("shopify.orders", order_key, encode(envelope), head)
            transaction.keep()


def gid_of(key: bytes) -> str:
    """The GID of what a key ``{shop}/{kind}/{number}`` names."""
    _, kind, number = key.decode().split("/")
    return f"gid://shopify/{kind}/{number}"
