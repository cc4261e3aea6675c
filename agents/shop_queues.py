"""Keys of a lane that wait for a call to their shop, several a call; a dead shop delays no other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from itertools import chain, islice, repeat

from app.exactly_once import App, Lane

BACKOFF_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Between tries of keys that are not done."""

Work = Callable[[Lane, str, list[bytes]], Awaitable[set[bytes]]]
"""Does what can be done for some keys of one shop, and says for which keys it is done."""
Sleep = Callable[[float], Awaitable[None]]


class ShopQueues:
    """One task for each lane and shop that has something to do; what is open is in the caller's table."""

    def __init__(
        self,
        app: App,
        name: str,
        work: Work,
        *,
        size: int,
        gather_s: float,
        pause_s: float = 0.0,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """``size``: keys of one call of ``work``; ``gather_s``: how long the first one waits for others;
        ``pause_s``: between a call that did something and the next.
        """
        self._app = app
        self._name = name
        self._work = work
        self._size = size
        self._gather_s = gather_s
        self._pause_s = pause_s
        self._sleep = sleep
        self._wanted: dict[Lane, dict[str, dict[bytes, int]]] = {}  # how often it was wanted

    def open(self, lane: Lane, keys: Iterable[bytes]) -> None:
        """Go on with what the lane's table says."""
        self._wanted[lane] = {}
        for key in keys:
            self.want(lane, key)

    def close(self, lane: Lane) -> None:
        """The lane is gone, and its keys with it."""
        self._wanted.pop(lane, None)

    def want(self, lane: Lane, key: bytes) -> None:
        """Do the work for a key ``{shop}/...`` soon; if that is under way, once more afterwards."""
        shops = self._wanted.get(lane)
        if shops is None:
            return
        shop = key.decode().partition("/")[0]
        idle = shop not in shops
        waiting = shops.setdefault(shop, {})
        waiting[key] = waiting.get(key, 0) + 1
        if idle:
            self._app.background(self._drain(lane, shop), f"{self._name} of {shop}")

    async def _drain(self, lane: Lane, shop: str) -> None:
        await self._sleep(self._gather_s)
        pauses = chain(BACKOFF_S, repeat(BACKOFF_S[-1]))
        while waiting := self._wanted.get(lane, {}).get(shop):
            some = dict(islice(waiting.items(), self._size))
            done = await self._work(lane, shop, list(some))
            for key, times in some.items():
                self._put_back(waiting, key, done=key in done and waiting.get(key) == times)
            if done:
                pauses = chain(BACKOFF_S, repeat(BACKOFF_S[-1]))
                if self._pause_s and waiting:
                    await self._sleep(self._pause_s)
            else:
                await self._sleep(next(pauses))
        self._wanted.get(lane, {}).pop(shop, None)

    def _put_back(self, waiting: dict[bytes, int], key: bytes, *, done: bool) -> None:
        times = waiting.pop(key)
        if not done:
            waiting[key] = times  # behind the others
