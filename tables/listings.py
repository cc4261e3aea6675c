"""All of ``stock.listings`` in memory: where an order line's units live, and where an item is listed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Protocol

from app.records import Listings, Record, split_stock_key


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


class ListingIndex:
    """All of ``stock.listings`` in memory, found by key and by a shop's item."""

    def __init__(self) -> None:
        self._listings: dict[str, Listings] = {}
        self._united: dict[str, int] = {}
        self._keys: dict[tuple[str, int], set[str]] = defaultdict(set)
        self._shops: Counter[str] = Counter()

    def put(self, key: str, listings: Listings | None) -> set[str]:
        """Take the newest value of a stock key (None: deleted); nothing but the key has changed by it."""
        old = self._listings.pop(key, None)
        for listing in old.listings if old is not None else ():
            self._keys[listing.shop, listing.item].discard(key)
            self._shops[listing.shop] -= 1
        if listings is not None:
            self._listings[key] = listings
            self._united[key] = max(self._united.get(key, 0), listings.united)
            for listing in listings.listings:
                self._keys[listing.shop, listing.item].add(key)
                self._shops[listing.shop] += 1
        return {key}

    def of(self, key: str) -> Listings:
        """The listings of a key; none where it has no record."""
        sku, location = split_stock_key(key)
        return self._listings.get(key) or Listings(sku=sku, location=location)

    def newest(self, key: str, united: Listings | None) -> Listings:
        """The newer of what is known of a key and what its owner last united, which may not be known yet.

        A value written as a whole is newer when it was written later.
        """
        known, seen = self.of(key), self._united.get(key, 0)
        if united is None or seen >= united.united:
            return known
        written, made = known.updated_at, united.updated_at
        later = written is not None and made is not None and written > made
        return known if later and not known.united else united

    def keys_of(self, shop: str, item: int) -> Iterable[str]:
        """The keys under which an item is listed."""
        return self._keys.get((shop, item), ())

    def lists(self, shop: str) -> bool:
        """Whether anything of a shop is listed."""
        return self._shops[shop] > 0

    def items_of(self, shop: str) -> set[int]:
        """The items of a shop that are listed; looks at everything."""
        return {item for (of, item), keys in self._keys.items() if of == shop and keys}

    def items_at(self, shop: str, location_id: int) -> set[int]:
        """The items of a shop that are listed at one of its locations; looks at everything."""
        return {
            one.item
            for listings in self._listings.values()
            for one in listings.listings
            if one.shop == shop and one.location_id == location_id
        }


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
