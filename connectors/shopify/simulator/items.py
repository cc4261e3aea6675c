"""What a merchant does to items: new ones, other SKUs, counted or not, deleted; with their webhooks."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from connectors.shopify.simulator.bodies import shop_time
from connectors.shopify.simulator.model import Item, NotPossible, Webhook, gid
from connectors.shopify.simulator.world import ShopState, World


def tell_new(world: World, domain: str, item_id: int) -> list[Webhook]:
    """The webhooks of an item that was added: it and each of its levels."""
    shop = world.shop(domain)
    item, event_id = shop.find(item=item_id), world.new_uuid()
    hooks = [_told(world, shop, item, "inventory_items/create", event_id)]
    for location_id in shop.locations_of_item.get(item_id, ()):
        level = shop.levels[item_id, location_id]
        hooks.append(world.level_webhook(level, shop, event_id, "inventory_levels/connect"))
    return hooks


def change_item(
    world: World, domain: str, item_id: int, *, sku: str | None = None, tracked: bool | None = None
) -> list[Webhook]:
    """Give an item another SKU, or have the shop count it or not."""
    shop = world.shop(domain)
    old = shop.find(item=item_id)
    item = replace(
        old, sku=old.sku if sku is None else sku, tracked=old.tracked if tracked is None else tracked
    )
    shop.items[item_id] = item
    shop.items_of_sku[old.sku].remove(item_id)
    shop.items_of_sku.setdefault(item.sku, []).append(item_id)
    return [_told(world, shop, item, "inventory_items/update", world.new_uuid())]


def delete_item(world: World, domain: str, item_id: int) -> list[Webhook]:
    """Delete an item with its levels, and so the product whose only variant has it.

    Raises:
        NotPossible: when an order has it; how such an order looks afterwards is not simulated.
    """
    shop = world.shop(domain)
    item = shop.find(item=item_id)
    if any(line.item.id == item_id for order in shop.orders.values() for line in order.lines):
        raise NotPossible(f"{domain}: item {item_id} is in an order")
    del shop.items[item_id], shop.item_of_variant[item.variant_id]
    shop.items_of_sku[item.sku].remove(item_id)
    for location_id in shop.locations_of_item.pop(item_id, ()):
        del shop.level_of_id[shop.levels.pop((item_id, location_id)).id]
    event_id = world.new_uuid()
    bodies = {
        "inventory_items/delete": {"id": item_id, "admin_graphql_api_id": gid("InventoryItem", item_id)},
        "products/delete": {"id": item.product_id},
    }
    return [world.webhook(shop, topic, event_id, msgspec.json.encode(body)) for topic, body in bodies.items()]


def _told(world: World, shop: ShopState, item: Item, topic: str, event_id: str) -> Webhook:
    body: dict[str, Any] = {
        "id": item.id,
        "sku": item.sku or None,
        "created_at": shop_time(shop.config, item.created_at),
        "updated_at": shop_time(shop.config, world.clock()),
        "requires_shipping": True,
        "cost": None,
        "tracked": item.tracked,
        "admin_graphql_api_id": gid("InventoryItem", item.id),
    }
    return world.webhook(shop, topic, event_id, msgspec.json.encode(body))
