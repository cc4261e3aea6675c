"""Faults on demand: what goes wrong, how often, decided by the world's own randomness."""

from __future__ import annotations

from enum import StrEnum
from random import Random
from typing import Annotated

from msgspec import Meta, Struct

Probability = Annotated[float, Meta(ge=0.0, le=1.0)]
Count = Annotated[int, Meta(ge=0)]


class FaultKind(StrEnum):
    """What can happen to a GraphQL request; at most one of them, checked in this order."""

    ERROR_BEFORE = "error_before"  # 500, nothing was executed
    HTTP_429 = "http_429"  # with Retry-After, nothing was executed
    THROTTLED = "throttled"  # as if the bucket were empty, HTTP 200
    ERROR_AFTER = "error_after"  # executed and committed, then 503
    DROP_CONNECTION = "drop_connection"  # executed and committed, then the connection is cut


class FaultSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All faults; what is not named is off."""

    latency_ms: Count = 0  # before each GraphQL request is executed
    probability: dict[FaultKind, Probability] = {}  # of each request
    next: dict[FaultKind, Count] = {}  # exactly the next n requests, before any probability
    duplicate_every: Count = 0  # every n-th webhook is sent twice at once; 0 is off
    late_probability: Probability = 0.0
    late_s: Annotated[float, Meta(ge=0.0)] = 0.0  # how late
    reorder_ms: Count = 0  # each webhook waits a random time up to this, so that they overtake each other


class Faults:
    """The settings in force and what is left of their counts."""

    def __init__(self, random: Random) -> None:
        self.settings = FaultSettings()
        self._random = random
        self._next: dict[FaultKind, int] = {}
        self._webhooks = 0

    def set(self, settings: FaultSettings) -> None:
        """Replace all faults."""
        self.settings = settings
        self._next = dict(settings.next)

    def strike(self) -> FaultKind | None:
        """What happens to the next request, if anything."""
        for kind in FaultKind:
            if self._next.get(kind, 0) > 0:
                self._next[kind] -= 1
                return kind
        for kind in FaultKind:
            if self._happens(self.settings.probability.get(kind, 0.0)):
                return kind
        return None

    def copies(self) -> int:
        """How many times the next webhook is sent."""
        self._webhooks += 1
        every = self.settings.duplicate_every
        return 2 if every and self._webhooks % every == 0 else 1

    def delay_s(self) -> float:
        """How long the next webhook is held back."""
        late = self.settings.late_s if self._happens(self.settings.late_probability) else 0.0
        return late + self._random.random() * self.settings.reorder_ms / 1000

    def _happens(self, probability: float) -> bool:
        return probability > 0 and self._random.random() < probability
