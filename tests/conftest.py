"""The real broker that the pipeline tests share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support import counted

from app.local_kafka import LocalKafka, external_bootstrap


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand what a process of pytest-xdist has counted to the one that tells of it."""
    told = getattr(session.config, "workeroutput", None)
    if told is not None:
        told["tried"] = {table: dict(rows) for table, rows in counted.TRIED.items()}


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what such a process has counted."""
    counted.take_over(getattr(node, "workeroutput", {}).get("tried", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many rows of the tables of order shapes and of bad input were tried."""
    for line in counted.told():
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The bootstrap servers of a local broker, or of the cluster in KAFKA_BOOTSTRAP_SERVERS."""
    external = external_bootstrap()
    if external:
        yield external
        return
    broker = LocalKafka(tmp_path_factory.mktemp("kafka"))
    try:
        broker.start()
        yield broker.bootstrap_servers
    finally:
        broker.stop()
