"""Keys that wait for a call to their shop: gathered, tried again, and never lost."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, cast

import pytest

from agents.shop_queues import BACKOFF_S, ShopQueues
from app.exactly_once import App, Lane

pytestmark = pytest.mark.asyncio
LIMIT_S = 5.0


class Background:
    """The part of an app that the queues use: it runs work beside the lanes."""

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[None]] = []

    def background(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        self.tasks.append(asyncio.get_running_loop().create_task(work, name=name))
        return self.tasks[-1]

    async def done(self) -> None:
        async with asyncio.timeout(LIMIT_S):
            while any(not task.done() for task in self.tasks):
                await asyncio.gather(*self.tasks)


class Shops:
    """Work that notes its calls; some keys need more than one."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[bytes]]] = []
        self.stubborn: dict[bytes, int] = {}
        self.pauses: list[float] = []
        self.app = Background()
        self.queues = ShopQueues(
            cast(App, self.app), "test", self.work, size=2, gather_s=0.5, sleep=self.sleep
        )
        self.lane = cast(Lane, object())
        self.queues.open(self.lane, [])

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await asyncio.sleep(0)

    async def work(self, lane: Lane, shop: str, keys: list[bytes]) -> set[bytes]:
        self.calls.append((shop, keys))
        left = {key: self.stubborn.get(key, 0) for key in keys}
        self.stubborn.update({key: tries - 1 for key, tries in left.items() if tries})
        return {key for key, tries in left.items() if not tries}


async def test_keys_of_a_shop_are_gathered_into_calls_and_shops_are_apart() -> None:
    shops = Shops()
    for key in (b"north/1", b"south/9", b"north/2", b"north/3", b"north/1"):
        shops.queues.want(shops.lane, key)
    await shops.app.done()
    assert sorted(shops.calls) == [
        ("north", [b"north/1", b"north/2"]), ("north", [b"north/3"]), ("south", [b"south/9"]),
    ]  # fmt: skip
    assert shops.pauses == [0.5, 0.5]


async def test_what_is_not_done_goes_behind_the_others_and_is_tried_after_a_pause() -> None:
    shops = Shops()
    shops.stubborn[b"north/1"] = 2
    for key in (b"north/1", b"north/2", b"north/3"):
        shops.queues.want(shops.lane, key)
    await shops.app.done()
    assert [keys for _, keys in shops.calls] == [
        [b"north/1", b"north/2"], [b"north/3", b"north/1"], [b"north/1"],
    ]  # fmt: skip
    assert BACKOFF_S[0] not in shops.pauses  # each call got something done
    shops.stubborn[b"north/4"] = 1
    shops.queues.want(shops.lane, b"north/4")
    await shops.app.done()
    assert shops.pauses[-1] == BACKOFF_S[0]


@pytest.mark.parametrize(("pause_s", "pauses"), [(0.0, [0.5]), (9.0, [0.5, 9.0])])
async def test_a_key_that_is_wanted_while_it_is_worked_on_is_worked_on_again(
    pause_s: float, pauses: list[float]
) -> None:
    shops = Shops()
    work = shops.work

    async def again(lane: Lane, shop: str, keys: list[bytes]) -> set[bytes]:
        if not shops.calls:
            shops.queues.want(lane, keys[0])
        return await work(lane, shop, keys)

    shops.queues = ShopQueues(
        cast(App, shops.app), "test", again, size=2, gather_s=0.5, pause_s=pause_s, sleep=shops.sleep
    )
    shops.queues.open(shops.lane, [b"north/1"])
    await shops.app.done()
    assert [keys for _, keys in shops.calls] == [[b"north/1"], [b"north/1"]]
    assert shops.pauses == pauses


async def test_a_lane_that_is_gone_has_nothing_more_to_do() -> None:
    shops = Shops()
    shops.queues.want(shops.lane, b"north/1")
    shops.queues.close(shops.lane)
    shops.queues.want(shops.lane, b"north/2")
    await shops.app.done()
    assert shops.calls == []
