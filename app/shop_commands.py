"""The commands about shops: ``skustream shop …`` and ``skustream orders …``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from app.errors import Misconfigured, UnknownShop
from app.kafka_tools import send_controls, send_orders
from app.records import Control
from app.redact import look, redact, require_gone
from app.settings import Settings
from app.shadow import shadow_report
from app.shop_check import Finding, check_shop
from app.shops import Shop, load_shops, read_entries, shop_of
from app.shops_file import merged, put_entry
from connectors.shopify.changed_orders import changed_orders, envelope_of
from connectors.shopify.client import ShopClient
from connectors.shopify.shop_facts import ShopLocation, locations_of
from connectors.shopify.subscriptions import Difference, NotSubscribed, differences, mend, uri_of

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


@shop.command("redact")
@click.argument("domain")
@click.option("--yes", is_flag=True, help="Do it without asking.")
@as_json
@click.pass_obj
def shop_redact(settings: Settings, domain: str, yes: bool, as_json: bool) -> None:
    """Forget a shop that is gone: its listings, targets, orders and whatever else tables hold of it.

    The shop must be out of the shops file, and the services restarted since. What has a retention goes by
    itself, and the ledger stays: docs/privacy.md. Exit 1 while anything is left.
    """
    require_gone(load_shops(settings.shops_file), domain)
    held = asyncio.run(look(settings, domain)).counts
    if held and not as_json:
        for topic, number in held.items():
            click.echo(f"{topic}: {number}")
    if held and not yes:
        click.confirm(f"forget all of {domain}?", abort=True, err=True)
    left = asyncio.run(redact(settings, domain)).counts if held else {}
    if as_json:
        click.echo(msgspec.json.encode({"shop": domain, "held": held, "left": left}))
    elif left:
        told = ", ".join(f"{topic} {number}" for topic, number in left.items())
        click.echo(f"left: {told}; do all services run? Run it again to go on", err=True)
    else:
        click.echo(f"nothing is held of {domain}")
    sys.exit(bool(left))


@shop.command("check")
@click.argument("domain", required=False)
@click.option(
    "--webhook-url", help="Where webhooks should go; SKUSTREAM_PUBLIC_URL and the receiver's path by default."
)
@click.option("--fix", is_flag=True, help="Make and mend webhook subscriptions, then check again.")
@as_json
@click.pass_obj
def shop_check(
    settings: Settings, domain: str | None, webhook_url: str | None, fix: bool, as_json: bool
) -> None:
    """Check one shop, or all: access, scopes, API version, clock, budget, locations, webhooks.

    Exit 1 when anything is broken; each broken thing is named.
    """
    shops = chosen(settings, [domain] if domain else [])
    uri = webhook_url or _uri(settings)
    if fix and uri is None:
        raise Misconfigured("--fix needs --webhook-url, or the setting SKUSTREAM_PUBLIC_URL")
    found = asyncio.run(_check_all(shops, uri, fix))
    if as_json:
        click.echo(msgspec.json.encode([{"shop": name, "findings": told} for name, told in found.items()]))
    else:
        for name, told in found.items():
            click.echo(name)
            _show(told)
    sys.exit(not all(one.ok for told in found.values() for one in told))


@shop.command("add")
@click.argument("domain")
@click.option("--token-env", "access_token_env", help="Variable with the Admin API token.")
@click.option("--token-file", "access_token_file", help="File with the Admin API token.")
@click.option("--client-id", help="The app's client id; it is no secret.")
@click.option("--client-secret-env", help="Variable with the app's client secret.")
@click.option("--client-secret-file", help="File with the app's client secret.")
@click.option("--webhook-secret-env", help="Variable with the secret that signs webhooks.")
@click.option(
    "--webhook-secret-file",
    help="File with the secret that signs webhooks; an app's client secret by default.",
)
@click.option("--default-location-id", type=int, help="Where web orders are taken to be allocated.")
@click.option(
    "--location",
    "locations",
    multiple=True,
    metavar="ID=CODE",
    help="Our location code for a Shopify location id; may be given again.",
)
@click.option("--hand-edits", type=click.Choice(["import", "overrule", "report"]))
@click.option("--shadow/--no-shadow", default=None, help="Everything happens but the writing calls.")
@click.option("--api-url", help="Another base URL than https://DOMAIN, for a simulated shop.")
@click.option("--no-check", is_flag=True, help="Write without asking the shop first.")
@click.pass_obj
def shop_add(
    settings: Settings, /, domain: str, locations: tuple[str, ...], no_check: bool, **given: Any
) -> None:
    """Add a shop to the shops file, or change its entry; what is not named stays as it is.

    Secrets are written as the variable or file that holds them, never themselves. The shop is asked first,
    and nothing is written when anything but its webhook subscriptions is broken: those are made by the
    service `reconcile` and by `shop check --fix`.
    """
    domain, path = domain.lower(), settings.shops_file
    changes = {name: value for name, value in given.items() if value is not None}
    if locations:
        changes["locations"] = dict(_location(one) for one in locations)
    known = read_entries(path).get(domain, {}) if path.exists() else {}
    entry = merged(known, changes)
    if "default_location_id" not in entry:
        entry["default_location_id"] = _only_location(path, domain, entry, no_check)
    one = shop_of(f"{path}: shop {domain}", domain, entry)
    if not no_check:
        _require_sound(one, _uri(settings))
    put_entry(path, domain, entry)
    click.echo(f"{domain} is {'changed' if known else 'added'} in {path}")


@shop.command("resume")
@click.argument("domain")
@click.pass_obj
def shop_resume(settings: Settings, domain: str) -> None:
    """Have the writer try a paused shop at once, instead of at its next probe.

    A shop is paused when it does not let us in (401, 402, 403, 404, 423), when it refuses whole calls, and
    when our app was removed. Its work is kept, and goes on when a call works.
    """
    [one] = chosen(settings, [domain])
    control = Control(shop=one.domain, action="resume", requested_at=datetime.now(UTC))
    asyncio.run(send_controls(settings, [control]))
    click.echo(f"{one.domain} is tried again")


@shop.command("shadow-report")
@click.argument("domain")
@as_json
@click.pass_obj
def shop_shadow_report(settings: Settings, domain: str, as_json: bool) -> None:
    """Compare what a shop in shadow mode should show with what it shows. Exit 1 when a listing differs."""
    [one] = chosen(settings, [domain])
    if not one.shadow and not one.shadow_locations:
        raise Misconfigured(
            f"{settings.shops_file}: shop {one.domain}: neither shadow nor shadow_locations is set"
        )
    rows = asyncio.run(shadow_report(settings, one))
    differing = [row for row in rows if not row.agrees]
    if as_json:
        click.echo(msgspec.json.encode(rows))
    else:
        for row in differing:
            shows = "no such item" if row.shows is None else f"shows {row.shows}"
            told = f"{shows}, wanted {row.wanted}, would add {row.would_add:+}"
            click.echo(f"{row.sku}@{row.location} {row.listing}: {told}")
        click.echo(f"{len(rows)} listings in shadow mode, {len(differing)} differ")
    sys.exit(bool(differing))


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


def _location(text: str) -> tuple[int, str]:
    number, separator, code = text.partition("=")
    if not separator or not number.isdigit():
        raise Misconfigured(
            f"--location {text}: expected a Shopify location id and our code, as 655441491=main"
        )
    return int(number), code


def _only_location(path: Path, domain: str, entry: Mapping[str, Any], no_check: bool) -> int:
    """The shop's only active location, when nobody says which one web orders are allocated to."""
    if no_check:
        raise Misconfigured("--no-check needs --default-location-id")
    probe = shop_of(f"{path}: shop {domain}", domain, {**entry, "default_location_id": 1})
    active = asyncio.run(_active_locations(probe))
    if len(active) != 1:
        names = ", ".join(f"{one.id} {one.name!r}" for one in active) or "none"
        raise Misconfigured(f"{domain}: give --default-location-id; its active locations are {names}")
    return active[0].id


async def _active_locations(one: Shop) -> list[ShopLocation]:
    client = ShopClient(one)
    try:
        return [place for place in await locations_of(client) if place.active]
    finally:
        await client.close()


def _uri(settings: Settings) -> str | None:
    return uri_of(settings.public_url) if settings.public_url else None


def _require_sound(one: Shop, uri: str | None) -> None:
    told, _ = asyncio.run(check_shop(one, uri))
    _show(told)
    broken = [finding.check for finding in told if not finding.ok and finding.check != "webhooks"]
    if broken:
        raise Misconfigured(
            f"{one.domain} is not written because of its {', '.join(dict.fromkeys(broken))}; "
            "--no-check writes it anyway"
        )


def _show(told: Iterable[Finding]) -> None:
    for one in told:
        click.echo(f"  {'ok' if one.ok else 'BROKEN':7} {one.check:10} {one.told}")


async def _check_all(shops: Sequence[Shop], uri: str | None, fix: bool) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    for one in shops:
        told, facts = await check_shop(one, uri)
        if fix and uri is not None and facts is not None and not isinstance(facts.subscriptions, str):
            refused = await _mend(one, differences(facts.subscriptions, uri), uri)
            told = [*(await check_shop(one, uri))[0], *refused]
        found[one.domain] = told
    return found


async def _mend(one: Shop, faults: Iterable[Difference], uri: str) -> list[Finding]:
    """Mend subscriptions; what the shop refused."""
    refused = []
    client = ShopClient(one)
    try:
        for fault in faults:
            try:
                await mend(client, fault, uri)
            except NotSubscribed as error:
                refused.append(Finding(check="webhooks", ok=False, told=str(error)))
    finally:
        await client.close()
    return refused


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
