"""Starting what is measured, and ending it whatever happens."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

STOP_LIMIT_S = 30.0


class Command(NamedTuple):
    """A process to start: its log, and whatever it keeps, go to ``directory``."""

    arguments: list[str]
    environment: Mapping[str, str]
    directory: Path


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
