"""What ``skustream dev status`` tells: each process as it is now, asked itself."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
from aiokafka.errors import KafkaError
from msgspec import Struct

from app.dev.supervisor import ProcessState, StackState, health
from app.errors import SkustreamError
from app.lag import lag_of
from app.services import WORKERS
from app.settings import Settings
from app.topics import plan


class Row(Struct, frozen=True, kw_only=True):
    """One process."""

    name: str
    pid: int | None
    health: str  # "ok", or what is wrong
    restarts: int
    lag: int | None  # records not taken yet, of the whole service; None: not a worker, or not known
    url: str


async def status_of(settings: Settings, state: StackState) -> list[Row]:
    """All processes of a stack."""
    reached = settings.model_copy(
        update={"bootstrap_servers": state.bootstrap, "shops_file": Path(state.shops_file)}
    )
    healths = await asyncio.gather(*(_health(reached, process) for process in state.processes))
    lags = dict.fromkeys(WORKERS, None) | (await _lags(reached) if healths[0] == "ok" else {})
    return [
        Row(
            name=process.name,
            pid=process.pid,
            health=known,
            restarts=process.restarts,
            lag=lags.get(process.name.partition("-")[0]),
            url=process.url,
        )
        for process, known in zip(state.processes, healths, strict=True)
    ]


async def _health(settings: Settings, process: ProcessState) -> str:
    if process.name == "kafka":
        try:
            await plan(settings)
        except (SkustreamError, KafkaError) as error:
            return f"no answer: {error}"
        return "ok"
    if process.pid is None:
        return "not running"
    stopped = psutil.pid_exists(process.pid) and psutil.Process(process.pid).status() == psutil.STATUS_STOPPED
    return "stopped by a signal" if stopped else await health(process.url)


async def _lags(settings: Settings) -> dict[str, int | None]:
    found: dict[str, int | None] = {}
    for service, make in WORKERS.items():
        try:
            found[service] = await lag_of(settings, service, make(settings).source_topics)
        except KafkaError:
            found[service] = None
    return found
