"""The declaration of topics agrees with the services and with the documentation."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.services import SERVICES, WORKERS
from app.settings import Settings, load_settings
from app.topics import TOPICS, is_old

ROOT = Path(__file__).parents[3]
NAMES = [spec.name for spec in TOPICS]


@pytest.fixture
def settings() -> Settings:
    return load_settings().model_copy(update={"shops_file": ROOT / "ops" / "docker" / "shops.yaml"})


@pytest.mark.parametrize("service", WORKERS)
def test_every_topic_that_a_service_needs_is_declared(service: str, settings: Settings) -> None:
    assert set(WORKERS[service](settings).needed_topics()) <= set(NAMES)


def test_names_are_declared_once_and_dead_letters_for_each_service() -> None:
    assert len(NAMES) == len(set(NAMES))
    assert {f"dead-letters.{service}" for service in SERVICES} <= set(NAMES)


def test_every_public_topic_is_documented() -> None:
    text = (ROOT / "docs" / "topics.md").read_text()
    public = [name for name in NAMES if not name.startswith(("skustream.", "dead-letters."))]
    assert [name for name in public if f"`{name}`" not in text] == []


@pytest.mark.parametrize(("produce", "old"), [((0, 9), True), ((0, 10), False), ((3, 13), False)])
def test_a_broker_older_than_3_7_is_known_by_its_produce_api(produce: tuple[int, int], old: bool) -> None:
    assert is_old({0: produce, 1: (0, 17)}) is old
