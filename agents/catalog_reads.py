"""Reads for the catalog agent: wanted items several a call, and the ids of all items by a bulk operation."""

from __future__ import annotations

import asyncio
from functools import partial
from itertools import count, islice
from typing import TYPE_CHECKING, NamedTuple

import structlog

from app.errors import Rejected, Retry
from app.exactly_once import App, Lane
from connectors.shopify.catalog import ITEMS_A_CALL, item_ids, read_items
from connectors.shopify.client import ShopClients

if TYPE_CHECKING:
    from agents.catalog import CatalogKeeper

READ_BACKOFF_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
QUIET_S = 30.0
"""Between a deleted product and the reading of all ids: products are often deleted in numbers, a minute's
deletions are one bulk operation, and mostly the webhooks of their items have come by then.
"""

log = structlog.get_logger(__name__)


class _Wanted(NamedTuple):
    """One wish to read something; no two are equal."""

    times: int  # how often it is wanted, as the table has it: begins anew when that is deleted
    number: int


class ItemReader:
    """Reads wanted items from their shops, several a call, until they are answered."""

    def __init__(self, app: App, clients: ShopClients, keeper: CatalogKeeper) -> None:
        self._app = app
        self._clients = clients
        self._keeper = keeper
        self._wanted: dict[Lane, dict[str, dict[int, _Wanted]]] = {}  # by shop and item
        self._numbers = count()

    def open(self, lane: Lane) -> None:
        """The lane's items may be wanted."""
        self._wanted[lane] = {}

    def close(self, lane: Lane) -> None:
        """The lane is gone, and its reads with it."""
        self._wanted.pop(lane, None)

    def want(self, lane: Lane, shop: str, item: int, times: int) -> None:
        """Read an item of a lane soon."""
        shops = self._wanted.get(lane)
        if shops is None:
            return
        idle = not shops.setdefault(shop, {})
        shops[shop][item] = _Wanted(times, next(self._numbers))
        if idle:
            self._app.background(self._run(lane, shop), f"items of {shop}")

    async def _run(self, lane: Lane, shop: str) -> None:
        failures = 0
        while wanted := self._wanted.get(lane, {}).get(shop):
            asked = dict(islice(wanted.items(), ITEMS_A_CALL))
            try:
                found = await read_items(self._clients.of(shop), asked)
            except (Retry, Rejected) as error:
                log.warning("items could not be read", shop=shop, items=len(asked), error=str(error))
                await asyncio.sleep(READ_BACKOFF_S[min(failures, len(READ_BACKOFF_S) - 1)])
                failures += 1
                continue
            failures = 0
            times = {item: one.times for item, one in asked.items()}
            await lane.submit(partial(self._keeper.answer, shop=shop, found=found, asked=times))
            for item, one in asked.items():
                if wanted.get(item) == one:
                    del wanted[item]


class IdReader:
    """Reads which items shops have, by a bulk operation, until it is answered."""

    def __init__(self, app: App, clients: ShopClients, keeper: CatalogKeeper, quiet_s: float) -> None:
        self._app = app
        self._clients = clients
        self._keeper = keeper
        self._quiet_s = quiet_s
        self._wanted: dict[Lane, dict[str, _Wanted]] = {}  # by shop
        self._numbers = count()

    def open(self, lane: Lane) -> None:
        """The ids of the lane's shops may be wanted."""
        self._wanted[lane] = {}

    def close(self, lane: Lane) -> None:
        """The lane is gone, and its reads with it."""
        self._wanted.pop(lane, None)

    def want(self, lane: Lane, shop: str, times: int) -> None:
        """Read the ids of a shop before long."""
        shops = self._wanted.get(lane)
        if shops is None:
            return
        idle = shop not in shops
        shops[shop] = _Wanted(times, next(self._numbers))
        if idle:
            self._app.background(self._run(lane, shop), f"item ids of {shop}")

    async def _run(self, lane: Lane, shop: str) -> None:
        failures = 0
        pause_s = self._quiet_s
        while shop in self._wanted.get(lane, {}):
            await asyncio.sleep(pause_s)
            asked = self._wanted.get(lane, {}).get(shop)
            if asked is None:
                return
            try:
                there = await item_ids(self._clients.of(shop))
            except (Retry, Rejected) as error:
                log.warning("the ids of a shop's items could not be read", shop=shop, error=str(error))
                pause_s = READ_BACKOFF_S[min(failures, len(READ_BACKOFF_S) - 1)]
                failures += 1
                continue
            failures, pause_s = 0, self._quiet_s
            await lane.submit(partial(self._keeper.compare_ids, shop=shop, there=there, asked=asked.times))
            shops = self._wanted.get(lane, {})
            if shops.get(shop) == asked:
                del shops[shop]
