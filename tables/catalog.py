"""What a shop's catalog says about listings: which there should be, and what is wrong with it.

A listing is proposed by the item's SKU and the code that the shops file gives to the location, and follows
the SKU. What a person has mapped by hand stays, unless it is told to move; the channel rules of a listing
always stay.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from enum import StrEnum

from msgspec.structs import replace

from app.records import Listing, ListingChange, Listings, Record, ShopItem, split_stock_key, stock_key
from tables.generations import next_generation

MAX_SKU_CHARACTERS = 255
"""Shopify's own limit for a SKU, and ours (``app.records.Sku``)."""
UNFIT = re.compile(r"[\x00-\x1f]")
"""Characters that no stock key should carry."""

Place = tuple[int, int]
"""An item and a location id: all that tells two listings of a shop apart."""


class Finding(StrEnum):
    """What was found about a listing, an item or a location of a shop."""

    NEW = "new"  # should be listed, and is not
    CHANGED = "changed"  # is listed under another variant than the item's
    ELSEWHERE = "elsewhere"  # is listed under another key than its SKU and location say
    VANISHED = "vanished"  # is listed, and the shop has no such item or level any more, or does not count it
    DUPLICATE_SKU = "duplicate_sku"  # another listing of this shop has, or wants, the same key
    MISSING_SKU = "missing_sku"  # no SKU, or one that cannot be part of a key
    UNTRACKED = "untracked"  # the shop does not count it
    INACTIVE = "inactive"  # is listed by hand, and its level is not active
    UNMAPPED_LOCATION = "unmapped_location"  # has active levels, and the shops file no code for it


class Row(Record, frozen=True, kw_only=True):
    """One finding."""

    finding: Finding
    key: str = ""  # where it is listed, or should be
    listing: Listing | None = None  # as it should be, or that is to go; None: nothing follows by itself
    to_key: str = ""  # ELSEWHERE: the key that has it from now on
    detail: str = ""


class Comparison(Record, frozen=True, kw_only=True):
    """A shop's catalog beside its listings."""

    shop: str
    items: int
    unchanged: int  # listings that are as they should be
    rows: list[Row]

    @property
    def counts(self) -> dict[str, int]:
        """How many rows of each finding there are."""
        return dict(Counter(str(row.finding) for row in self.rows))


def compare(
    shop: str,
    items: Sequence[ShopItem],
    codes: Mapping[int, str],
    known: Iterable[Listings],
    *,
    asked: Set[int] | None = None,
    move: bool = False,
) -> Comparison:
    """What is found when the items of a shop are laid beside its listings.

    Args:
        shop: its domain.
        items: its items as they were read.
        codes: our codes of the shop's location ids.
        known: the listings there are; they may hold other shops' too.
        asked: the items that were read, where that was not all of them: others are left as they are listed,
            and an item that was asked for and not found is gone.
        move: what is listed by hand goes where its SKU says, as all others do.
    """
    view = _View(shop, items, codes, known, asked=asked, move=move)
    rows = [*view.of_items(), *view.of_listings(), *view.of_proposals(), *view.of_locations()]
    return Comparison(shop=shop, items=len(items), unchanged=view.unchanged, rows=rows)


def changes(comparison: Comparison, now_ms: int, *, correlation_id: str = "") -> list[ListingChange]:
    """The changes of ``stock.listings`` that follow, as of an instant; removals come first."""
    made = [
        _change(key, row, now_ms, removed=removed, correlation_id=correlation_id)
        for row in comparison.rows
        for key, removed in _steps(row)
    ]
    return sorted(made, key=lambda change: not change.removed)


def merge(listings: Sequence[Listing], change: ListingChange) -> list[Listing]:
    """The listings of a key after a change; the channel rules of a listing that is there stay."""
    wanted = change.listing
    if change.removed:
        return [one for one in listings if one.key != wanted.key]
    if all(one.key != wanted.key for one in listings):
        return [*listings, wanted]
    return [
        replace(one, variant=wanted.variant, generation=max(one.generation, wanted.generation))
        if one.key == wanted.key
        else one
        for one in listings
    ]


def fits(sku: str) -> bool:
    """Whether a SKU can be part of a stock key."""
    return 0 < len(sku) <= MAX_SKU_CHARACTERS and sku == sku.strip() and not UNFIT.search(sku)


class _View:
    """One comparison: the shop's items and listings, found by place."""

    def __init__(
        self,
        shop: str,
        items: Sequence[ShopItem],
        codes: Mapping[int, str],
        known: Iterable[Listings],
        *,
        asked: Set[int] | None,
        move: bool,
    ) -> None:
        self._shop = shop
        self._codes = codes
        self._items = {item.item: item for item in items}
        self._move = move
        self._listed: dict[Place, dict[str, Listing]] = defaultdict(dict)
        self._claims: dict[str, set[Place]] = defaultdict(set)
        for one in known:
            for listing in one.listings:
                if listing.shop == shop:
                    key, place = stock_key(one.sku, one.location), (listing.item, listing.location_id)
                    if asked is None or listing.item in asked:
                        self._listed[place][key] = listing
                    else:
                        self._claims[key].add(place)
        self._wanted = dict(self._proposals())
        for place, key in self._wanted.items():
            self._claims[key].add(place)
        self._settle()
        self.unchanged = 0

    def _proposals(self) -> Iterator[tuple[Place, str]]:
        """Where the levels of all items belong by SKU and location."""
        for item in self._items.values():
            if item.tracked and fits(item.sku):
                for level in item.levels:
                    code = self._codes.get(level.location_id)
                    if level.active and code is not None:
                        yield (item.item, level.location_id), stock_key(item.sku, code)

    def _settle(self) -> None:
        """Note who keeps a key: more than one place that keeps or wants it cannot be told apart by SKU.

        What cannot move to the key it wants keeps the one it has, which may stop another move.
        """
        moving = {(place, key) for place, keys in self._listed.items() for key in keys}
        while stays := {pair for pair in moving if not self._moves(*pair)}:
            moving -= stays
            for place, key in stays:
                if self._gone(place, self._listed[place][key]) is None:
                    self._claims[key].add(place)

    def _moves(self, place: Place, key: str) -> bool:
        """Whether a listing leaves its key, as far as the claims so far say."""
        wanted, listing = self._wants(place), self._listed[place][key]
        if wanted in ("", key) or not (self._move or listing.by_sku):
            return False
        return wanted in self._listed[place] or self._claims[wanted] == {place}

    def _wants(self, place: Place) -> str:
        """The key a place belongs to by its SKU; empty when nothing says so."""
        return self._wanted.get(place, "")

    def of_items(self) -> Iterator[Row]:
        """What is wrong with items."""
        for item in self._items.values():
            if not any(level.active for level in item.levels):
                continue
            if not item.tracked:
                yield Row(
                    finding=Finding.UNTRACKED, detail=f"item {item.item} (SKU {item.sku!r}) is not counted"
                )
            elif not fits(item.sku):
                yield Row(
                    finding=Finding.MISSING_SKU, detail=f"item {item.item} has SKU {item.sku!r}: no stock key"
                )

    def of_listings(self) -> Iterator[Row]:
        """What is wrong with listings that are there."""
        for place, keys in self._listed.items():
            for key, listing in keys.items():
                gone = self._gone(place, listing)
                if gone is not None:
                    yield Row(finding=Finding.VANISHED, key=key, listing=listing, detail=gone)
                elif self._inactive(place):
                    yield Row(finding=Finding.INACTIVE, key=key, detail=f"the level of {listing.key}")
                else:
                    yield from self._of_listing(place, key, listing)

    def _of_listing(self, place: Place, key: str, listing: Listing) -> Iterator[Row]:
        wanted, told = self._wants(place) or key, listing.variant
        listing = replace(listing, variant=self._variant(place[0]) or told)
        if wanted != key:
            yield self._of_misplaced(place, key, wanted, listing)
        elif listing.variant != told:
            detail = f"variant {told} is now {listing.variant}"
            yield Row(finding=Finding.CHANGED, key=key, listing=listing, detail=detail)
        else:
            self.unchanged += 1

    def _of_misplaced(self, place: Place, key: str, wanted: str, listing: Listing) -> Row:
        twice = wanted in self._listed[place]
        if not twice and self._claims[wanted] != {place}:
            return self._duplicate(place, wanted, f"stays under {key}")
        detail = f"its SKU says {wanted}" + (", where it is listed too" if twice else "")
        if not (self._move or listing.by_sku):
            detail += "; it was mapped by hand and stays"
            return Row(finding=Finding.ELSEWHERE, key=key, detail=detail)
        listing = replace(listing, by_sku=True)
        return Row(finding=Finding.ELSEWHERE, key=key, listing=listing, to_key=wanted, detail=detail)

    def of_proposals(self) -> Iterator[Row]:
        """What should be listed and is not."""
        for place, key in self._wanted.items():
            if place in self._listed:
                continue
            if self._claims[key] != {place}:
                yield self._duplicate(place, key, "is not listed")
                continue
            item, location_id = place
            listing = Listing(
                shop=self._shop,
                item=item,
                variant=self._variant(item),
                location_id=location_id,
                by_sku=True,
            )
            yield Row(finding=Finding.NEW, key=key, listing=listing)

    def of_locations(self) -> Iterator[Row]:
        """Locations without a code that items are stocked at."""
        unmapped = Counter(
            level.location_id
            for item in self._items.values()
            for level in item.levels
            if level.active and item.tracked and level.location_id not in self._codes
        )
        for location_id, levels in sorted(unmapped.items()):
            yield Row(
                finding=Finding.UNMAPPED_LOCATION,
                detail=f"location {location_id} has {levels} active levels and no code in the shops file",
            )

    def _duplicate(self, place: Place, key: str, state: str) -> Row:
        others = sorted(self._claims[key] - {place})
        names = ", ".join(f"item {item} at location {location_id}" for item, location_id in others)
        detail = f"item {place[0]} at location {place[1]} {state}: the key belongs to {names} too"
        return Row(finding=Finding.DUPLICATE_SKU, key=key, detail=detail)

    def _gone(self, place: Place, listing: Listing) -> str | None:
        """Why a listing has to go; None while it stays. One that was mapped by hand outlives more."""
        item = self._items.get(place[0])
        if item is None:
            return f"the shop has no item {place[0]}"
        if all(level.location_id != place[1] for level in item.levels):
            return f"item {place[0]} has no level at location {place[1]}"
        if not listing.by_sku:
            return None
        if self._inactive(place):
            return f"the level of item {place[0]} at location {place[1]} is not active"
        if not item.tracked:
            return f"item {place[0]} is not counted by the shop any more"
        return None if fits(item.sku) else f"item {place[0]} has SKU {item.sku!r}: no stock key"

    def _inactive(self, place: Place) -> bool:
        levels = self._items[place[0]].levels
        return any(level.location_id == place[1] and not level.active for level in levels)

    def _variant(self, item: int) -> int:
        """The oldest variant of an item; 0 when the shop told none."""
        return min(self._items[item].variants, default=0)


def _steps(row: Row) -> Iterator[tuple[str, bool]]:
    """The keys that a row's listing is put under (False) or taken from (True)."""
    if row.finding in (Finding.NEW, Finding.CHANGED):
        yield row.key, False
    elif row.listing is not None and row.finding in (Finding.VANISHED, Finding.ELSEWHERE):
        yield row.key, True
        if row.to_key:
            yield row.to_key, False


def _change(key: str, row: Row, now_ms: int, *, removed: bool, correlation_id: str) -> ListingChange:
    listing = row.listing
    assert listing is not None, "a finding that changes listings has one"
    if row.finding is not Finding.CHANGED and not removed:
        listing = replace(listing, generation=next_generation(listing.generation, now_ms))
    sku, location = split_stock_key(key)
    return ListingChange(
        sku=sku,
        location=location,
        listing=listing,
        removed=removed,
        reason=f"{row.finding}: {row.detail}".removesuffix(": "),
        correlation_id=correlation_id,
    )
