"""When listings whose level nothing explains are to be read, and when such a read may be judged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime

import structlog

from agents.hearing import Hearing
from agents.shopify import metrics
from app.exactly_once import App
from tables.edits import FIRST_LOOK_S

HEAR_AGAIN_S = 30.0
"""Before the services are asked again, when not all was heard that may explain a level."""

log = structlog.get_logger(__name__)


class Looks:
    """Of one shop: a listing waits for its first read, for the second, or until all is heard."""

    def __init__(self, app: App, shop: str, hearing: Hearing, read: Callable[[str], None]) -> None:
        """``read`` is called for a listing when it is due."""
        self.due: set[str] = set()  # whose unexplained level is to be read now
        self._app = app
        self._shop = shop
        self._ask = hearing
        self._read = read
        self._to_come: set[str] = set()  # listings that will be due
        self._unheard: dict[str, datetime] = {}  # what looks changed by hand: all before must be heard
        self._heard: dict[str, datetime] = {}  # listings to be read of which all before was heard
        self._hearing: asyncio.Task[None] | None = None

    def stop(self) -> None:
        """The pump is stopped."""
        if self._hearing is not None:
            self._hearing.cancel()
        metrics.UNHEARD.labels(self._shop).set(0)

    def notice(self, listing: str, *, unexplained: bool) -> None:
        """A listing has changed: an unexplained level will be read, an explained one need not be."""
        if unexplained and listing not in self._to_come and listing not in self.due:
            self.later(listing, FIRST_LOOK_S)
        elif not unexplained and self._unheard.pop(listing, None) is not None:
            self._to_come.discard(listing)

    def later(self, listing: str, pause_s: float) -> None:
        """Read a listing after a pause."""
        self._to_come.add(listing)
        asyncio.get_running_loop().call_later(pause_s, self._is_due, listing)

    def done(self, listings: Iterable[str]) -> None:
        """These listings were read, or need not be."""
        for listing in listings:
            self.due.discard(listing)
            self._heard.pop(listing, None)

    def heard(self, listing: str) -> datetime | None:
        """Up to when all is heard that may explain the level of a listing that is due."""
        return self._heard.get(listing)

    def hear(self, listing: str, before: datetime) -> None:
        """Read a listing that looks changed by hand again, when all is heard that the shop did ``before``."""
        self._to_come.add(listing)
        self._unheard[listing] = before
        if self._hearing is None:
            self._hearing = self._app.background(self._hear(), f"hearing of {self._shop}")

    async def _hear(self) -> None:
        """Ask how far the services are until nothing is left that may explain a level."""
        told = False
        while self._unheard:
            asked = dict(self._unheard)
            heard = await self._ask(self._shop)
            for listing, before in asked.items():
                if listing in self._unheard and not heard.unheard(before):
                    del self._unheard[listing]
                    self._heard[listing] = before
                    self._is_due(listing)
            left = [before for listing, before in asked.items() if listing in self._unheard]
            metrics.UNHEARD.labels(self._shop).set(len(left))
            if left:
                if not told:
                    why = heard.unheard(max(left))
                    log.warning("levels look changed by hand, or are not heard of", shop=self._shop, why=why)
                told = True
                await asyncio.sleep(HEAR_AGAIN_S)
        metrics.UNHEARD.labels(self._shop).set(0)
        if told:
            log.info("no level waits any more for what is not heard", shop=self._shop)
        self._hearing = None

    def _is_due(self, listing: str) -> None:
        self._to_come.discard(listing)
        self.due.add(listing)
        self._read(listing)
