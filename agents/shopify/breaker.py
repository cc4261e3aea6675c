"""A shop's circuit breaker: calls stop while they fail, and one at a time tries whether they work again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from enum import IntEnum

import structlog
from prometheus_client import Gauge

FAILURES = 5
"""In a row, until the breaker opens: one bad answer is nothing, five are an outage."""
OPEN_S, OPEN_LIMIT_S = 1.0, 30.0
"""How long it stays open before a probe; doubled with each probe that fails."""
PAUSED_S = 60.0
"""Between probes of a shop that does not let us in: that needs a person, and takes its time."""

BREAKER = Gauge(
    "skustream_shopify_breaker",
    "0 closed, 1 half open, 2 open, 3 paused: the shop does not let us in",
    ["shop"],
)

log = structlog.get_logger(__name__)


class State(IntEnum):
    """Whether calls are made; the value is the metric's."""

    CLOSED = 0  # yes
    HALF_OPEN = 1  # one, to see
    OPEN = 2  # not now: they failed in a row
    PAUSED = 3  # not now: the shop does not let us in


class Breaker:
    """Lets calls of one shop through, or has them wait."""

    def __init__(self, shop: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.shop = shop
        self.reason = ""  # why it is paused
        self._held = False  # paused on purpose: an answer that was under way does not open it
        self._monotonic = monotonic
        self._failures = 0
        self._open_s = OPEN_S
        self._until = 0.0
        self._shut = State.CLOSED  # where a failed probe leads back to
        self._changed = asyncio.Event()
        self.state = State.CLOSED
        self._set(State.CLOSED)

    @property
    def wait_s(self) -> float:
        """How long until a call may go; 0 is now. While a probe is under way nobody knows."""
        if self.state is State.CLOSED:
            return 0.0
        if self.state is State.HALF_OPEN:
            return PAUSED_S
        return max(0.0, self._until - self._monotonic())

    async def enter(self) -> None:
        """Wait until a call may go. Whoever enters tells how it ended."""
        while True:
            self._changed.clear()
            wait_s = self.wait_s
            if wait_s == 0:
                break
            try:
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            except TimeoutError:
                pass
        if self.state is not State.CLOSED:
            self._set(State.HALF_OPEN)

    def succeeded(self) -> bool:
        """The shop answered; returns whether it had been paused."""
        if self._held:
            return False
        resumed = self._shut is State.PAUSED
        self._failures, self._open_s, self.reason = 0, OPEN_S, ""
        if self.state is not State.CLOSED:
            log.info("the shop answers again", shop=self.shop)
        self._shut = State.CLOSED
        self._set(State.CLOSED)
        return resumed

    def failed(self, error: str) -> None:
        """Nobody knows what became of a call, or nobody answered."""
        if self.state is State.HALF_OPEN and self._shut is State.PAUSED:
            self._open(State.PAUSED, PAUSED_S)
            return
        self._failures += 1
        if self.state in (State.OPEN, State.PAUSED) or self._failures < FAILURES:
            return
        if self._shut is State.CLOSED:
            log.error("calls to the shop fail; it is left alone", shop=self.shop, error=error)
        self._open(State.OPEN, self._open_s)
        self._open_s = min(2 * self._open_s, OPEN_LIMIT_S)

    def untried(self) -> None:
        """The call that was let through was not made after all."""
        if self.state is State.HALF_OPEN:
            self._open(self._shut, 0.0)

    def pause(self, reason: str, *, probe: bool = True) -> bool:
        """The shop does not let us in; returns whether that is news. Without ``probe`` it is never tried."""
        news = self._shut is not State.PAUSED
        self.reason = reason
        self._held = self._held or not probe
        self._open(State.PAUSED, float("inf") if self._held else PAUSED_S)
        return news

    def probe_now(self) -> None:
        """Let a probe go without waiting any longer: an operator says that the cause is gone."""
        self._held = False
        if self.state is not State.CLOSED:
            self._until = 0.0
            self._changed.set()

    def _open(self, state: State, pause_s: float) -> None:
        self._until = self._monotonic() + pause_s
        self._shut = state
        self._set(state)

    def _set(self, state: State) -> None:
        self.state = state
        BREAKER.labels(self.shop).set(state)
        self._changed.set()
