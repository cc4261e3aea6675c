"""The real broker that the pipeline tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.order_shapes import CASES

from app.local_kafka import LocalKafka, external_bootstrap


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
