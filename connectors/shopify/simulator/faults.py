"""Faults on demand: what goes wrong, how often, decided by a plan's own seed or by the world's randomness."""

from __future__ import annotations

from enum import StrEnum
from random import Random
from typing import Annotated

from msgspec import Meta, Struct

Probability = Annotated[float, Meta(ge=0.0, le=1.0)]
Count = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(ge=0.0)]

TIMEOUT_S = 60.0
"""Longer than any client of ours waits."""


class FaultKind(StrEnum):
    """What can happen to a GraphQL request; at most one of them, checked in this order."""

    ERROR_BEFORE = "error_before"  # 500, nothing was executed
    HTTP_429 = "http_429"  # with Retry-After, nothing was executed
    THROTTLED = "throttled"  # as if the bucket were empty, HTTP 200
    TOKEN_EXPIRED = "token_expired"  # 401; every issued token has ended
    SHOP_FROZEN = "shop_frozen"  # 402, for `frozen_s` from now
    TIMEOUT_BEFORE = "timeout_before"  # not executed, no answer for `timeout_s`
    INTERNAL_BEFORE = "internal_before"  # HTTP 200 with INTERNAL_SERVER_ERROR, nothing was executed
    ERROR_AFTER = "error_after"  # executed and committed, then 503
    DROP_CONNECTION = "drop_connection"  # executed and committed, then the connection is cut
    TIMEOUT_AFTER = "timeout_after"  # executed and committed, answered after `timeout_s`
    INTERNAL_AFTER = "internal_after"  # executed and committed, then INTERNAL_SERVER_ERROR in HTTP 200


class FaultSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All faults; what is not named is off."""

    seed: int | None = None  # of this plan; without it the world's own randomness decides
    shops: frozenset[str] = frozenset()  # whose requests and webhooks are hit; none named: all
    latency_ms: Count = 0  # before each GraphQL request is executed
    probability: dict[FaultKind, Probability] = {}  # of each request
    next: dict[FaultKind, Count] = {}  # exactly the next n requests, before any probability
    timeout_s: Seconds = TIMEOUT_S
    frozen_s: Seconds = 5.0
    bulk_failure_probability: Probability = 0.0  # of each bulk operation, somewhere on its way
    lose_probability: Probability = 0.0  # of each webhook
    duplicate_every: Count = 0  # every n-th webhook is sent twice at once; 0 is off
    duplicate_probability: Probability = 0.0
    late_probability: Probability = 0.0
    late_s: Seconds = 0.0  # how late
    reorder_ms: Count = 0  # each webhook waits a random time up to this, so that they overtake each other


class Journey(Struct, frozen=True, kw_only=True):
    """What befalls one webhook."""

    copies: int = 1  # 0: lost
    late_s: float = 0.0
    delay_s: float = 0.0  # all of its waiting


class Faults:
    """The settings in force and what is left of their counts."""

    def __init__(self, random: Random) -> None:
        self.settings = FaultSettings()
        self._world_random = self._requests = self._hooks = self._bulk = random
        self._next: dict[FaultKind, int] = {}
        self._webhooks = 0

    def set(self, settings: FaultSettings) -> None:
        """Replace all faults."""
        self.settings = settings
        # One stream for each, so that a webhook more does not change what befalls the next request.
        self._requests, self._hooks, self._bulk = (
            self._world_random if settings.seed is None else Random(f"{settings.seed} {name}")
            for name in ("requests", "webhooks", "bulk operations")
        )
        self._next = dict(settings.next)

    def strike(self, shop: str) -> FaultKind | None:
        """What happens to the next request to a shop, if anything."""
        if not self._hits(shop):
            return None
        for kind in FaultKind:
            if self._next.get(kind, 0) > 0:
                self._next[kind] -= 1
                return kind
        for kind in FaultKind:
            if _happens(self._requests, self.settings.probability.get(kind, 0.0)):
                return kind
        return None

    def journey(self, shop: str) -> Journey:
        """What befalls the next webhook of a shop."""
        if not self._hits(shop):
            return Journey()
        settings = self.settings
        self._webhooks += 1
        every = settings.duplicate_every
        twice = bool(every) and self._webhooks % every == 0
        twice = _happens(self._hooks, settings.duplicate_probability) or twice
        late_s = settings.late_s if _happens(self._hooks, settings.late_probability) else 0.0
        return Journey(
            copies=0 if _happens(self._hooks, settings.lose_probability) else 1 + twice,
            late_s=late_s,
            delay_s=late_s + self._hooks.random() * settings.reorder_ms / 1000,
        )

    def bulk_fails_at(self, shop: str) -> float | None:
        """After which part of its root objects the next bulk operation fails; None: it does not."""
        if not self._hits(shop) or not _happens(self._bulk, self.settings.bulk_failure_probability):
            return None
        return self._bulk.random()

    def _hits(self, shop: str) -> bool:
        return not self.settings.shops or shop in self.settings.shops


def _happens(random: Random, probability: float) -> bool:
    return probability > 0 and random.random() < probability
