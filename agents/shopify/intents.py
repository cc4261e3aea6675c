"""The exact bytes of writes: made once, stored with the intent, and sent as they are."""

from __future__ import annotations

from typing import Any, Literal
from uuid import NAMESPACE_URL, uuid4, uuid5

from app.records import Correction, encode, listing_parts
from tables.pushes import Entry, Intent


def intent_key(intent: Intent) -> bytes:
    """The key of table ``intents``: by shop, so that it lives in the shop's lane."""
    return f"{intent.shop}/{intent.key}".encode()


def adjusting(shop: str, entries: list[Entry], now_ms: int) -> Intent:
    """A write of differences, which commute with sales that nobody has told us of yet."""
    changes = [{**_place(entry), "delta": entry.delta, "changeFromQuantity": None} for entry in entries]
    return _intent("adjust", str(uuid4()), shop, "changes", changes, entries, now_ms)


def setting(correction: Correction, entry: Entry, now_ms: int) -> Intent:
    """A write of a value that the shop takes only while it has the one that was read."""
    row = {
        **_place(entry),
        "quantity": correction.available + entry.delta,
        "changeFromQuantity": correction.available,
    }
    key = str(uuid5(NAMESPACE_URL, f"skustream:{correction.key}:{correction.id}"))
    return _intent("set", key, correction.shop, "quantities", [row], [entry], now_ms)


def activation(listing: str) -> bytes:
    """The variables of an activation without quantities: a new level starts with none, an old one keeps its
    own, and doing it twice changes nothing (facts 2.5).
    """
    place = _place_of(listing)
    variables = {"key": str(uuid4()), "item": place["inventoryItemId"], "location": place["locationId"]}
    return encode(variables)


def _intent(
    kind: Literal["adjust", "set"],
    key: str,
    shop: str,
    field: str,
    rows: list[dict[str, Any]],
    entries: list[Entry],
    now_ms: int,
) -> Intent:
    """The order of the fields never changes: Shopify compares them under a key."""
    variables = {
        "key": key,
        "input": {
            "name": "available",
            "reason": "correction",
            "referenceDocumentUri": f"gid://skustream/Push/{key}",
            field: rows,
        },
    }
    return Intent(
        key=key,
        shop=shop,
        variables=encode(variables).decode(),
        entries=entries,
        created_ms=now_ms,
        kind=kind,
    )


def _place(entry: Entry) -> dict[str, Any]:
    return _place_of(entry.listing)


def _place_of(listing: str) -> dict[str, Any]:
    _, item, location_id = listing_parts(listing)
    return {
        "inventoryItemId": f"gid://shopify/InventoryItem/{item}",
        "locationId": f"gid://shopify/Location/{location_id}",
    }
