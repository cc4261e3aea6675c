"""Logging: structlog events and the libraries' records in one format, to stderr."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable

import structlog

_SHARED: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]
_QUIET = ("aiokafka", "kafka", "mode", "faust", "gql", "aiohttp.access")
"""Libraries that tell about each connection and each state: only their warnings are for operators. What they
say to their own developers would bury what ``debug`` shows of ours: each event with its correlation id.
"""

REPEATS_S = 10.0
"""A library's message that was shown is not shown again for so long; then its repetitions are counted."""


class Repeats(logging.Filter):
    """Lets one of a library's warnings through, and counts those like it that follow.

    aiokafka warns about each retry, and retries are the normal course: a broker answers
    CONCURRENT_TRANSACTIONS while it writes the last markers, and NOT_LEADER after each change of a leader.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._shown: dict[tuple[str, str], tuple[float, int]] = {}  # when, and how many since

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to show a record; an error is always shown."""
        if not record.name.startswith(_QUIET) or record.levelno >= logging.ERROR:
            return True
        key, now = (record.name, str(record.msg)), self._clock()
        shown_at, more = self._shown.get(key, (-REPEATS_S, 0))
        if now - shown_at < REPEATS_S:
            self._shown[key] = shown_at, more + 1
            return False
        self._shown[key] = now, 0
        if more:
            record.msg = f"{record.msg} ({more} more like it)"
        return True


def configure_logs(service: str, level: str, *, as_json: bool) -> None:
    """Set up logging of a process; every line carries ``service``."""
    structlog.contextvars.bind_contextvars(service=service)
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=False)
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    handler.addFilter(Repeats())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING if level != "debug" else logging.INFO)
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        cache_logger_on_first_use=True,
    )
