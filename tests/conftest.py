"""The real broker that the pipeline tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.local_kafka import LocalKafka, external_bootstrap


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
