"""Scheduled work: for the shops of a lane, again and again, never twice at a time, until the lane closes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import pytest
from prometheus_client import REGISTRY

from agents.schedule import Schedule
from app.dead_letters import dead_letter
from app.errors import BrokerUnavailable
from app.exactly_once import App, Lane
from app.exactly_once.partitioner import partition_of

SHOPS = [f"shop-{number}.myshopify.com" for number in range(12)]
PERIOD_S = 0.005
LIMIT_S = 10.0


@pytest.fixture
def app(tmp_path: Path) -> App:
    return App(
        "scheduled",
        kafka_options={"bootstrap_servers": "127.0.0.1:1"},
        data_dir=tmp_path,
        partitions=4,
        encode_dead_letter=dead_letter,
        web_port=1,
    )


class Seen:
    """What a job did, and a way to wait for it."""

    def __init__(self, failures: int = 0) -> None:
        self.shops: list[str] = []
        self.at_once = self.most_at_once = 0
        self._failures = failures
        self._changed = asyncio.Event()

    async def job(self, lane: Lane, shop: str) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        self.shops.append(shop)
        self._changed.set()
        if self._failures:
            self._failures -= 1
            raise BrokerUnavailable("away")

    async def runs(self, count: int) -> None:
        async with asyncio.timeout(LIMIT_S):
            while len(self.shops) < count:
                self._changed.clear()
                await self._changed.wait()


def opened(app: App, partition: int) -> Lane:
    lane = Lane(app, partition, 1)
    for callback in app._opened:
        callback(lane)
    return lane


def closed(app: App, lane: Lane) -> None:
    for callback in app._closed:
        callback(lane)


async def test_a_lane_does_the_work_of_its_own_shops_until_it_closes(app: App) -> None:
    seen = Seen()
    Schedule(app, SHOPS, Random(1)).every(PERIOD_S, "look", seen.job)
    lane = opened(app, 2)
    await seen.runs(20)
    assert set(seen.shops) == {shop for shop in SHOPS if partition_of(shop.encode(), 4) == 2}
    closed(app, lane)
    await asyncio.gather(*app._background, return_exceptions=True)
    assert not app._background


async def test_work_of_one_shop_never_runs_twice_at_a_time(app: App) -> None:
    seen = Seen()
    Schedule(app, SHOPS[:1], Random(1)).every(PERIOD_S, "alone", seen.job)
    lane = opened(app, partition_of(SHOPS[0].encode(), 4))
    await seen.runs(10)
    closed(app, lane)
    assert seen.most_at_once == 1


async def test_a_failure_of_the_world_is_counted_and_the_work_is_tried_again(app: App) -> None:
    seen = Seen(failures=2)
    Schedule(app, SHOPS[:1], Random(1)).every(PERIOD_S, "failing", seen.job)
    lane = opened(app, partition_of(SHOPS[0].encode(), 4))
    await seen.runs(4)
    closed(app, lane)
    labels = {"job": "failing", "shop": SHOPS[0], "result": "failed"}
    assert REGISTRY.get_sample_value("skustream_schedule_runs_total", labels) == 2
    assert app.fatal is None
