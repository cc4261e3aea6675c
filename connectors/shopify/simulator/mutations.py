"""The mutations that write quantities: idempotency, the rules, and what they change."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from graphql import GraphQLError, GraphQLResolveInfo, Node, VariableNode, print_ast
from graphql.execution.values import get_directive_values
from msgspec import Struct

from connectors.shopify.simulator.idempotency import Kept, KeyStore
from connectors.shopify.simulator.model import LogKind, Webhook, gid
from connectors.shopify.simulator.rules import Entry, UserError, check_adjust, check_set, user_error
from connectors.shopify.simulator.views import (
    MAX_IDS,
    View,
    invalid,
    item_by,
    location_by,
    too_many,
    utc_time,
)
from connectors.shopify.simulator.world import ShopState, World

APP = {"__typename": "App", "id": gid("App", 580111), "title": "skustream"}
"""The app on whose behalf everything is called."""

Check = Callable[[ShopState, Mapping[str, Any]], tuple[list[Entry], list[UserError]]]


class Running(Struct, kw_only=True, eq=False):
    """One request while it is executed."""

    variables: Mapping[str, Any]  # as they came, in their order: they are part of the fingerprint
    base_url: str = ""  # of the shop, as the caller reached it
    webhooks: list[Webhook] = []


class Mutations:
    """The fields of Mutation, for one request at one shop."""

    def __init__(self, world: World, shop: ShopState, keys: KeyStore, running: Running) -> None:
        self._world = world
        self._shop = shop
        self._keys = keys
        self._running = running

    def root(self) -> View:
        """The fields, as resolvers."""
        return {
            "inventorySetQuantities": lambda info, input: self._quantities(  # noqa: A006
                info, input, "quantities", "InventoryQuantityInput", check_set
            ),
            "inventoryAdjustQuantities": lambda info, input: self._quantities(  # noqa: A006
                info, input, "changes", "InventoryChangeInput", check_adjust
            ),
        }

    def _quantities(
        self, info: GraphQLResolveInfo[Any], given: Mapping[str, Any], field: str, row_type: str, check: Check
    ) -> View:
        key = directive_key(info)
        rows = given[field]
        if any("changeFromQuantity" not in row for row in rows):
            told = f"{row_type} must include the following argument: changeFromQuantity."
            raise GraphQLError(told, _where(info), extensions={"code": "INVALID_FIELD_ARGUMENTS"})
        if len(rows) > MAX_IDS:
            raise too_many(len(rows))

        def execute() -> View:
            entries, errors = check(self._shop, given)
            if errors:
                return {"inventoryAdjustmentGroup": None, "userErrors": errors}
            group = self._apply(key, info.field_name, given, entries)
            return {"inventoryAdjustmentGroup": group, "userErrors": []}

        return self.once(info, key, "inventoryAdjustmentGroup", execute)

    def _apply(
        self, key: str, mutation: str, given: Mapping[str, Any], entries: Sequence[Entry]
    ) -> View | None:
        """Apply all entries; a call that changes nothing has no group (facts 2.4)."""
        world, shop, event = self._world, self._shop, self._world.new_uuid()
        changes = []
        for entry in entries:
            if not entry.delta:
                continue
            # Writing on_hand moves available by the same delta and leaves committed alone.
            moved = "available" if entry.name == "on_hand" else entry.name
            level = world.move(
                shop, entry.item_id, entry.location_id, LogKind.PUSHED,
                deltas={moved: entry.delta}, name=entry.name, key=key, detail=mutation,
            )  # fmt: skip
            self._running.webhooks.append(world.level_webhook(level, shop, event))
            names = [moved] if moved == "incoming" else [moved, "on_hand"]
            changes += [(entry, name) for name in names]
        if not changes:
            return None
        return {
            "__typename": "InventoryAdjustmentGroup",
            "id": gid("InventoryAdjustmentGroup", world.new_id()),
            "createdAt": utc_time(world.clock()),
            "reason": given["reason"],
            "referenceDocumentUri": given.get("referenceDocumentUri"),
            "app": APP,
            "changes": lambda info, **args: _shown(shop, changes, args),
        }

    def once(
        self, info: GraphQLResolveInfo[Any], key: str, result_field: str, execute: Callable[[], View]
    ) -> View:
        """Execute, unless the key says that this was done, is being done or was something else."""
        fingerprint = self._fingerprint(info)
        now = self._world.clock()
        found = self._keys.look(key, fingerprint, self._running, now)
        if isinstance(found, tuple):
            code, message = found
            return {result_field: None, "userErrors": [user_error(None, message, code)]}
        if found is not None:
            self._world.record(LogKind.REPLAYED, self._shop, key=key, detail=info.field_name)
            return found.payload
        payload = execute()
        failed = bool(payload["userErrors"])
        self._keys.keep(key, Kept(at=now, fingerprint=fingerprint, payload=payload, failed=failed))
        return payload

    def _fingerprint(self, info: GraphQLResolveInfo[Any]) -> str:
        """The arguments as they were written, in their order: Shopify asks to keep it stable (facts 2.3)."""
        arguments = " ".join(print_ast(each) for each in info.field_nodes[0].arguments or ())
        return f"{info.field_name} {arguments} {json.dumps(self._running.variables)}"


def directive_key(info: GraphQLResolveInfo[Any]) -> str:
    """The key of ``@idempotent``; a missing or blank one is a top-level error (facts 2.3)."""
    directive = info.schema.get_directive("idempotent")
    assert directive is not None, "the schema declares it"
    values = get_directive_values(directive, info.field_nodes[0], info.variable_values)
    if values is None:
        raise invalid(
            "The @idempotent directive is required for this mutation but was not provided.", "BAD_REQUEST"
        )
    key = str(values["key"])
    if not key.strip():
        raise invalid("The key of the @idempotent directive must not be blank.", "BAD_REQUEST")
    return key


def _where(info: GraphQLResolveInfo[Any]) -> list[Node]:
    """The field and the variables of its arguments: where Shopify points to for a bad input."""
    field = info.field_nodes[0]
    used = {each.value.name.value for each in field.arguments or () if isinstance(each.value, VariableNode)}
    defined = info.operation.variable_definitions or ()
    return [field, *(each for each in defined if each.variable.name.value in used)]


def _shown(shop: ShopState, changes: Sequence[tuple[Entry, str]], args: Mapping[str, Any]) -> list[View]:
    """The changes that are asked for. They are made when somebody looks: a key keeps its answer for a day."""
    return [_change(shop, entry, name) for entry, name in changes if _wanted(entry, name, args)]


def _change(shop: ShopState, entry: Entry, name: str) -> View:
    """A change; ``quantityAfterChange`` was null in every capture (facts 2.4)."""
    return {
        "name": name,
        "delta": entry.delta,
        "quantityAfterChange": None,
        "ledgerDocumentUri": entry.ledger if name == entry.name else None,
        "item": item_by(shop, entry.item_id),
        "location": location_by(shop, entry.location_id),
    }


def _wanted(entry: Entry, name: str, args: Mapping[str, Any]) -> bool:
    about = (
        ("inventoryItemIds", gid("InventoryItem", entry.item_id)),
        ("locationIds", gid("Location", entry.location_id)),
        ("quantityNames", name),
    )
    return all(args.get(argument) is None or value in args[argument] for argument, value in about)
