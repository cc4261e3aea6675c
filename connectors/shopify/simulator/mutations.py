"""The three inventory mutations: idempotency, the rules, and what they change."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from graphql import GraphQLResolveInfo, print_ast
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
    level_view,
    location_by,
    number_of,
    too_many,
    utc_time,
)
from connectors.shopify.simulator.world import ShopState, World

APP_ID = 580111

Check = Callable[[ShopState, Mapping[str, Any]], tuple[list[Entry], list[UserError]]]


class Running(Struct, kw_only=True, eq=False):
    """One request while it is executed."""

    variables: Mapping[str, Any]  # as they came, in their order: they are part of the fingerprint
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
            "inventoryActivate": self._activate,
        }

    def _quantities(
        self, info: GraphQLResolveInfo[Any], given: Mapping[str, Any], field: str, row_type: str, check: Check
    ) -> View:
        key = directive_key(info)
        rows = given[field]
        if any("changeFromQuantity" not in row for row in rows):
            raise invalid(f"{row_type} must include the following argument: changeFromQuantity.")
        if len(rows) > MAX_IDS:
            raise too_many(len(rows))

        def execute() -> View:
            entries, errors = check(self._shop, given)
            if errors:
                return {"inventoryAdjustmentGroup": None, "userErrors": errors}
            group = self._apply(key, info.field_name, given, entries)
            return {"inventoryAdjustmentGroup": group, "userErrors": []}

        return self._once(info, key, "inventoryAdjustmentGroup", execute)

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
            changes += [self._change(entry, name) for name in names]
        if not changes:
            return None
        return {
            "__typename": "InventoryAdjustmentGroup",
            "id": gid("InventoryAdjustmentGroup", world.new_id()),
            "createdAt": utc_time(world.clock()),
            "reason": given["reason"],
            "referenceDocumentUri": given.get("referenceDocumentUri"),
            "app": {"__typename": "App", "id": gid("App", APP_ID), "title": "skustream"},
            "changes": lambda info, **args: [each for each in changes if _shown(each, args)],
        }

    def _change(self, entry: Entry, name: str) -> View:
        """A change; ``quantityAfterChange`` was null in every capture (facts 2.4)."""
        return {
            "name": name,
            "delta": entry.delta,
            "quantityAfterChange": None,
            "ledgerDocumentUri": entry.ledger if name == entry.name else None,
            "item": item_by(self._shop, entry.item_id),
            "location": location_by(self._shop, entry.location_id),
        }

    def _activate(self, info: GraphQLResolveInfo[Any], **args: Any) -> View:
        key = directive_key(info)
        return self._once(info, key, "inventoryLevel", lambda: self._activated(key, args))

    def _activated(self, key: str, args: Mapping[str, Any]) -> View:
        world, shop = self._world, self._shop
        item_id = number_of("InventoryItem", args["inventoryItemId"])
        location_id = number_of("Location", args["locationId"])
        if item_id not in shop.items or item_id is None:
            return _not_activated("inventoryItemId", "The specified inventory item could not be found.")
        if location_id not in shop.locations or location_id is None:
            return _not_activated("locationId", "The specified location could not be found.")
        quantities = {name: args[name] for name in ("available", "onHand") if args.get(name) is not None}
        if len(quantities) > 1:
            return _not_activated("available", "Not allowed to set both available and on hand quantities.")
        level = shop.levels.get((item_id, location_id))
        if level is not None and level.active:
            if quantities:
                (field,) = quantities
                word = "available" if field == "available" else "on hand"
                return _not_activated(
                    field,
                    f"Not allowed to set {word} quantity when the item is already active at the location.",
                )
            return {"inventoryLevel": level_view(shop, level), "userErrors": []}
        level = world.set_active(shop, item_id, location_id, active=True)
        event = world.new_uuid()
        self._running.webhooks.append(
            world.level_webhook(level, shop, event, topic="inventory_levels/connect")
        )
        for field, quantity in quantities.items():
            delta = quantity - (level.available if field == "available" else level.on_hand)
            level = world.move(
                shop, item_id, location_id, LogKind.PUSHED,
                deltas={"available": delta}, name="available", key=key, detail="inventoryActivate",
            )  # fmt: skip
        return {"inventoryLevel": level_view(shop, level), "userErrors": []}

    def _once(
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


def _shown(change: View, args: Mapping[str, Any]) -> bool:
    wanted = (
        ("inventoryItemIds", change["item"]["id"]),
        ("locationIds", change["location"]["id"]),
        ("quantityNames", change["name"]),
    )
    return all(args.get(argument) is None or value in args[argument] for argument, value in wanted)


def _not_activated(field: str, message: str) -> View:
    # UserError, which this mutation answers with, has no code.
    return {"inventoryLevel": None, "userErrors": [{"field": [field], "message": message}]}
