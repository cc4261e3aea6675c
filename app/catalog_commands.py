"""The commands about catalogs: ``skustream catalog …``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable

import click
import msgspec

from app import kafka_tools
from app import opening as opening_of
from app.catalog import Synced, sync
from app.errors import UnknownShop
from app.opening import Opening
from app.records import ListingChange
from app.settings import Settings
from app.shop_commands import as_json, chosen
from tables.opening import Action, KeyPlan

LISTED = 40
"""Rows of one kind that are shown; all of them are in the JSON."""

of_shop = click.option(
    "--shop", "domains", multiple=True, help="Of this shop; may be given again. All by default."
)


@click.group("catalog")
def catalog() -> None:
    """What the shops list, and where its stock is kept."""


@catalog.command("sync")
@of_shop
@click.option("--apply", "applying", is_flag=True, help="Send the changes; without it nothing is changed.")
@click.option("--move", is_flag=True, help="Also move what was listed by hand to where its SKU says.")
@as_json
@click.pass_obj
def catalog_sync(
    settings: Settings, domains: tuple[str, ...], applying: bool, move: bool, as_json: bool
) -> None:
    """Lay the shops' catalogs beside stock.listings, and show or send the changes.

    An item is listed under its SKU and the code that the shops file gives to the location; channel rules stay
    as they are. Duplicate and missing SKUs, untracked items, inactive levels and locations without a code are
    shown and left to you. A new listing of a key that has stock already would be written to the shop at once:
    it waits for `catalog open --publish`. The service reconcile must run for --apply to take effect.
    """
    found = asyncio.run(_sync(settings, domains, applying=applying, move=move))
    if as_json:
        click.echo(msgspec.json.encode(found))
        return
    for one in found:
        _show(one)
    ready = sum(len(one.changes) for one in found)
    click.echo(f"{ready} changes {'sent' if applying else 'to send with --apply'}")


@catalog.command("open")
@click.option("--adopt", "way", flag_value="adopt", help="Begin with what the shops have.")
@click.option("--publish", "way", flag_value="publish", help="Write what we have to new listings.")
@of_shop
@click.option("--from", "source", default="", help="--adopt: the shop whose stock counts, of several.")
@click.option("--apply", "applying", is_flag=True, help="Do it; without it only the preview is shown.")
@as_json
@click.pass_obj
def catalog_open(
    settings: Settings, way: str | None, domains: tuple[str, ...], source: str, applying: bool, as_json: bool
) -> None:
    """Open stock keys: show what each key begins with and what each listing will show, or do it.

    Before a key is opened nothing is written to its listings. --adopt takes the shops' own levels as counts,
    read twice a few seconds apart, with the open orders as commitments, for keys in stock.listings that have
    no stock yet. --publish lists what `catalog sync` held back, because its keys have stock already. The
    services orders, stock and reconcile must run for --apply. Exit 1 when shops disagree about a key.
    """
    if way is None:
        raise click.UsageError("name --adopt or --publish")
    if source and way != "adopt":
        raise click.UsageError("--from belongs to --adopt")
    opening = asyncio.run(_open(settings, way, domains, source.lower(), applying=applying))
    conflicts = opening.plan.counts.get(Action.CONFLICT, 0)
    if as_json:
        click.echo(msgspec.json.encode(opening.plan))
    else:
        _show_plan(opening)
        done = "applied" if applying else "this is a preview: --apply does it"
        click.echo("nothing is applied: shops disagree" if conflicts else done)
    sys.exit(bool(conflicts))


async def _open(
    settings: Settings, way: str, domains: tuple[str, ...], source: str, *, applying: bool
) -> Opening:
    shops = chosen(settings, domains)
    names = [shop.domain for shop in shops]
    if source and source not in names:
        raise UnknownShop(f"--from {source}: it is none of the shops to open, {', '.join(names)}")
    if way == "publish":
        opening = await opening_of.publish(settings, shops)
    else:
        opening = await opening_of.adopt(settings, shops, source=source)
    if applying and not opening.plan.counts.get(Action.CONFLICT):
        await opening_of.carry_out(settings, opening)
    return opening


def _show_plan(opening: Opening) -> None:
    plan = opening.plan
    for action in plan.counts:
        # What is open already is most of it, and nothing is done about it.
        keys = [one for one in plan.keys if one.action == action and action != Action.OPEN]
        for one in keys[:LISTED]:
            click.echo(f"  {action:9} " + "  ".join(filter(None, [one.key, _begins(one), one.detail])))
        if len(keys) > LISTED:
            click.echo(f"  {action:9} and {len(keys) - LISTED} more (--json shows them)")
    changing = [one for one in plan.listings if one.shows != one.will_show]
    for listing in changing[:LISTED]:
        now = "something" if listing.shows is None else listing.shows
        click.echo(f"  {listing.key}: {listing.listing} shows {now}, will show {listing.will_show}")
    if len(changing) > LISTED:
        click.echo(f"  and {len(changing) - LISTED} more listings that change (--json shows them)")
    counts = ", ".join(f"{count} {action}" for action, count in plan.counts.items()) or "none"
    orders = sum(len(found) for found in opening.orders.values())
    click.echo(f"keys: {counts}; listings that change: {len(changing)}; open orders: {orders}")


def _begins(plan: KeyPlan) -> str:
    if plan.action is Action.ADOPT:
        held = f", {plan.held} held by open orders" if plan.held else ""
        return f"on hand {plan.counted} from {plan.listing}{held}, available {plan.available}"
    return f"available {plan.available}" if plan.action is Action.PUBLISH else ""


async def _sync(settings: Settings, domains: tuple[str, ...], *, applying: bool, move: bool) -> list[Synced]:
    shops = chosen(settings, domains)
    levels = await kafka_tools.levels(settings)
    opened = {key for key, record in levels.items() if record.opened_at is not None}
    found = await sync(settings, shops, opened, move=move)
    if applying:
        await kafka_tools.send_listing_changes(settings, (step for one in found for step in one.changes))
    return found


def _show(synced: Synced) -> None:
    comparison = synced.comparison
    click.echo(
        f"{comparison.shop}: {comparison.items} items, {comparison.unchanged} listings as they should be"
    )
    for finding, count in comparison.counts.items():
        rows = [row for row in comparison.rows if row.finding == finding]
        for row in rows[:LISTED]:
            about = row.listing.key if row.listing is not None else ""
            click.echo(f"  {finding:17} " + "  ".join(filter(None, [row.key, about, row.detail])))
        if count > LISTED:
            click.echo(f"  {finding:17} and {count - LISTED} more (--json shows them)")
    _show_held(synced.held)


def _show_held(held: Iterable[ListingChange]) -> None:
    keys = sorted({change.key for change in held})
    if keys:
        more = f" and {len(keys) - LISTED} more" if len(keys) > LISTED else ""
        click.echo(
            f"  these have stock and wait for 'catalog open --publish': {', '.join(keys[:LISTED])}{more}"
        )
