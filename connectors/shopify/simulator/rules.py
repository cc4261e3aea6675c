"""Which inventory writes Shopify refuses, with codes and, where they were captured, its own messages.

A write is checked as a whole before anything moves: one bad entry and nothing is applied (facts 2.2).
Messages that were not captured are ours; readers should look at the code.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from connectors.shopify.simulator.views import number_of
from connectors.shopify.simulator.world import ShopState

SETTABLE = ("available", "on_hand")
ADJUSTABLE = ("available", "damaged", "incoming", "quality_control", "reserved", "safety_stock")
REASONS = (
    "correction", "cycle_count_available", "damaged", "movement_canceled", "movement_created",
    "movement_received", "movement_updated", "other", "promotion", "quality_control", "received",
    "reservation_created", "reservation_deleted", "reservation_updated", "restock",
    "safety_stock", "shrinkage",
)  # fmt: skip
MAX_SET = 1_000_000_000
MAX_ADJUST = 2_000_000_000
URI = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]*:\S+$")

UserError = dict[str, Any]


class Entry(Struct, frozen=True, kw_only=True, gc=False):
    """A write of one name at one listing, checked and resolved."""

    index: int
    item_id: int
    location_id: int
    name: str  # "available", "on_hand" or another writable name
    delta: int
    ledger: str | None = None


def user_error(field: Sequence[str] | None, message: str, code: str) -> UserError:
    """A user error; indices in ``field`` are strings."""
    return {"field": None if field is None else list(field), "message": message, "code": code}


def check_set(shop: ShopState, given: Mapping[str, Any]) -> tuple[list[Entry], list[UserError]]:
    """The entries of ``inventorySetQuantities``, or what is wrong with them."""
    name = given["name"]
    rows = given["quantities"]
    errors = [*_header(given, SETTABLE, "INVALID_NAME"), *_duplicates("quantities", rows, SET_DUPLICATE)]
    entries = []
    for index, row in enumerate(rows):
        where = ("input", "quantities", str(index))
        wrong = [*_listing(shop, where, row), *_set_bounds(where, name, row["quantity"])]
        if not wrong and not errors:
            item_id, location_id, current = _current(shop, row, name)
            wrong = list(_stale(where, row, current))
            entries.append(
                Entry(
                    index=index,
                    item_id=item_id,
                    location_id=location_id,
                    name=name,
                    delta=row["quantity"] - current,
                )
            )
        errors += wrong
    return entries, errors


def check_adjust(shop: ShopState, given: Mapping[str, Any]) -> tuple[list[Entry], list[UserError]]:
    """The entries of ``inventoryAdjustQuantities``, or what is wrong with them."""
    name = given["name"]
    rows = given["changes"]
    errors = [
        *_header(given, ADJUSTABLE, "INVALID_QUANTITY_NAME"),
        *_duplicates("changes", rows, ADJUST_DUPLICATE),
        *_one_ledger(rows),
    ]
    entries = []
    for index, row in enumerate(rows):
        where = ("input", "changes", str(index))
        wrong = [
            *_listing(shop, where, row),
            *_bounds((*where, "delta"), row["delta"], MAX_ADJUST),
            *_ledger(where, name, row.get("ledgerDocumentUri")),
        ]
        if not wrong and not errors:
            item_id, location_id, current = _current(shop, row, name)
            wrong = list(_stale(where, row, current))
            entries.append(
                Entry(
                    index=index,
                    item_id=item_id,
                    location_id=location_id,
                    name=name,
                    delta=row["delta"],
                    ledger=row.get("ledgerDocumentUri"),
                )
            )
        errors += wrong
    return entries, errors


SET_DUPLICATE = "NO_DUPLICATE_INVENTORY_ITEM_ID_GROUP_ID_PAIR"
ADJUST_DUPLICATE = "ADJUST_QUANTITIES_FAILED"
"""The adjust codes have no word for a duplicate. That Shopify refuses one is captured for set only; here
both are refused, so that a writer cannot come to depend on it."""


def _header(given: Mapping[str, Any], names: Sequence[str], code: str) -> Iterator[UserError]:
    if given["name"] not in names:
        yield user_error(("input", "name"), f"The quantity name must be one of: {', '.join(names)}.", code)
    if given["reason"] not in REASONS:
        yield user_error(
            ("input", "reason"),
            f"The specified reason is invalid. Valid values are: {', '.join(REASONS)}.",
            "INVALID_REASON",
        )
    uri = given.get("referenceDocumentUri")
    if uri is not None and not URI.match(uri):
        yield user_error(
            ("input", "referenceDocumentUri"),
            "The specified reference document is invalid.",
            "INVALID_REFERENCE_DOCUMENT",
        )


def _duplicates(field: str, rows: Sequence[Mapping[str, Any]], code: str) -> Iterator[UserError]:
    pairs = Counter((row["inventoryItemId"], row["locationId"]) for row in rows)
    for index, row in enumerate(rows):
        if pairs[row["inventoryItemId"], row["locationId"]] > 1:
            yield user_error(
                ("input", field, str(index), "locationId"),
                "The combination of inventoryItemId and locationId must be unique.",
                code,
            )


def _listing(shop: ShopState, where: tuple[str, ...], row: Mapping[str, Any]) -> Iterator[UserError]:
    if number_of("InventoryItem", row["inventoryItemId"]) not in shop.items:
        yield user_error(
            (*where, "inventoryItemId"),
            "The specified inventory item could not be found.",
            "INVALID_INVENTORY_ITEM",
        )
    if number_of("Location", row["locationId"]) not in shop.locations:
        yield user_error(
            (*where, "locationId"), "The specified location could not be found.", "INVALID_LOCATION"
        )


def _set_bounds(where: tuple[str, ...], name: str, quantity: int) -> Iterator[UserError]:
    field = (*where, "quantity")
    if name == "on_hand" and quantity < 0:
        yield user_error(field, "The quantity can't be negative.", "INVALID_QUANTITY_NEGATIVE")
    else:
        yield from _bounds(field, quantity, MAX_SET)


def _bounds(field: tuple[str, ...], quantity: int, limit: int) -> Iterator[UserError]:
    if quantity > limit:
        yield user_error(field, f"The quantity can't be higher than {limit:,}.", "INVALID_QUANTITY_TOO_HIGH")
    if quantity < -limit:
        yield user_error(field, f"The quantity can't be lower than -{limit:,}.", "INVALID_QUANTITY_TOO_LOW")


def _ledger(where: tuple[str, ...], name: str, uri: str | None) -> Iterator[UserError]:
    field = (*where, "ledgerDocumentUri")
    if name == "available":
        if uri is not None:
            yield user_error(
                field, "A ledger document URI is not allowed for available.", "INVALID_AVAILABLE_DOCUMENT"
            )
    elif uri is None:
        yield user_error(field, f"A ledger document URI is required for {name}.", "INVALID_QUANTITY_DOCUMENT")
    elif uri.startswith("gid://shopify/"):
        yield user_error(
            field, "Internal (gid://shopify/) ledger documents are not allowed.", "INTERNAL_LEDGER_DOCUMENT"
        )
    elif not URI.match(uri):
        yield user_error(field, "The specified ledger document is invalid.", "INVALID_LEDGER_DOCUMENT")


def _one_ledger(rows: Sequence[Mapping[str, Any]]) -> Iterator[UserError]:
    if len({row.get("ledgerDocumentUri") for row in rows} - {None}) > 1:
        yield user_error(
            ("input", "changes"),
            "Only one ledger document URI is allowed per call.",
            "MAX_ONE_LEDGER_DOCUMENT",
        )


def _stale(where: tuple[str, ...], row: Mapping[str, Any], current: int) -> Iterator[UserError]:
    expected = row["changeFromQuantity"]
    if expected is not None and expected != current:
        yield user_error(
            (*where, "changeFromQuantity"),
            "The changeFromQuantity value does not match persisted value.",
            "CHANGE_FROM_QUANTITY_STALE",
        )


def _current(shop: ShopState, row: Mapping[str, Any], name: str) -> tuple[int, int, int]:
    item_id = number_of("InventoryItem", row["inventoryItemId"])
    location_id = number_of("Location", row["locationId"])
    assert item_id is not None, "the listing was checked"
    assert location_id is not None, "the listing was checked"
    level = shop.levels.get((item_id, location_id))
    return item_id, location_id, level.quantity(name) if level else 0
