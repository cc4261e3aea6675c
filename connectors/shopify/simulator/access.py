"""Which access scopes a document needs, by the types and fields that it names (facts 1.2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    GraphQLSchema,
    OperationDefinitionNode,
    TypeInfo,
    TypeInfoVisitor,
    Visitor,
    get_named_type,
    visit,
)

DOCUMENTATION = "https://shopify.dev/api/usage/access-scopes"

FULFILLMENT_ORDERS = (
    "read_assigned_fulfillment_orders", "read_merchant_managed_fulfillment_orders",
    "read_third_party_fulfillment_orders",
)  # fmt: skip
OF_TYPE = {
    "Fulfillment": ("read_orders", *FULFILLMENT_ORDERS),
    "FulfillmentLineItem": ("read_orders",),
    "FulfillmentOrder": FULFILLMENT_ORDERS,
    "InventoryAdjustmentGroup": ("read_inventory",),
    "InventoryItem": ("read_inventory", "read_products"),
    "InventoryLevel": ("read_inventory",),
    "InventoryProperties": ("read_inventory",),
    "LineItem": ("read_orders",),
    "Location": ("read_locations", "read_inventory"),
    "Order": ("read_orders",),
    "Product": ("read_products",),
    "ProductVariant": ("read_products",),
    "Refund": ("read_orders",),
    "RefundLineItem": ("read_orders",),
}
"""Any one of the scopes of a type lets its objects be seen."""

OF_FIELD = {
    "Mutation.inventoryActivate": ("write_inventory",),
    "Mutation.inventoryAdjustQuantities": ("write_inventory",),
    "Mutation.inventoryBulkToggleActivation": ("write_inventory",),
    "Mutation.inventoryDeactivate": ("write_inventory",),
    "Mutation.inventorySetQuantities": ("write_inventory",),
    "InventoryItem.duplicateSkuCount": ("read_inventory",),
    **{
        f"Location.{name}": ("read_locations",)
        for name in (
            "activatable", "createdAt", "deactivatedAt", "fulfillsOnlineOrders", "hasActiveInventory",
            "inventoryLevels", "isActive", "isFulfillmentService", "name", "shipsInventory", "updatedAt",
        )
    },
}  # fmt: skip


def expanded(scopes: Iterable[str]) -> frozenset[str]:
    """The scopes with what they imply: ``write_x`` lets read x."""
    given = set(scopes)
    return frozenset(given | {f"read_{each[6:]}" for each in given if each.startswith("write_")})


def refusals(
    schema: GraphQLSchema, document: DocumentNode, operation: OperationDefinitionNode, scopes: Sequence[str]
) -> list[dict[str, Any]]:
    """The errors of a document that asks for more than the app may see; Shopify's shape and words."""
    granted = expanded(scopes)
    if granted.issuperset(EVERY_SCOPE):
        return []
    needs = Needs(TypeInfo(schema))
    visit(document, TypeInfoVisitor(needs.types, needs))
    return list(_errors(needs.found, operation, granted))


EVERY_SCOPE = frozenset(each for needed in (*OF_TYPE.values(), *OF_FIELD.values()) for each in needed)


class Needs(Visitor):
    """Collects the fields that need scopes."""

    def __init__(self, types: TypeInfo) -> None:
        super().__init__()
        self.types = types
        self.found: list[tuple[FieldNode, tuple[str, ...]]] = []

    def enter_field(self, node: FieldNode, *_: Any) -> None:
        """Note what a field needs by itself and by what it leads to."""
        parent, field = self.types.get_parent_type(), self.types.get_field_def()
        if parent is None or field is None:
            return
        kind = get_named_type(field.type).name.removesuffix("Connection")
        for needed in (OF_FIELD.get(f"{parent.name}.{node.name.value}"), OF_TYPE.get(kind)):
            if needed is not None:
                self.found.append((node, needed))


def _errors(
    found: Iterable[tuple[FieldNode, tuple[str, ...]]],
    operation: OperationDefinitionNode,
    granted: frozenset[str],
) -> Iterator[dict[str, Any]]:
    roots = [each for each in operation.selection_set.selections if isinstance(each, FieldNode)]
    path = [root.alias.value if root.alias else root.name.value for root in roots[:1]]
    told_of: set[tuple[str, ...]] = set()
    for node, needed in found:
        if granted.isdisjoint(needed) and needed not in told_of:
            told_of.add(needed)
            told = " or ".join(f"`{scope}` access scope" for scope in needed)
            yield {
                "message": f"Access denied for {node.name.value} field. Required access: {told}.",
                "locations": [_location(node)],
                "path": path,
                "extensions": {
                    "code": "ACCESS_DENIED",
                    "documentation": DOCUMENTATION,
                    "requiredAccess": told,
                },
            }


def _location(node: FieldNode) -> dict[str, int]:
    assert node.loc is not None, "the document was parsed with locations"
    begin = node.loc.start_token
    return {"line": begin.line, "column": begin.column}
