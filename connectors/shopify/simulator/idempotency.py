"""The store of idempotency keys of one app at one shop (facts 2.3)."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

RETENTION_S = 24 * 3600
"""A key is remembered for 24 hours from the first request; then the same call is executed again."""

MISMATCH = (
    "IDEMPOTENCY_KEY_PARAMETER_MISMATCH",
    "The same idempotency key cannot be used with different operation parameters.",
)
CONCURRENT = (
    "IDEMPOTENCY_CONCURRENT_REQUEST",
    "This request is currently in progress, please try again.",
)
PREVIOUS_FAILED = (
    "IDEMPOTENCY_PREVIOUS_ATTEMPT_FAILED",
    "The previous attempt failed. Retry with a new idempotency key.",
)
"""Code and message of what a key can be refused for; the last message's wording is ours."""


class Kept(Struct, frozen=True, kw_only=True):
    """What a key did."""

    at: float
    fingerprint: str
    payload: dict[str, Any]  # answered again; its items and locations are of the moment it is looked at
    failed: bool  # it had user errors: the key is used up (facts 2.6)


class KeyStore:
    """Keys that were executed, and keys that are being executed now."""

    def __init__(self) -> None:
        self._kept: dict[str, Kept] = {}
        self._running: dict[str, object] = {}
        self._came_second: dict[str, list[object]] = {}

    def begin(self, key: str, call: object) -> None:
        """A call with this key came in; the first one owns the key until ``end``."""
        if self._running.setdefault(key, call) is not call:
            self._came_second.setdefault(key, []).append(call)

    def end(self, call: object) -> None:
        """The call was answered, or given up."""
        self._running = {key: owner for key, owner in self._running.items() if owner is not call}
        left = {key: [each for each in calls if each is not call] for key, calls in self._came_second.items()}
        self._came_second = {key: calls for key, calls in left.items() if calls}

    def look(self, key: str, fingerprint: str, call: object, now: float) -> Kept | tuple[str, str] | None:
        """What to answer instead of executing: an earlier result, a refusal, or nothing."""
        if any(each is call for each in self._came_second.get(key, ())):
            return CONCURRENT
        kept = self._kept.get(key)
        if kept is not None and now - kept.at >= RETENTION_S:
            kept = None
        if kept is None:
            return None
        if kept.fingerprint != fingerprint:
            return MISMATCH
        return PREVIOUS_FAILED if kept.failed else kept

    def keep(self, key: str, kept: Kept) -> None:
        """Remember what the key did."""
        self._kept[key] = kept
