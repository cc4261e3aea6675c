"""Where an order line's units live: the look-up from a shop's variant to a stock key."""

from __future__ import annotations

from typing import Protocol

from app.records import Listings, Record


class Listed(Record, frozen=True, kw_only=True):
    """A place that holds a line's units: the stock key's parts and the listing that sold there."""

    sku: str
    location: str
    location_id: int  # the shop's own id of that location
    listing: str  # "{shop}/{item}/{location_id}"


class Directory(Protocol):
    """What the order rules ask: which stock key a variant has at a location of a shop."""

    def find(self, shop: str, variant_id: int | None, sku: str | None, location_id: int) -> Listed | None:
        """The place, or None while nobody has mapped it."""


def variant_ref(shop: str, variant_id: int) -> str:
    """What an unmapped line waits for: the variant being listed."""
    return f"{shop}/variant/{variant_id}"


def sku_ref(shop: str, sku: str) -> str:
    """What an unmapped line waits for: the SKU being listed."""
    return f"{shop}/sku/{sku}"


class ListingDirectory:
    """All of ``stock.listings`` in memory, found by variant first and by SKU second."""

    def __init__(self) -> None:
        self._known: dict[str, dict[tuple[str, int], Listed]] = {}
        self._places: dict[tuple[str, int], Listed] = {}

    def put(self, key: str, listings: Listings | None) -> set[str]:
        """Take the newest value of a stock key (None: deleted) and say which refs changed by it."""
        old = self._known.pop(key, {})
        new = {} if listings is None else _entries(listings)
        if new:
            self._known[key] = new
        for entry, place in old.items():
            # Another key may have claimed the listing since: only what is still ours goes.
            if self._places.get(entry) == place:
                del self._places[entry]
        self._places.update(new)
        changed = {entry for entry in old.keys() | new.keys() if old.get(entry) != new.get(entry)}
        return {ref for ref, _ in changed}

    def find(self, shop: str, variant_id: int | None, sku: str | None, location_id: int) -> Listed | None:
        """See ``Directory``."""
        place = self._places.get((variant_ref(shop, variant_id), location_id)) if variant_id else None
        if place is None and sku:
            place = self._places.get((sku_ref(shop, sku), location_id))
        return place


def _entries(listings: Listings) -> dict[tuple[str, int], Listed]:
    entries: dict[tuple[str, int], Listed] = {}
    for listing in listings.listings:
        place = Listed(
            sku=listings.sku,
            location=listings.location,
            location_id=listing.location_id,
            listing=listing.key,
        )
        entries[variant_ref(listing.shop, listing.variant), listing.location_id] = place
        entries[sku_ref(listing.shop, listings.sku), listing.location_id] = place
    return entries
