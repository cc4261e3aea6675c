"""What a merchant does to the simulated shop's items, and what its webhooks tell."""

from __future__ import annotations

from random import Random

import msgspec
import pytest

from connectors.shopify.simulator import items, shopper
from connectors.shopify.simulator.model import NotPossible, ShopConfig
from connectors.shopify.simulator.shopper import Wanted
from connectors.shopify.simulator.world import World

SHOP, MAIN, TEE, CAP = "sim.myshopify.com", 71, 5001, 5002


@pytest.fixture
def world() -> World:
    made = World(clock=lambda: 1_000_000.0, monotonic=lambda: 0.0, random=Random(1))
    made.add_shop(
        ShopConfig(
            domain=SHOP,
            access_token="example-token",
            webhook_secret="example-secret",
            webhook_url="http://127.0.0.1:9/none",
            default_location_id=MAIN,
        )
    )
    made.add_item(SHOP, "TEE", item_id=TEE, available={MAIN: 10})
    made.add_item(SHOP, "CAP", item_id=CAP, available={MAIN: 5})
    return made


def test_a_new_item_tells_of_itself_and_of_its_levels(world: World) -> None:
    hooks = items.tell_new(world, SHOP, TEE)
    assert [hook.topic for hook in hooks] == ["inventory_items/create", "inventory_levels/connect"]
    assert len({hook.event_id for hook in hooks}) == 1


def test_another_sku_is_found_and_the_old_one_is_not(world: World) -> None:
    [hook] = items.change_item(world, SHOP, TEE, sku="SHIRT", tracked=False)
    body = msgspec.json.decode(hook.body)
    assert (hook.topic, body["sku"], body["tracked"]) == ("inventory_items/update", "SHIRT", False)
    assert world.shop(SHOP).find(sku="SHIRT").id == TEE
    with pytest.raises(NotPossible, match="SKU TEE"):
        world.shop(SHOP).find(sku="TEE")


def test_a_deleted_item_is_gone_with_its_levels_unless_it_was_sold(world: World) -> None:
    product = world.shop(SHOP).items[CAP].product_id
    hooks = items.delete_item(world, SHOP, CAP)
    assert {hook.topic: msgspec.json.decode(hook.body)["id"] for hook in hooks} == {
        "inventory_items/delete": CAP, "products/delete": product,
    }  # fmt: skip
    assert {item for item, _ in world.shop(SHOP).levels} == {TEE}
    shopper.sell(world, SHOP, [Wanted(item=TEE, quantity=1)])
    with pytest.raises(NotPossible, match="item 5001 is in an order"):
        items.delete_item(world, SHOP, TEE)
