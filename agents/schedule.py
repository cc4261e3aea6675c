"""Work that a shop needs every so often, done by the worker whose lane owns the shop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from random import Random
from typing import NamedTuple

import aiohttp
import structlog
from aiokafka.errors import KafkaError
from prometheus_client import Counter, Gauge

from app.errors import Misconfigured, Rejected, Retry
from app.exactly_once import App, Lane
from app.exactly_once.partitioner import partition_of

Job = Callable[[Lane, str], Awaitable[None]]
"""Does the work for one shop (its domain) and hands what it decides to the lane."""

START_JITTER_S = 2.0
"""The first runs of all jobs and shops are spread over so long: they share a few API budgets and one loop."""
JITTER = 0.1
"""A pause is longer or shorter by up to this share, so that workers and shops do not fall into step."""
FAILURE_PAUSE_S = 30.0
"""After a failure a job comes again this soon, or after its period when that is shorter."""
FAILURES = (Retry, Rejected, Misconfigured, KafkaError, aiohttp.ClientError, TimeoutError, OSError)
"""What the world does to a job. Anything else is a bug of ours and ends the worker."""

RUNS = Counter("skustream_schedule_runs_total", "Runs of scheduled work", ["job", "shop", "result"])
LAST_RUN = Gauge(
    "skustream_schedule_success_seconds", "When scheduled work last succeeded, epoch seconds", ["job", "shop"]
)

log = structlog.get_logger(__name__)


class _Scheduled(NamedTuple):
    """One kind of work."""

    name: str
    period_s: float
    job: Job


class Schedule:
    """Runs jobs for each shop: once when the shop's lane opens, then every period, until the lane closes.

    A job of a shop never runs twice at a time: it is one task, and a lane has one owner.
    """

    def __init__(self, app: App, shops: Iterable[str], random: Random | None = None) -> None:
        self._app = app
        self._shops = list(shops)
        self._random = random or Random()
        self._jobs: list[_Scheduled] = []
        self._tasks: dict[Lane, list[asyncio.Task[None]]] = {}
        app.on_lane_opened(self._open)
        app.on_lane_closed(self._close)

    def every(self, period_s: float, name: str, job: Job) -> None:
        """Run ``job`` for each shop every ``period_s`` seconds; ``name`` is for logs and metrics."""
        self._jobs.append(_Scheduled(name, period_s, job))

    def _open(self, lane: Lane) -> None:
        own = [shop for shop in self._shops if partition_of(shop.encode(), lane.partitions) == lane.partition]
        self._tasks[lane] = [
            self._app.background(self._run(lane, shop, scheduled), f"{scheduled.name} {shop}")
            for shop in own
            for scheduled in self._jobs
        ]

    def _close(self, lane: Lane) -> None:
        for task in self._tasks.pop(lane, []):
            task.cancel()

    async def _run(self, lane: Lane, shop: str, scheduled: _Scheduled) -> None:
        await asyncio.sleep(self._random.uniform(0.0, min(START_JITTER_S, scheduled.period_s)))
        while True:
            done = await self._once(lane, shop, scheduled)
            pause_s = scheduled.period_s if done else min(scheduled.period_s, FAILURE_PAUSE_S)
            await asyncio.sleep(pause_s * self._random.uniform(1 - JITTER, 1 + JITTER))

    async def _once(self, lane: Lane, shop: str, scheduled: _Scheduled) -> bool:
        try:
            await scheduled.job(lane, shop)
        except FAILURES as error:
            RUNS.labels(scheduled.name, shop, "failed").inc()
            log.warning(
                "scheduled work failed; it is tried again",
                job=scheduled.name,
                shop=shop,
                error=f"{type(error).__name__}: {error}",
            )
            return False
        RUNS.labels(scheduled.name, shop, "done").inc()
        LAST_RUN.labels(scheduled.name, shop).set(time.time())
        return True
