"""Reads for the catalog agent: wanted items several a call, and the ids of all items by a bulk operation."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import structlog

from agents.shop_queues import ShopQueues
from app.errors import Rejected, Retry
from app.exactly_once import App, Lane
from connectors.shopify.catalog import ITEMS_A_CALL, item_ids, read_items
from connectors.shopify.client import ShopClients

if TYPE_CHECKING:
    from agents.catalog import CatalogKeeper

QUIET_S = 30.0
"""Between a deleted product and the reading of all ids: products are often deleted in numbers, a minute's
deletions are one bulk operation, and mostly the webhooks of their items have come by then.
"""

log = structlog.get_logger(__name__)


class ItemReader:
    """Reads wanted items from their shops, several a call, until they are answered; by their keys."""

    def __init__(self, app: App, clients: ShopClients, keeper: CatalogKeeper) -> None:
        self.queues = ShopQueues(app, "items", self._work, size=ITEMS_A_CALL, gather_s=0.0)
        self._clients = clients
        self._keeper = keeper

    async def _work(self, lane: Lane, shop: str, keys: list[bytes]) -> set[bytes]:
        wanted = await lane.submit(partial(self._keeper.unread, table=self._keeper.item_reads, keys=keys))
        asked = {int(key.rpartition(b"/")[2]): times for key, times in wanted.items()}
        try:
            found = await read_items(self._clients.of(shop), asked)
        except (Retry, Rejected) as error:
            log.warning("items could not be read", shop=shop, items=len(asked), error=str(error))
            return set(keys) - wanted.keys()
        await lane.submit(partial(self._keeper.answer, shop=shop, found=found, asked=asked))
        return set(keys)


class IdReader:
    """Reads which items shops have, by a bulk operation, until it is answered; by the shop."""

    def __init__(self, app: App, clients: ShopClients, keeper: CatalogKeeper, quiet_s: float) -> None:
        self.queues = ShopQueues(app, "item ids", self._work, size=1, gather_s=quiet_s, pause_s=quiet_s)
        self._clients = clients
        self._keeper = keeper

    async def _work(self, lane: Lane, shop: str, keys: list[bytes]) -> set[bytes]:
        wanted = await lane.submit(partial(self._keeper.unread, table=self._keeper.id_reads, keys=keys))
        for key, asked in wanted.items():
            try:
                there = await item_ids(self._clients.of(shop))
            except (Retry, Rejected) as error:
                log.warning("the ids of a shop's items could not be read", shop=shop, error=str(error))
                return set(keys) - {key}
            await lane.submit(partial(self._keeper.compare_ids, shop=shop, there=there, asked=asked))
        return set(keys)
