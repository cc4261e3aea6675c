"""Asks the shops where orders are to leave from: the fulfilment orders of several orders a call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

import structlog

from agents.shop_queues import ShopQueues, Sleep
from app.errors import Rejected, Retry
from app.exactly_once import App, Lane, Transaction
from app.records import Routing
from connectors.shopify.client import NO_SCOPE, ROUTED_A_READ, ShopClients, ShopUnavailable
from tables.order_record import OrderRecord

GATHER_S = 1.0
"""Before the first question: Shopify routes an order after ``orders/create``, and orders come in groups."""
EMPTY_TRIES = 4
"""Questions about an order without any fulfilment order, before that is taken for the answer."""

Answers = Mapping[bytes, tuple[Routing | None, OrderRecord]]
"""By order key: what the shop said, and the order as it was when it was asked."""

log = structlog.get_logger(__name__)


class RoutingReader:
    """Brings the answers to the orders that want them; what is open is in the caller's table."""

    def __init__(
        self,
        app: App,
        clients: ShopClients,
        unrouted: Callable[[Transaction, Iterable[bytes]], dict[bytes, OrderRecord]],
        answer: Callable[[Transaction, Answers], None],
        *,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """``unrouted`` picks the keys that still want an answer, ``answer`` takes answers; in a lane both."""
        self.queues = ShopQueues(
            app, "routing", self._work, size=ROUTED_A_READ, gather_s=GATHER_S, sleep=sleep
        )
        self._clients = clients
        self._unrouted = unrouted
        self._answer = answer
        self._empty: dict[bytes, int] = {}  # how often nothing was found
        self._told: set[str] = set()

    async def _work(self, lane: Lane, shop: str, keys: list[bytes]) -> set[bytes]:
        asked = await lane.submit(lambda transaction: self._unrouted(transaction, keys))
        found = await self._read(shop, [record.order_id for record in asked.values()]) if asked else {}
        answers = {
            key: (found[record.order_id], record)
            for key, record in asked.items()
            if record.order_id in found and self._enough(key, found[record.order_id])
        }
        if answers:
            await lane.submit(lambda transaction: self._answer(transaction, answers))
        return answers.keys() | (set(keys) - asked.keys())

    async def _read(self, shop: str, order_ids: list[int]) -> Mapping[int, Routing | None]:
        try:
            return await self._clients.of(shop).routing(order_ids)
        except ShopUnavailable as error:
            if error.status != NO_SCOPE:
                return self._failed(shop, error)
            if shop not in self._told:
                self._told.add(shop)
                log.warning(
                    "fulfilment orders cannot be read; orders are at their default location", shop=shop
                )
            return dict.fromkeys(order_ids)
        except (Retry, Rejected) as error:
            return self._failed(shop, error)

    def _failed(self, shop: str, error: Exception) -> Mapping[int, Routing | None]:
        log.warning("fulfilment orders could not be read", shop=shop, error=str(error))
        return {}

    def _enough(self, key: bytes, routing: Routing | None) -> bool:
        if routing is None or routing.open or routing.cancelled:
            self._empty.pop(key, None)
            return True
        tries = self._empty.pop(key, 0) + 1
        if tries < EMPTY_TRIES:
            self._empty[key] = tries
        return tries >= EMPTY_TRIES
