"""Order catch-up: finds the orders whose webhooks never came, and tells the orders service to look at them.

A shop is asked which orders have changed, not what they are. The orders service knows how far it has heard
of each order and reads only those that went further, so a shop whose webhooks all came costs one small
call a poll, and one record for each change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog
from msgspec.structs import replace
from prometheus_client import Counter

from app.exactly_once import App, Lane, Table, Transaction
from app.records import OrderNotice, encode, headers
from connectors.shopify.changed_orders import changed_orders, envelope_of
from connectors.shopify.client import ShopClients
from tables import catch_up
from tables.catch_up import SETTLE, CaughtUp

NOTICED = Counter("skustream_catch_up_orders_total", "Changed orders that the catch-up told of", ["shop"])

log = structlog.get_logger(__name__)


class CatchUp:
    """Polls shops over the tables ``caught_up`` (by shop) and ``noticed`` (by order, within the overlap)."""

    def __init__(
        self,
        app: App,
        clients: ShopClients,
        *,
        settle: timedelta = SETTLE,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.caught_up: Table[CaughtUp] = app.state_table("caught_up", CaughtUp)
        self.noticed: Table[OrderNotice] = app.state_table("noticed", OrderNotice)
        self._clients = clients
        self._settle = settle
        self._clock = clock

    async def run(self, lane: Lane, shop: str) -> None:
        """Tell of every order of a shop that changed since the last poll.

        1. Look back from where the last poll came to.
        2. Take a page of changes, oldest first, without new orders whose webhook may still come.
        3. Commit what is new of it and how far we came, in one transaction; go on with 2.
        4. Say that all changes up to then are told of, and forget what no later poll can find again.

        Raises:
            Retry, Rejected: as the shop's client; the next run goes on from the last page.
        """
        until = self._clock() - self._settle
        since = catch_up.begins(await lane.submit(partial(self.reached, shop=shop)))
        told = 0
        async for page in changed_orders(self._clients.of(shop), since):
            settled = catch_up.settled(page, until)
            told += await lane.submit(partial(self.take, shop=shop, orders=settled))
        known = list(lane.scan(self.noticed))
        await lane.submit(partial(self.finish, shop=shop, looked_until=until, known=known))
        if told:
            log.info("changed orders were looked up", shop=shop, orders=told, since=since.isoformat())

    def reached(self, transaction: Transaction, shop: str) -> CaughtUp:
        """How far the polls of a shop came; the first one is remembered even when it finds nothing."""
        known = transaction.get(self.caught_up, shop.encode())
        if known is None:
            known = catch_up.first(self._clock())
            transaction.put(self.caught_up, shop.encode(), known)
        return known

    def take(self, transaction: Transaction, shop: str, orders: Iterable[OrderNotice]) -> int:
        """Tell of what was not told before; how many orders that were."""

        def known(order_id: int) -> OrderNotice | None:
            return transaction.get(self.noticed, _key(shop, order_id))

        before = self.reached(transaction, shop)
        news, reached = catch_up.take(known, before, orders)
        for order in news:
            key = _key(shop, order.id)
            transaction.put(self.noticed, key, order)
            envelope = envelope_of(shop, order, self._clock())
            transaction.emit("shopify.orders", key, encode(envelope), headers(envelope, envelope.event_id))
        if reached != before:
            transaction.put(self.caught_up, shop.encode(), reached)
        transaction.after_commit(partial(NOTICED.labels(shop).inc, len(news)))
        return len(news)

    def finish(
        self,
        transaction: Transaction,
        shop: str,
        looked_until: datetime,
        known: Iterable[tuple[bytes, OrderNotice]],
    ) -> None:
        """Say how far the shop was looked through; drop the notices that lie before every later poll."""
        reached = replace(self.reached(transaction, shop), looked_until=looked_until)
        transaction.put(self.caught_up, shop.encode(), reached)
        before = catch_up.begins(reached)
        prefix = _key(shop, "")
        for key, order in known:
            if key.startswith(prefix) and order.updated_at < before:
                transaction.delete(self.noticed, key)


def _key(shop: str, order_id: int | str) -> bytes:
    return f"{shop}/{order_id}".encode()
