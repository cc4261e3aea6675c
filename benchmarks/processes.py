"""Starting what is measured, and ending it whatever happens."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

from app.local_kafka import LocalKafka, uninterrupted

STOP_LIMIT_S = 30.0


class Command(NamedTuple):
    """A process to start: its log, and whatever it keeps, go to ``directory``."""

    arguments: list[str]
    environment: Mapping[str, str]
    directory: Path


@asynccontextmanager
async def broker_at(directory: Path, rebalance_delay_ms: int = 0) -> AsyncIterator[LocalKafka]:
    """A started broker, stopped in any case."""
    broker = LocalKafka(directory, rebalance_delay_ms=rebalance_delay_ms)
    try:
        await uninterrupted(broker.start)
        yield broker
    finally:
        await uninterrupted(broker.stop)


@contextmanager
def running(commands: Iterable[Command]) -> Iterator[list[psutil.Process]]:
    """The started processes; stopped, by force when they do not go by themselves."""
    children = []
    try:
        for command in commands:
            command.directory.mkdir(parents=True, exist_ok=True)
            with (command.directory / "log").open("wb") as log:
                children.append(
                    subprocess.Popen(
                        command.arguments, stdout=log, stderr=log, env={**os.environ, **command.environment}
                    )
                )
        yield [psutil.Process(child.pid) for child in children]
    finally:
        for child in children:
            child.terminate()
        for child in children:
            try:
                child.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
