"""What ``skustream catalog`` does: shops' catalogs beside their listings, and the changes that follow."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence

from msgspec import Struct

from app.errors import Misconfigured
from app.kafka_tools import all_listings
from app.records import ListingChange, Listings
from app.settings import Settings
from app.shops import Shop
from connectors.shopify.catalog import read_catalog
from connectors.shopify.client import ShopClient
from tables.catalog import Comparison, changes, compare


class Synced(Struct, frozen=True, kw_only=True):
    """A shop's catalog beside its listings, and what follows."""

    comparison: Comparison
    changes: list[ListingChange]  # what --apply sends
    held: list[ListingChange]  # listings of keys that are open: they would be written at once


async def sync(
    settings: Settings, shops: Sequence[Shop], opened: Collection[str], *, move: bool
) -> list[Synced]:
    """Read the catalogs of shops, one after another, and compare them with ``stock.listings``.

    ``opened`` are the keys that have stock: a new listing of one of them is held back, because it would be
    written as soon as it is there (``skustream catalog open --publish`` shows what and does it).

    Raises:
        Misconfigured: for a shop without codes of its locations.
        Retry, Rejected: as ``bulk.run``, BrokerUnavailable without Kafka.
    """
    require_codes(settings, shops)
    known = await all_listings(settings)
    return [await _sync(shop, known, opened, move=move) for shop in shops]


def require_codes(settings: Settings, shops: Iterable[Shop]) -> None:
    """Refuse shops whose locations have no codes: nothing of them could be mapped.

    Raises:
        Misconfigured: naming the file, the shop and the field.
    """
    for shop in shops:
        if not shop.locations:
            where = f"{settings.shops_file}: shop {shop.domain}: locations"
            raise Misconfigured(f"{where}: needs our code of each Shopify location id")


async def _sync(shop: Shop, known: Sequence[Listings], opened: Collection[str], *, move: bool) -> Synced:
    client = ShopClient(shop)
    try:
        items = await read_catalog(client)
    finally:
        await client.close()
    comparison = compare(shop.domain, items, shop.locations, known, move=move)
    return divided(comparison, known, opened, int(time.time() * 1000))


def divided(
    comparison: Comparison, known: Iterable[Listings], opened: Collection[str], now_ms: int
) -> Synced:
    """The changes of a comparison; those that would make an open key be written to a new place are held."""
    listed = {one.key for listings in known for one in listings.listings}
    ready: list[ListingChange] = []
    held: list[ListingChange] = []
    for change in changes(comparison, now_ms):
        waits = not change.removed and change.key in opened and change.listing.key not in listed
        (held if waits else ready).append(change)
    return Synced(comparison=comparison, changes=ready, held=held)
