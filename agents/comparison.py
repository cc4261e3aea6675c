"""Compare the listings of a shop with what it has: all of them by a bulk operation, or some by reading them.

What is believed is read before the shop and again after it: a listing about which anything was learned in
between is not judged, because nobody knows which of the two the shop's answer is of. Listings in shadow mode
are not judged either: the shop's numbers are somebody else's there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Protocol

from msgspec import Struct
from msgspec.structs import replace

from app.records import Correction, Drift, LevelRead, listing_parts
from connectors.shopify.client import ShopClient
from connectors.shopify.levels import all_levels, read_levels
from tables import drift
from tables.drift import Belief, Verdict
from tables.edits import Policy

SECOND_READ_S = 3.0
"""Between the two readings of a listing that shall be corrected."""
CORRECTION_LIFE_S = 120.0
"""A correction that the writer does not get to within this is of another world: it is found again."""

Clock = Callable[[], float]
"""Epoch seconds."""
Sleep = Callable[[float], Awaitable[None]]
Known = Mapping[str, Drift]
"""What was found before, by listing."""


class Following(Protocol):
    """What is believed, as of the last ``catch_up`` (see ``agents.beliefs``)."""

    shop: str

    @property
    def listings(self) -> Mapping[str, Belief]:
        """By key."""

    async def catch_up(self) -> set[str]:
        """Learn what has changed; returns the listings that it is about."""


class Limits(Struct, frozen=True, kw_only=True):
    """When a difference is settled, a listing quiet, and a correction small enough to be made by itself."""

    settle_s: float = 900.0
    quiet_s: float = 30.0
    units: int = 10

    @property
    def settle_ms(self) -> int:
        """``settle_s`` in milliseconds."""
        return int(self.settle_s * 1000)


class Compared(NamedTuple):
    """What a comparison found."""

    shop: str
    by: str
    checked: int  # listings that were judged
    moving: int  # listings that changed meanwhile, and were not
    found: list[Drift]
    gone: list[Drift]  # what was known and is not there any more


class Correctable(NamedTuple):
    """A difference with the correction to ask for."""

    found: Drift
    correction: Correction


def small(
    found: Iterable[Drift], limits: Limits, beliefs: Mapping[str, Belief], policy: Policy
) -> list[Drift]:
    """The differences that may be corrected without being asked, as far as the first look tells.

    ``policy`` is the shop's about hand edits. A correction would take back an edit that was reported as well,
    so a listing with one waits for a person.
    """
    return [
        one
        for one in found
        if not drift.may_correct(one, policy=policy, limit=limits.units, settle_ms=limits.settle_ms)
        and not ((belief := beliefs.get(one.key)) is not None and belief.accepted)
    ]


class Comparison:
    """Compares one shop; holds nothing between two comparisons but what is believed."""

    def __init__(
        self,
        client: ShopClient,
        beliefs: Following,
        limits: Limits,
        *,
        clock: Clock = time.time,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.beliefs = beliefs
        self._client = client
        self._limits = limits
        self._clock = clock
        self._sleep = sleep

    @property
    def policy(self) -> Policy:
        """What becomes of hand edits in the shop."""
        return self._client.shop.hand_edits

    async def sweep(self, known: Callable[[], Known]) -> Compared:
        """Compare every listing; ``known`` is asked when all is read.

        Raises:
            Retry, Rejected: the shop did not give the whole of it.
            KafkaError: the brokers do not answer.
        """
        await self.beliefs.catch_up()
        unseen = set(self.beliefs.listings)
        odd: dict[str, LevelRead | None] = {}
        checked = 0
        async for listing, level in all_levels(self._client):
            unseen.discard(listing)
            checked += 1
            if self._judge(listing, level, None) is not None:
                odd[listing] = level
        odd.update(dict.fromkeys(unseen))
        return await self._compared("sweep", odd, checked + len(unseen), known(), None)

    async def sample(self, listings: Iterable[str], known: Callable[[], Known]) -> Compared:
        """Compare these listings of the shop; raises as ``sweep``."""
        wanted = dict.fromkeys(listings)
        await self.beliefs.catch_up()
        levels = await self._read(wanted)
        return await self._compared("sample", levels, len(levels), known(), wanted.keys())

    async def correctable(self, found: Iterable[Drift]) -> list[Correctable]:
        """Read these differences once more; those of quiet listings that read the same can be corrected."""
        wanted = {one.key: one for one in found}
        if not wanted:
            return []
        await self.beliefs.catch_up()
        before = {listing: self.beliefs.listings.get(listing) for listing in wanted}
        first = await self._read(wanted)
        await self._sleep(SECOND_READ_S)
        second = await self._read(wanted)
        await self.beliefs.catch_up()
        return [
            self._correctable(one, belief, level)
            for listing, one in wanted.items()
            if (belief := before[listing]) is not None
            and (level := first[listing]) is not None
            and self._still(one, belief, level, self.beliefs.listings.get(listing), second[listing])
        ]

    async def _read(self, listings: Iterable[str]) -> dict[str, LevelRead | None]:
        """The levels of listings; None: there is no such level."""
        read = await read_levels(self._client, listings)
        return {
            listing: level if level is not None and level.exists else None for listing, level in read.items()
        }

    async def _compared(
        self,
        by: str,
        levels: Mapping[str, LevelRead | None],
        checked: int,
        known: Known,
        looked_at: Container[str] | None,
    ) -> Compared:
        """Judge what was read, and what is gone of what was known of ``looked_at`` (None: of everything)."""
        moving = await self.beliefs.catch_up()
        now = self._now()
        found: dict[str, Drift] = {}
        for listing, level in levels.items():
            verdict = None if listing in moving else self._judge(listing, level, known.get(listing))
            if verdict is not None:
                belief, before = self.beliefs.listings.get(listing), known.get(listing)
                found[listing] = drift.drift_of(listing, belief, level, verdict, before, now=now, by=by)
        over = [
            drift.gone(one, now=now, by=by)
            for listing, one in known.items()
            if listing not in found and listing not in moving and (looked_at is None or listing in looked_at)
        ]
        return Compared(
            shop=self.beliefs.shop,
            by=by,
            checked=checked,
            moving=len(moving),
            found=list(found.values()),
            gone=[one for one in over if drift.news(known[one.key], one)],
        )

    def _judge(self, listing: str, level: LevelRead | None, known: Drift | None) -> Verdict | None:
        belief, shop = self.beliefs.listings.get(listing), self._client.shop
        if shop.shadow or listing_parts(listing)[2] in shop.shadow_locations:
            return None
        now_ms, settle_ms = int(self._clock() * 1000), self._limits.settle_ms
        return drift.judge(belief, level, known=known, now_ms=now_ms, settle_ms=settle_ms)

    def _still(
        self, one: Drift, before: Belief, first: LevelRead, after: Belief | None, second: LevelRead | None
    ) -> bool:
        verdict = self._judge(one.key, second, one)
        same = verdict is not None and not drift.news(one, replace(one, **verdict._asdict()))
        now_ms, quiet_ms = int(self._clock() * 1000), int(self._limits.quiet_s * 1000)
        return same and drift.quiet(before, first, after, second, now_ms=now_ms, quiet_ms=quiet_ms)

    def _correctable(self, one: Drift, belief: Belief, level: LevelRead) -> Correctable:
        now = self._now()
        expires_at = now + timedelta(seconds=CORRECTION_LIFE_S)
        correction = drift.correction_of(one, belief, level, expires_at=expires_at)
        return Correctable(replace(one, hops=one.hops + 1, corrected_at=now, found_at=now), correction)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)
