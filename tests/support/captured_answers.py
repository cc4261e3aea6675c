"""What Shopify answered to writes, as far as a client can depend on it: API 2026-04, with invented ids.

Of answers whose code is known from the schema but whose text was never captured, only the shape is a claim.
"""

from __future__ import annotations

from typing import Any

NULL_GROUP: dict[str, Any] = {"inventoryAdjustmentGroup": None}


def set_refused(code: str, message: str, *fields: list[str] | None) -> dict[str, Any]:
    """An ``inventorySetQuantities`` that changed nothing, with one error for each field."""
    errors = [{"field": field, "message": message, "code": code} for field in fields]
    return {"data": {"inventorySetQuantities": {**NULL_GROUP, "userErrors": errors}}}


def _entry(index: int, name: str) -> list[str]:
    return ["input", "quantities", str(index), name]


def _change(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "delta": 5,
        "quantityAfterChange": None,
        "item": {"id": "gid://shopify/InventoryItem/1"},
        "location": {"id": "gid://shopify/Location/1"},
    }


def _top_level(message: str, code: str, locations: int) -> dict[str, Any]:
    where = [{"line": 3, "column": 5}, {"line": 2, "column": 41}][:locations]
    error = {"message": message, "locations": where, "extensions": {"code": code}}
    return {
        "errors": [{**error, "path": ["inventorySetQuantities"]}],
        "data": {"inventorySetQuantities": None},
    }


ANSWERS: dict[str, dict[str, Any]] = {
    "set_ok": {
        "data": {
            "inventorySetQuantities": {
                "inventoryAdjustmentGroup": {
                    "id": "gid://shopify/InventoryAdjustmentGroup/1",
                    "createdAt": "2026-11-02T08:15:05Z",
                    "reason": "correction",
                    "referenceDocumentUri": "gid://acme-sync/StockChange/42",
                    "changes": [_change("available"), _change("on_hand")],
                },
                "userErrors": [],
            }
        }
    },
    "set_noop": {"data": {"inventorySetQuantities": {**NULL_GROUP, "userErrors": []}}},
    "set_missing_idempotent": _top_level(
        "The @idempotent directive is required for this mutation but was not provided.", "BAD_REQUEST", 1
    ),
    "set_missing_change_from": _top_level(
        "InventoryQuantityInput must include the following argument: changeFromQuantity.",
        "INVALID_FIELD_ARGUMENTS",
        2,
    ),
    "set_legacy_field": {
        "errors": [
            {
                "message": "Variable $input of type InventorySetQuantitiesInput! was provided invalid value "
                "for ignoreCompareQuantity (Field is not defined on InventorySetQuantitiesInput)",
                "locations": [{"line": 2, "column": 41}],
                "extensions": {
                    "code": "INVALID_VARIABLE",
                    "value": {},
                    "problems": [
                        {
                            "path": ["ignoreCompareQuantity"],
                            "explanation": "Field is not defined on InventorySetQuantitiesInput",
                        }
                    ],
                },
            }
        ]
    },
    "set_invalid_item": set_refused(
        "INVALID_INVENTORY_ITEM",
        "The specified inventory item could not be found.",
        _entry(0, "inventoryItemId"),
    ),
    "set_invalid_location": set_refused(
        "INVALID_LOCATION", "The specified location could not be found.", _entry(0, "locationId")
    ),
    "set_duplicate_pair": set_refused(
        "NO_DUPLICATE_INVENTORY_ITEM_ID_GROUP_ID_PAIR",
        "The combination of inventoryItemId and locationId must be unique.",
        _entry(0, "locationId"),
        _entry(1, "locationId"),
    ),
    "set_negative_on_hand": set_refused(
        "INVALID_QUANTITY_NEGATIVE", "The quantity can't be negative.", _entry(0, "quantity")
    ),
    "set_stale_SHAPE_UNVERIFIED": set_refused(
        "CHANGE_FROM_QUANTITY_STALE",
        "The changeFromQuantity value does not match persisted value.",
        _entry(0, "changeFromQuantity"),
    ),
    "set_idem_mismatch_SHAPE_UNVERIFIED": set_refused(
        "IDEMPOTENCY_KEY_PARAMETER_MISMATCH",
        "The same idempotency key cannot be used with different operation parameters.",
        None,
    ),
    "set_idem_concurrent_SHAPE_UNVERIFIED": set_refused(
        "IDEMPOTENCY_CONCURRENT_REQUEST", "This request is currently in progress, please try again.", None
    ),
    "activate_already_active": {
        "data": {
            "inventoryActivate": {
                "inventoryLevel": None,
                "userErrors": [
                    {
                        "field": ["available"],
                        "message": "Not allowed to set available quantity when the item is already active "
                        "at the location.",
                    }
                ],
            }
        }
    },
    "bulk_in_progress": {
        "data": {
            "bulkOperationRunQuery": {
                "bulkOperation": None,
                "userErrors": [
                    {
                        "field": None,
                        "message": "A bulk query operation for this app and shop is already in progress: "
                        "gid://shopify/BulkOperation/1.",
                        "code": "OPERATION_IN_PROGRESS",
                    }
                ],
            }
        }
    },
    "throttled_http200": {
        "errors": [
            {
                "message": "Throttled",
                "extensions": {
                    "code": "THROTTLED",
                    "documentation": "https://shopify.dev/api/usage/rate-limits",
                },
            }
        ]
    },
}
"""By the name of the capture; every answer but ``set_legacy_field`` also has its cost."""

COSTS = {"set_ok": (13, 13), "set_noop": (13, 10), "set_missing_change_from": (13, 10)}
"""Points requested and charged, for the captures whose document is the one that is sent here."""
