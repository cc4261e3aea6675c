"""The real broker that the pipeline tests share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.order_shapes import CASES

from app.local_kafka import LocalKafka, external_bootstrap


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand what a process of pytest-xdist has counted to the one that tells of it."""
    told = getattr(session.config, "workeroutput", None)
    if told is not None:
        told["order_shapes"] = dict(CASES)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what such a process has counted."""
    CASES.update(getattr(node, "workeroutput", {}).get("order_shapes", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many arrival orders the table of order shapes was tried in."""
    if CASES:
        terminalreporter.write_line(
            f"order shapes: {len(CASES)} shapes, {CASES.total()} arrival orders of their webhooks, "
            "each webhook twice, reads answered at once and at the end, minutes apart and in one second"
        )


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
