"""The mutations that stock items at locations: activate, deactivate, and many at once (facts 2.5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphql import GraphQLResolveInfo

from connectors.shopify.simulator.model import LogKind
from connectors.shopify.simulator.mutations import Mutations, Running, directive_key
from connectors.shopify.simulator.rules import user_error
from connectors.shopify.simulator.views import MAX_IDS, View, item_view, level_view, number_of, too_many
from connectors.shopify.simulator.world import ShopState, World

NO_ITEM = "The specified inventory item could not be found."
NO_LOCATION = "The specified location could not be found."
ONLY_LOCATION = "The item cannot be deactivated at the only location where it is stocked."
"""The last one is not captured; the words are ours."""


class Activation:
    """The fields of Mutation, for one request at one shop."""

    def __init__(self, world: World, shop: ShopState, once: Mutations, running: Running) -> None:
        self._world = world
        self._shop = shop
        self._once = once
        self._running = running

    def root(self) -> View:
        """The fields, as resolvers; only the first one is idempotent by a key (facts 2.3)."""
        return {
            "inventoryActivate": self._activate,
            "inventoryDeactivate": self._deactivate,
            "inventoryBulkToggleActivation": self._toggle,
        }

    def _activate(self, info: GraphQLResolveInfo[Any], **args: Any) -> View:
        key = directive_key(info)
        return self._once.once(info, key, "inventoryLevel", lambda: self._activated(key, args))

    def _activated(self, key: str, args: Mapping[str, Any]) -> View:
        shop = self._shop
        item_id = number_of("InventoryItem", args["inventoryItemId"])
        location_id = number_of("Location", args["locationId"])
        if item_id not in shop.items or item_id is None:
            return _not_activated("inventoryItemId", NO_ITEM)
        if location_id not in shop.locations or location_id is None:
            return _not_activated("locationId", NO_LOCATION)
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
        self._set_active(item_id, location_id, True)
        for field, quantity in quantities.items():
            self._give(key, item_id, location_id, field, quantity)
        return {"inventoryLevel": level_view(shop, shop.levels[item_id, location_id]), "userErrors": []}

    def _give(self, key: str, item_id: int, location_id: int, field: str, quantity: int) -> None:
        level = self._shop.levels[item_id, location_id]
        delta = quantity - (level.available if field == "available" else level.on_hand)
        self._world.move(
            self._shop, item_id, location_id, LogKind.PUSHED,
            deltas={"available": delta}, name="available", key=key, detail="inventoryActivate",
        )  # fmt: skip

    def _deactivate(self, info: object, inventoryLevelId: str) -> View:  # noqa: N803  # the schema's name
        key = self._shop.level_of_id.get(number_of("InventoryLevel", inventoryLevelId) or 0)
        if key is None or not self._shop.levels[key].active:
            told = "The inventory level could not be found."
            return {"userErrors": [{"field": ["inventoryLevelId"], "message": told}]}
        if self._active_places(key[0]) == {key[1]}:
            return {"userErrors": [{"field": ["inventoryLevelId"], "message": ONLY_LOCATION}]}
        self._set_active(*key, active=False)
        return {"userErrors": []}

    # The names of the arguments are those of the schema.
    def _toggle(
        self,
        info: object,
        inventoryItemId: str,  # noqa: N803
        inventoryItemUpdates: Sequence[Mapping[str, Any]],  # noqa: N803
    ) -> View:
        """All of them or none."""
        if len(inventoryItemUpdates) > MAX_IDS:
            raise too_many(len(inventoryItemUpdates))
        item_id = number_of("InventoryItem", inventoryItemId) or 0
        if item_id not in self._shop.items:
            return _not_toggled([user_error(("inventoryItemId",), NO_ITEM, "INVENTORY_ITEM_NOT_FOUND")])
        wanted = {
            number_of("Location", each["locationId"]) or 0: each["activate"] for each in inventoryItemUpdates
        }
        errors = [
            user_error(("inventoryItemUpdates", str(index), "locationId"), NO_LOCATION, "LOCATION_NOT_FOUND")
            for index, place in enumerate(wanted)
            if place not in self._shop.locations
        ]
        before = self._active_places(item_id)
        after = (before | {place for place, on in wanted.items() if on}) - {
            place for place, on in wanted.items() if not on
        }
        if before and not after:
            code = "CANNOT_DEACTIVATE_FROM_ONLY_LOCATION"
            errors.append(user_error(("inventoryItemUpdates",), ONLY_LOCATION, code))
        if errors:
            return _not_toggled(errors)
        for place in sorted(before ^ after):
            self._set_active(item_id, place, place in after)
        levels = [
            self._shop.levels[item_id, place] for place in wanted if (item_id, place) in self._shop.levels
        ]
        return {
            "inventoryItem": item_view(self._shop, self._shop.items[item_id]),
            "inventoryLevels": [level_view(self._shop, level) for level in levels],
            "userErrors": [],
        }

    def _active_places(self, item_id: int) -> set[int]:
        return {level.location_id for level in self._shop.levels_of(item_id) if level.active}

    def _set_active(self, item_id: int, location_id: int, active: bool) -> None:
        level = self._world.set_active(self._shop, item_id, location_id, active)
        topic = "inventory_levels/connect" if active else "inventory_levels/disconnect"
        event = self._world.new_uuid()
        self._running.webhooks.append(self._world.level_webhook(level, self._shop, event, topic=topic))


def _not_activated(field: str, message: str) -> View:
    # UserError, which this mutation answers with, has no code.
    return {"inventoryLevel": None, "userErrors": [{"field": [field], "message": message}]}


def _not_toggled(errors: list[View]) -> View:
    return {"inventoryItem": None, "inventoryLevels": None, "userErrors": errors}
