"""Forget a shop that is gone: what compacted topics and the services' tables hold of it.

What has a retention goes by itself, and the ledger stays (docs/privacy.md). The command asks, and each
service deletes from its own tables.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from itertools import count

from msgspec import Struct

from app.errors import Misconfigured
from app.exactly_once.partitioner import partition_of
from app.kafka_tools import (
    all_listings,
    last_values,
    levels,
    send_listing_changes,
    send_redactions,
    send_tombstones,
)
from app.records import Listing, ListingChange, Redaction, shop_of
from app.settings import Settings
from app.shops import Shop
from app.topics import TOPICS, Kept

LISTINGS, LEVELS, TARGETS = "stock.listings", "stock.levels", "shopify.targets"
OF_SHOPS = tuple(
    spec.name for spec in TOPICS if spec.kept is Kept.COMPACTED and spec.key.startswith("{shop}")
)
"""The compacted topics whose keys begin with a shop: targets, and the changelogs of the services' tables."""
LIMIT_S = 60.0
"""For the services to do their part; the next run goes on where this one ended."""
PAUSE_S = 1.0


class Held(Struct, frozen=True, kw_only=True):
    """What is held of a shop."""

    listings: list[ListingChange]  # of every key that lists it: what takes it away
    levels: int  # keys whose level still has a listing of it
    keys: dict[str, list[str]]  # by topic of OF_SHOPS, those that have any

    @property
    def counts(self) -> dict[str, int]:
        """Keys by topic, those that have any."""
        found = {LISTINGS: len(self.listings), LEVELS: self.levels}
        found |= {topic: len(keys) for topic, keys in self.keys.items()}
        return {topic: number for topic, number in found.items() if number}


def require_gone(shops: Mapping[str, Shop], domain: str) -> None:
    """Refuse a shop that the services still work for.

    Raises:
        Misconfigured: naming the setting and what to do.
    """
    if domain in shops:
        raise Misconfigured(
            f"shop {domain} is in the shops file (SKUSTREAM_SHOPS_FILE): take it out and restart the "
            f"services, or they begin anew with it"
        )


async def look(settings: Settings, domain: str) -> Held:
    """What is held of a shop now, as the topics tell."""

    def of_shop(listings: Iterable[Listing]) -> list[Listing]:
        return [listing for listing in listings if listing.shop == domain]

    keys = {topic: await _keys(settings, topic, domain) for topic in OF_SHOPS}
    return Held(
        listings=[
            ListingChange(sku=one.sku, location=one.location, listing=listing, removed=True, reason="redact")
            for one in await all_listings(settings)
            for listing in of_shop(one.listings)
        ],
        levels=sum(bool(of_shop(one.listings)) for one in (await levels(settings)).values()),
        keys={topic: found for topic, found in keys.items() if found},
    )


async def redact(
    settings: Settings,
    domain: str,
    *,
    limit_s: float = LIMIT_S,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> Held:
    """Ask for all of it to be forgotten until it is, or the time is over; returns what is left.

    1. The shop leaves ``stock.listings``, by changes that its owner unites with those of other shops; the
       stock service takes that, so that no target is made any more.
    2. Only then its targets get tombstones, and every lane of every service is asked to forget it.
    """
    end = monotonic() + limit_s
    while (held := await look(settings, domain)).counts and monotonic() < end:
        if held.listings:
            await send_listing_changes(settings, held.listings)
        elif not held.levels:
            await send_tombstones(settings, TARGETS, held.keys.get(TARGETS, ()), route=shop_of)
            if held.keys.keys() - {TARGETS}:
                await send_redactions(settings, redactions(domain, settings.partitions))
        await sleep(PAUSE_S)
    return held


def redactions(domain: str, partitions: int) -> list[Redaction]:
    """One for each lane: its nonce makes the key hash to the lane's partition."""
    found: dict[int, Redaction] = {}
    at, nonces = datetime.now(UTC), count()
    while len(found) < partitions:
        one = Redaction(shop=domain, nonce=next(nonces), requested_at=at)
        found.setdefault(partition_of(one.key.encode(), partitions), one)
    return list(found.values())


async def _keys(settings: Settings, topic: str, domain: str) -> list[str]:
    names = (key.decode() for key in await last_values(settings, topic))
    return [name for name in names if name == domain or name.startswith(f"{domain}/")]
