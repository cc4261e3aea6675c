"""What the log leaves out: the repetitions of a library's warnings, and nothing else."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from app.exactly_once import App
from app.logs import REPEATS_S, Repeats


def record(name: str, level: int, message: str) -> logging.LogRecord:
    return logging.LogRecord(name, level, "", 0, message, ("x",), None)


def test_repetitions_of_a_librarys_warning_are_counted_and_shown_later() -> None:
    now = 100.0
    repeats = Repeats(lambda: now)
    assert repeats.filter(record("aiokafka.producer", logging.WARNING, "retrying %s"))
    for _ in range(5):
        assert not repeats.filter(record("aiokafka.producer", logging.WARNING, "retrying %s"))
    assert repeats.filter(record("aiokafka.producer", logging.WARNING, "something else %s"))
    now += REPEATS_S
    again = record("aiokafka.producer", logging.WARNING, "retrying %s")
    assert repeats.filter(again)
    assert again.getMessage() == "retrying x (5 more like it)"


def test_errors_and_our_own_events_are_always_shown() -> None:
    repeats = Repeats(lambda: 0.0)
    for _ in range(3):
        assert repeats.filter(record("aiokafka.producer", logging.ERROR, "failed %s"))
        assert repeats.filter(record("app.receiver", logging.WARNING, "a webhook was refused %s"))


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
async def test_a_worker_logs_at_the_level_it_was_given(level: str, tmp_path: Path) -> None:
    """Faust's spinner once set it to debug for services at "warning": each event made a line for nobody."""
    root, before = logging.getLogger(), logging.getLogger().level
    root.setLevel(level.upper())
    try:
        app = App(
            "levels",
            kafka_options={"bootstrap_servers": "127.0.0.1:9"},
            data_dir=tmp_path,
            partitions=1,
            encode_dead_letter=lambda *_: pytest.fail("there are no records"),
            web_port=1,  # nothing listens
        )
        app.Worker(loglevel="warn")._setup_logging()
        assert logging.getLevelName(root.level) == level.upper()
    finally:
        root.setLevel(before)
