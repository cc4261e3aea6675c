"""``skustream bench reconcile``: a large shop with planted differences, through Kafka and a bulk file."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path

import aiohttp
import psutil
from msgspec.structs import replace

from agents.beliefs import CHANGELOG, Beliefs
from agents.comparison import Compared, Comparison, Limits, small
from app import topics
from app.errors import Retry
from app.exactly_once.partitioner import partition_of
from app.kafka_tools import reader
from app.local_kafka import free_port
from app.records import Drift, encode
from app.settings import Settings, load_settings
from benchmarks.load import PARTITIONS, Record, fill
from benchmarks.measure import Bar, cpu_s
from benchmarks.planted import (
    CLASS_OF,
    DOMAIN,
    LEARNED_S,
    Plant,
    Planted,
    plants,
    shop_at,
    state_of,
    wrongly_classified,
)
from benchmarks.processes import Command, broker_at, running
from connectors.shopify.client import ShopClient
from tables.drift import Belief

UP_LIMIT_S = 120.0
POLL_S = 0.2
LIMITS = Limits()


async def measure(directory: Path, listings: int, each: int, bar: Bar) -> dict[str, float]:
    """Compare a shop of so many listings, ``each`` of every class planted; ask for what may be corrected.

    Raises:
        Retry: when a difference got another class than was planted, or another set was to be corrected.
    """
    now, port = float(int(time.time())), free_port()
    planted = plants(listings, each)
    served = [sys.executable, "-m", "benchmarks.planted", str(port), str(listings), str(each), str(now)]
    async with broker_at(directory / "kafka") as broker:
        settings = load_settings().model_copy(
            update={"bootstrap_servers": broker.bootstrap_servers, "partitions": PARTITIONS}
        )
        await topics.apply(settings)
        progress = bar("loading what is believed", listings)
        await fill(settings.bootstrap_servers, CHANGELOG, _states(planted), progress, _ms(now - LEARNED_S))
        with running([Command(served, {}, directory / "shop")]):
            await _until_served(port)
            client = ShopClient(shop_at(port))
            try:
                return await _compare(settings, client, planted, bar)
            finally:
                await client.close()


async def _compare(
    settings: Settings, client: ShopClient, planted: list[Plant], bar: Bar
) -> dict[str, float]:
    me = psutil.Process()
    comparison = Comparison(client, Moving(settings, planted), LIMITS)
    rss_before, cpu_before, began = me.memory_info().rss, cpu_s(me), time.perf_counter()
    compared, rss_peak = await _peak(me, comparison)
    seconds, cpu = time.perf_counter() - began, cpu_s(me) - cpu_before
    bar("compared", len(planted))(compared.checked)
    wrong = wrongly_classified(planted, compared.found)
    if wrong:
        raise Retry(f"{len(wrong)} listings have another class than was planted: {'; '.join(wrong[:5])}")
    asked = await _corrected(comparison, compared.found, planted)
    classes = len(set(CLASS_OF.values()))
    return {
        "listings": len(planted),
        "checked": compared.checked,
        "differences_found": len(compared.found),
        "classes": classes,
        "wrongly_classified": len(wrong),
        "changed_meanwhile": compared.moving,
        "corrections": asked,
        "seconds": round(seconds, 1),
        "cpu_s": round(cpu, 1),
        "rss_mb_before": round(rss_before / 1e6, 1),
        "rss_mb_peak": round(rss_peak / 1e6, 1),
        "bytes_a_listing": round((rss_peak - rss_before) / len(planted)),
    }


async def _corrected(comparison: Comparison, found: Iterable[Drift], planted: Iterable[Plant]) -> int:
    """Look again an hour later, by what is known, and ask for what may be corrected; returns how many."""
    hour = timedelta(hours=1)
    known = {one.key: replace(one, since=one.since - hour) for one in found}
    again = (await comparison.sample(known, lambda: known)).found
    few = small(again, LIMITS, comparison.beliefs.listings, comparison.policy)
    asked = {one.found.key for one in await comparison.correctable(few)}
    wanted = {plant.listing for plant in planted if plant.what is Planted.OFF_BY_FEW}
    if asked != wanted:
        raise Retry(f"to be corrected are {len(wanted)} listings, asked for {len(asked)}")
    return len(asked)


async def _peak(me: psutil.Process, comparison: Comparison) -> tuple[Compared, int]:
    """The sweep, and the most memory that the process had meanwhile, in bytes."""
    sweep = asyncio.create_task(comparison.sweep(dict))
    peak = 0
    while not sweep.done():
        peak = max(peak, me.memory_info().rss)
        await asyncio.wait({sweep}, timeout=POLL_S)
    return sweep.result(), peak


class Moving:
    """What is believed, from Kafka; some listings are written again while the shop is read."""

    def __init__(self, settings: Settings, planted: Iterable[Plant]) -> None:
        partition = partition_of(DOMAIN.encode(), PARTITIONS)
        self.shop = DOMAIN
        self._beliefs = Beliefs(partial(reader, settings), DOMAIN, partition)
        self._bootstrap = settings.bootstrap_servers
        self._moving = [plant for plant in planted if plant.what is Planted.MOVING]
        self._looks = 0

    @property
    def listings(self) -> Mapping[str, Belief]:
        """By key."""
        return self._beliefs.listings

    async def catch_up(self) -> set[str]:
        """As of the beliefs; before the second look something is learned of the moving ones."""
        self._looks += 1
        if self._looks == 2:
            await fill(self._bootstrap, CHANGELOG, _states(self._moving), lambda _: None)
        return await self._beliefs.catch_up()


def _states(planted: Iterable[Plant]) -> Iterator[tuple[int, Record]]:
    partition = partition_of(DOMAIN.encode(), PARTITIONS)
    for plant in planted:
        state = state_of(plant)
        if state is not None:
            yield partition, (plant.listing.encode(), encode(state))


async def _until_served(port: int) -> None:
    end = time.perf_counter() + UP_LIMIT_S
    async with aiohttp.ClientSession() as session:
        while time.perf_counter() < end:
            with suppress(aiohttp.ClientError):
                async with session.get(f"http://127.0.0.1:{port}/healthz") as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(POLL_S)
    raise Retry(f"the planted shop was not served within {UP_LIMIT_S:.0f} s")


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
