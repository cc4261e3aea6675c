"""The commands about shops: ``skustream shop …`` and ``skustream orders …``."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click
import msgspec

from app.errors import UnknownShop
from app.kafka_tools import send_orders
from app.settings import Settings
from app.shops import Shop, load_shops
from connectors.shopify.changed_orders import changed_orders, envelope_of
from connectors.shopify.client import ShopClient

as_json = click.option("--json", "as_json", is_flag=True, help="Print facts as JSON.")


@click.group("shop")
def shop() -> None:
    """The shops of the shops file (SKUSTREAM_SHOPS_FILE)."""


@shop.command("list")
@as_json
@click.pass_obj
def shop_list(settings: Settings, as_json: bool) -> None:
    """List the shops with what may be done there; asks no shop, shows no secret."""
    facts = [_facts(one) for one in load_shops(settings.shops_file).values()]
    if as_json:
        click.echo(msgspec.json.encode(facts))
        return
    for one in facts:
        mapped = ", ".join(f"{number} {code}" for number, code in one["locations"].items()) or "none mapped"
        shadow = " SHADOW" if one["shadow"] else ""
        places = f", shadow at {one['shadow_locations']}" if one["shadow_locations"] else ""
        click.echo(f"{one['domain']}{shadow}: {one['access']}, hand edits: {one['hand_edits']}")
        click.echo(f"  default location {one['default_location_id']}; locations: {mapped}{places}")


@click.group("orders")
def orders() -> None:
    """The orders of the shops."""


@orders.command("catch-up")
@click.option(
    "--since",
    required=True,
    type=click.DateTime(["%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d"]),
    help="Orders changed at or after this instant; UTC unless it names an offset.",
)
@click.option("--shop", "domains", multiple=True, help="Of this shop; may be given again. All by default.")
@as_json
@click.pass_obj
def orders_catch_up(settings: Settings, since: datetime, domains: tuple[str, ...], as_json: bool) -> None:
    """Make the orders service look at every order that changed since an instant, after webhooks were lost.

    It reads those of which it has not heard as much; running this twice changes nothing.
    """
    shops = chosen(settings, domains)
    since = since if since.tzinfo else since.replace(tzinfo=UTC)
    told = asyncio.run(_catch_up(settings, shops, since))
    if as_json:
        click.echo(msgspec.json.encode(told))
        return
    for domain, count in told.items():
        click.echo(f"{domain}: {count} orders changed since {since.isoformat()}")


def chosen(settings: Settings, domains: Sequence[str]) -> list[Shop]:
    """The named shops of the shops file; all of them when none is named.

    Raises:
        UnknownShop: naming the one that is not there.
    """
    shops = load_shops(settings.shops_file)
    unknown = [domain for domain in domains if domain.lower() not in shops]
    if unknown:
        known = ", ".join(sorted(shops)) or "none"
        raise UnknownShop(f"{settings.shops_file} has no shop {', '.join(unknown)}; there are {known}")
    return [shops[domain.lower()] for domain in domains] or list(shops.values())


async def _catch_up(settings: Settings, shops: Sequence[Shop], since: datetime) -> dict[str, int]:
    told: dict[str, int] = {}
    for one in shops:
        client = ShopClient(one)
        try:
            found = {order.id: order async for page in changed_orders(client, since) for order in page}
        finally:
            await client.close()
        now = datetime.now(UTC)
        await send_orders(settings, (envelope_of(one.domain, order, now) for order in found.values()))
        told[one.domain] = len(found)
    return told


def _facts(one: Shop) -> dict[str, Any]:
    return {
        "domain": one.domain,
        "api_url": one.api_url,
        "access": "client credentials" if one.client_id else "access token",
        "default_location_id": one.default_location_id,
        "locations": one.locations,
        "hand_edits": one.hand_edits,
        "shadow": one.shadow,
        "shadow_locations": sorted(one.shadow_locations),
    }
