"""Which stock key has a listing: of all that speak of it, the one with the highest generation.

The listings of two keys are two records of two lanes, and their targets come to the writer in any order. So
a listing gets a generation when it comes under a key: the instant of that change in epoch ms, and more than
the one it had under the key that it leaves. The targets of a key carry the generation that the listing has
there, up to the last one, which says that it was taken away. Whoever reads targets compares
generations between keys and versions within one. A change of rules leaves the generation as it is.

0 is that of records from before there were generations.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from msgspec.structs import replace

from app.records import Listing, Listings, stock_key


def next_generation(known: int, now_ms: int) -> int:
    """The generation of a listing that comes under a key; ``known`` is the newest that we know of it."""
    return max(now_ms, known + 1)


def told(listings: Sequence[Listing], before: Iterable[Listing], at_ms: int) -> list[Listing]:
    """The listings of a key's new record, each with its generation.

    One that stays under the key never goes back. One that comes without a generation, because the record was
    not written by our own tools, gets the instant of that record, ``at_ms``.
    """
    known = {one.key: one.generation for one in before}

    def generation(one: Listing) -> int:
        return max(one.generation, known[one.key]) if one.key in known else one.generation or max(at_ms, 0)

    return [replace(one, generation=generation(one)) for one in listings]


def changed(wanted: Iterable[Listings], known: Mapping[str, Listings], now_ms: int) -> list[Listings]:
    """The keys to write, so that some hold the listings that are ``wanted``, given all there are, by key.

    A listing that comes under a key gets a new generation, and so does one that leaves a key, wherever else
    it is listed: that key has it from now on. So there can be more keys to write than were asked for.
    """
    after = {**known, **{stock_key(one.sku, one.location): one for one in wanted}}
    had, has = _generations(known), _generations(after)

    def generation(key: str, listing: str) -> int:
        was = had[listing]
        if key in was and was.keys() <= has[listing].keys():
            return was[key]
        return next_generation(max(was.values(), default=0), now_ms)

    made = {
        key: replace(
            one, listings=[replace(each, generation=generation(key, each.key)) for each in one.listings]
        )
        for key, one in after.items()
    }
    return [one for key, one in made.items() if one.listings != (known[key].listings if key in known else [])]


def _generations(known: Mapping[str, Listings]) -> defaultdict[str, dict[str, int]]:
    """The generations of each listing, by the keys that it is under."""
    found: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for key, one in known.items():
        for listing in one.listings:
            found[listing.key][key] = listing.generation
    return found
