"""Asks the shops where orders are to leave from: the fulfilment orders of several orders a call."""

from __future__ import annotations

import asyncio
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping

import structlog
from prometheus_client import Counter

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

GIVEN_UP = Counter(
    "skustream_orders_unrouted_total", "Orders whose fulfilment orders the shop refuses to tell", ["shop"]
)

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
        self._queues = ShopQueues(
            app, "routing", self._work, size=ROUTED_A_READ, gather_s=GATHER_S, sleep=sleep
        )
        self._clients = clients
        self._unrouted = unrouted
        self._answer = answer
        self._empty: dict[Lane, dict[bytes, int]] = {}  # how often nothing was found, while it is wanted
        self._told: set[str] = set()
        self._answered: Tally[str] = Tally()  # answers by shop
        self._refused: dict[tuple[str, int], int] = {}  # by shop and order: the answers before it was refused

    def open(self, lane: Lane, keys: Iterable[bytes]) -> None:
        """Go on with what the lane's table says."""
        self._empty[lane] = {}
        self._queues.open(lane, keys)

    def close(self, lane: Lane) -> None:
        """The lane is gone."""
        self._queues.close(lane)
        self._empty.pop(lane, None)

    def want(self, lane: Lane, key: bytes) -> None:
        """Ask about an order soon."""
        self._queues.want(lane, key)

    async def _work(self, lane: Lane, shop: str, keys: list[bytes]) -> set[bytes]:
        asked = await lane.submit(lambda transaction: self._unrouted(transaction, keys))
        found = await self._read(shop, [record.order_id for record in asked.values()]) if asked else {}
        answers = {
            key: (found[record.order_id], record)
            for key, record in asked.items()
            if record.order_id in found and self._enough(lane, key, found[record.order_id])
        }
        if answers:
            await lane.submit(lambda transaction: self._answer(transaction, answers))
        done = answers.keys() | (set(keys) - asked.keys())
        for key in done:
            self._empty.get(lane, {}).pop(key, None)
        return done

    async def _read(self, shop: str, order_ids: list[int]) -> Mapping[int, Routing | None]:
        """What the shop says of orders; what is left out is asked again."""
        try:
            return await self._asked(shop, order_ids)
        except ShopUnavailable as error:
            if error.status != NO_SCOPE:
                return self._failed(shop, error)
            if shop not in self._told:
                self._told.add(shop)
                log.warning(
                    "fulfilment orders cannot be read; orders are at their default location", shop=shop
                )
            return dict.fromkeys(order_ids)
        except Retry as error:
            return self._failed(shop, error)
        except Rejected as error:
            if len(order_ids) > 1:
                return await self._read_singly(shop, order_ids)
            return self._given_up(shop, {order_ids[0]: error}, self._answered[shop])

    async def _asked(self, shop: str, order_ids: list[int]) -> Mapping[int, Routing | None]:
        found = await self._clients.of(shop).routing(order_ids)
        self._answered[shop] += len(found)
        return found

    async def _read_singly(self, shop: str, order_ids: list[int]) -> Mapping[int, Routing | None]:
        """Orders of a call that was refused as a whole: one of them is to blame, if any."""
        found: dict[int, Routing | None] = {}
        refused: dict[int, Rejected] = {}
        before = self._answered[shop]
        for order_id in order_ids:
            try:
                found |= await self._asked(shop, [order_id])
            except Retry as error:  # the shop is away; the others would only wait for it as well
                self._failed(shop, error)
                break
            except Rejected as error:
                refused[order_id] = error
        return found | self._given_up(shop, refused, before)

    def _failed(self, shop: str, error: Exception) -> Mapping[int, Routing | None]:
        log.warning("fulfilment orders could not be read", shop=shop, error=str(error))
        return {}

    def _given_up(self, shop: str, refused: Mapping[int, Rejected], before: int) -> dict[int, Routing | None]:
        """Those of the refused orders that are to blame themselves: not asked before their next notice.

        That is what other orders' answers show (``before``: how many there were before the refusals). Without
        any it may be the question, and all are asked again.
        """
        given_up: dict[int, Routing | None] = {}
        for order_id, error in refused.items():
            order = f"{shop}/{order_id}"
            if self._answered[shop] == self._refused.setdefault((shop, order_id), before):
                log.warning(
                    "fulfilment orders are refused, and asked for again", order=order, error=str(error)
                )
                continue
            del self._refused[shop, order_id]
            GIVEN_UP.labels(shop).inc()
            log.error(
                "an order's fulfilment orders cannot be read; it is where it was taken to be",
                order=order,
                error=str(error),
            )
            given_up[order_id] = None
        return given_up

    def _enough(self, lane: Lane, key: bytes, routing: Routing | None) -> bool:
        if routing is None or routing.open or routing.cancelled:
            return True
        empty = self._empty.get(lane, {})
        empty[key] = empty.get(key, 0) + 1
        return empty[key] >= EMPTY_TRIES
