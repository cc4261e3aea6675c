"""What ``skustream dev status`` tells: each process as it is now, asked itself."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
from aiokafka.errors import KafkaError
from msgspec import Struct

from app.dev.supervisor import ProcessState, Report, StackState, report
from app.errors import SkustreamError
from app.lag import lane_lags
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
    lanes: dict[int, int] = {}  # records not taken yet, of each lane that this process has
    standby_lag: dict[int, int] = {}  # changelog offsets behind, of each lane that it follows


async def status_of(settings: Settings, state: StackState) -> list[Row]:
    """All processes of a stack."""
    reached = settings.model_copy(
        update={"bootstrap_servers": state.bootstrap, "shops_file": Path(state.shops_file)}
    )
    reports = await asyncio.gather(*(_report(reached, process) for process in state.processes))
    lags = dict.fromkeys(WORKERS, None) | (await _lags(reached) if reports[0].health == "ok" else {})
    return [
        _row(process, report, lags.get(process.name.partition("-")[0]))
        for process, report in zip(state.processes, reports, strict=True)
    ]


def _row(process: ProcessState, report: Report, lags: dict[int, int] | None) -> Row:
    return Row(
        name=process.name,
        pid=process.pid,
        health=report.health,
        restarts=process.restarts,
        lag=sum(lags.values()) if lags is not None else None,
        url=process.url,
        lanes={lane: lags.get(lane, 0) for lane in report.lanes} if lags is not None else {},
        standby_lag=report.standby_lag,
    )


async def _report(settings: Settings, process: ProcessState) -> Report:
    if process.name.partition("-")[0] == "kafka":
        try:
            await plan(settings.model_copy(update={"bootstrap_servers": process.url}))
        except (SkustreamError, KafkaError) as error:
            return Report(health=f"no answer: {error}")
        return Report(health="ok")
    if process.pid is None:
        return Report(health="not running")
    stopped = psutil.pid_exists(process.pid) and psutil.Process(process.pid).status() == psutil.STATUS_STOPPED
    return Report(health="stopped by a signal") if stopped else await report(process)


async def _lags(settings: Settings) -> dict[str, dict[int, int] | None]:
    found: dict[str, dict[int, int] | None] = {}
    for service, make in WORKERS.items():
        try:
            found[service] = await lane_lags(settings, service, make(settings).source_topics)
        except KafkaError:
            found[service] = None
    return found
