"""The command ``skustream reconcile``: the service's comparison, run once from here."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Container, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

import click
import msgspec
from aiokafka.errors import KafkaError
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from agents.beliefs import Beliefs
from agents.comparison import Comparison, small
from agents.hearing import explained_by_none
from app import hearing, kafka_tools, topics
from app.errors import Misconfigured, UnknownShop
from app.exactly_once.partitioner import partition_of
from app.hearing import ServiceHearing
from app.records import Drift, DriftClass, listing_parts
from app.services import limits_of
from app.settings import Settings, unavailable
from app.shops import load_shops
from connectors.shopify.client import ShopClients
from tables import drift

T = TypeVar("T")

ROWS = 200
"""Rows for a reader; ``--json`` has all."""
TOPICS = (
    "skustream.shopify.pushes",
    "skustream.reconcile.drift",
    "shopify.drift",
    "shopify.corrections",
    *hearing.TOPICS,
)
ON_DEMAND = frozenset({DriftClass.UNEXPLAINED})
ON_DEMAND_BY_NAME = ON_DEMAND | {DriftClass.MERCHANT_EDIT}
"""What `apply` corrects: an edit is somebody's will, and only written over when its listing is named. So is
what may be one, where the shop's policy is to import edits.
"""

as_json = click.option("--json", "as_json", is_flag=True, help="Print facts as JSON.")
only_shops = click.option("--shop", "shops", multiple=True, help="Only this shop; repeatable.")


class Report(Struct, frozen=True, kw_only=True):
    """What a comparison of one shop found."""

    shop: str
    shadow: bool = False  # in shadow mode: nothing was compared
    checked: int = 0  # listings and levels
    moving: int = 0  # listings that changed meanwhile, and were not judged
    classes: dict[str, int] = {}
    found: list[Drift] = []
    corrected: list[str] = []  # listings for which a correction was asked


@click.group("reconcile", invoke_without_command=True)
@click.option("--dry-run", is_flag=True, help="Only look: tell nobody, correct nothing.")
@only_shops
@as_json
@click.pass_context
def reconcile(ctx: click.Context, dry_run: bool, shops: tuple[str, ...], as_json: bool) -> None:
    """Compare every listing with its shop, and show each difference with its class.

    What nothing explains is corrected when it is old enough and small enough (SKUSTREAM_RECONCILE_SETTLE_S,
    SKUSTREAM_RECONCILE_MAX_UNITS), by the writer, but not in shops that import hand edits: it may be one, and
    the reconcile service has the writer look. That service need not run, but the age of a difference is what
    it, or a former run, has told. Nothing is corrected while the services have records before them that may
    explain it. Exit 1 when something unexplained remains.
    """
    if ctx.invoked_subcommand is not None:
        return
    settings: Settings = ctx.obj
    reports = _run(settings, compare(settings, shops, dry_run=dry_run))
    if as_json:
        click.echo(msgspec.json.encode(reports))
    else:
        _show(reports)
    sys.exit(any(report.classes.get(DriftClass.UNEXPLAINED) for report in reports))


@reconcile.command("apply")
@only_shops
@click.argument("listings", nargs=-1)
@click.option("--yes", is_flag=True, help="Apply without asking.")
@click.pass_obj
def apply(settings: Settings, shops: tuple[str, ...], listings: tuple[str, ...], yes: bool) -> None:
    """Correct differences that are too large, or too new, to be corrected without being asked.

    LISTINGS are keys as `reconcile` shows them ({shop}/{item}/{location id}); without any, all that is known
    to be unexplained. A merchant's edit, and what may be one in shops whose hand_edits is `import`, is only
    written over when its listing is named. Exit 1 unless all could be asked for: the services must have taken
    all that is there, and a listing must be quiet and read the same twice.
    """
    wanted = _by_shop(listings)
    if wanted and shops:
        raise Misconfigured("name shops or listings, not both")
    asked, left = _run(settings, _apply(settings, wanted, shops, yes=yes))
    for one in asked:
        click.echo(f"{one.key}: correction of {one.units_off:+d} units asked of the writer")
    for listing, why in left.items():
        click.echo(f"{listing}: not corrected: {why}", err=True)
    if not asked and not left:
        click.echo("nothing to correct")
    sys.exit(bool(left))


def _run(settings: Settings, work: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(work)
    except KafkaError as error:
        raise unavailable(settings, error) from None


async def compare(settings: Settings, domains: Sequence[str], *, dry_run: bool) -> list[Report]:
    """Compare shops (all when none is named) once; unless ``dry_run``, tell and correct what may be.

    Raises:
        UnknownShop, TopicMismatch, BrokerUnavailable: before anything is compared.
        Retry, Rejected: a shop did not give all of its levels.
    """
    async with _Shops(settings, domains) as shops:
        await topics.require(settings, TOPICS)
        return [
            Report(shop=domain, shadow=True)
            if shops.clients.shops[domain].shadow
            else await _compare_one(settings, shops.comparison(domain), dry_run=dry_run)
            for domain in shops.domains
        ]


async def _compare_one(settings: Settings, comparison: Comparison, *, dry_run: bool) -> Report:
    known = await kafka_tools.known_drift(settings, comparison.beliefs.shop)
    compared = await comparison.sweep(lambda: known)
    asked: list[Drift] = []
    if not dry_run:
        found = [*compared.gone, *compared.found]
        await kafka_tools.send_drift(settings, [one for one in found if drift.news(known.get(one.key), one)])
        few = small(compared.found, limits_of(settings), comparison.beliefs.listings, comparison.policy)
        few = await explained_by_none(few, ServiceHearing(settings))
        asked = await _correct(settings, comparison, few)
    return Report(
        shop=compared.shop,
        checked=compared.checked,
        moving=compared.moving,
        classes=dict(Counter(str(one.kind) for one in compared.found)),
        found=compared.found,
        corrected=[one.key for one in asked],
    )


async def _apply(
    settings: Settings, wanted: dict[str, list[str]], domains: Sequence[str], *, yes: bool
) -> tuple[list[Drift], dict[str, str]]:
    """What was asked for, and why the rest was not, by listing."""
    asked: list[Drift] = []
    left: dict[str, str] = {}
    async with _Shops(settings, [*wanted, *domains]) as shops:
        await topics.require(settings, TOPICS)
        for domain in shops.domains:
            done, why = await _apply_one(settings, shops.comparison(domain), wanted.get(domain), yes=yes)
            asked += done
            left |= why
    return asked, left


async def _apply_one(
    settings: Settings, comparison: Comparison, named: Sequence[str] | None, *, yes: bool
) -> tuple[list[Drift], dict[str, str]]:
    known = await kafka_tools.known_drift(settings, comparison.beliefs.shop)
    suspects = [listing for listing, one in known.items() if one.kind is DriftClass.UNEXPLAINED]
    listings = suspects if named is None else named
    compared = await comparison.sample(listings, lambda: known)
    found = {one.key: one for one in compared.found}
    allowed = _allowed(comparison, by_name=named is not None)
    chosen = [one for one in compared.found if one.kind in allowed]
    for one in chosen:
        click.echo(_line(one), err=True)
    if chosen and not yes and not await asyncio.to_thread(click.confirm, "correct these?", err=True):
        return [], dict.fromkeys(found, "not confirmed")
    behind = (await ServiceHearing(settings)(comparison.beliefs.shop)).behind if chosen else ""
    done = [] if behind else await _correct(settings, comparison, chosen)
    left = dict.fromkeys(listings)
    for one in done:
        del left[one.key]
    return done, {listing: _why_not(found.get(listing), allowed, behind) for listing in left}


def _allowed(comparison: Comparison, *, by_name: bool) -> frozenset[DriftClass]:
    if by_name:
        return ON_DEMAND_BY_NAME
    return frozenset() if comparison.policy == "import" else ON_DEMAND


def _why_not(found: Drift | None, allowed: Container[DriftClass], behind: str) -> str:
    if found is None:
        return "there is no difference, or it changes right now"
    if found.kind not in allowed:
        by_name = ", only corrected when its listing is named" if found.kind in ON_DEMAND_BY_NAME else ""
        return f"it is {found.kind}{by_name}"
    if behind:
        return f"what explains it may be on its way: {behind}"
    return "it is not quiet: something is going on there, or just was"


async def _correct(settings: Settings, comparison: Comparison, found: Sequence[Drift]) -> list[Drift]:
    correctable = await comparison.correctable(found)
    await kafka_tools.send_corrections(settings, [one.correction for one in correctable])
    await kafka_tools.send_drift(settings, [one.found for one in correctable])
    return [one.found for one in correctable]


class _Shops:
    """The chosen shops of the shops file, and how to compare one."""

    def __init__(self, settings: Settings, domains: Iterable[str]) -> None:
        self._settings = settings
        self.clients = ShopClients(load_shops(settings.shops_file))
        self.domains = list(dict.fromkeys(map(str.lower, domains))) or list(self.clients.shops)
        unknown = [domain for domain in self.domains if domain not in self.clients.shops]
        if unknown:
            raise UnknownShop(
                f"{settings.shops_file} (SKUSTREAM_SHOPS_FILE) has no shop {', '.join(unknown)}; "
                f"there are {', '.join(self.clients.shops) or 'none'}"
            )

    async def __aenter__(self) -> _Shops:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.clients.close()

    def comparison(self, domain: str) -> Comparison:
        partition = partition_of(domain.encode(), self._settings.partitions)
        beliefs = Beliefs(partial(kafka_tools.reader, self._settings), domain, partition)
        return Comparison(self.clients.of(domain), beliefs, limits_of(self._settings))


def _by_shop(listings: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for listing in listings:
        try:
            shop, _, _ = listing_parts(listing)
        except ValueError:
            raise Misconfigured(
                f"not a listing: {listing!r} is not {{shop}}/{{item}}/{{location id}}"
            ) from None
        found.setdefault(shop, []).append(listing)
    return found


def _line(one: Drift) -> str:
    shown = "no level" if one.actual is None else f"shows {one.actual}"
    place = f"{one.key} ({one.sku}@{one.location})"
    return f"{place}: {shown}, wanted {one.wanted}, {one.kind} {one.detail}".rstrip()


def _show(reports: Sequence[Report]) -> None:
    console = Console()
    for report in reports:
        if report.shadow:
            console.print(f"{report.shop}: in shadow mode, not compared")
            continue
        classes = ", ".join(f"{count} {kind}" for kind, count in sorted(report.classes.items()))
        moving = f", {report.moving} changed meanwhile" if report.moving else ""
        console.print(f"{report.shop}: {report.checked} compared{moving}; {classes or 'no differences'}")
        if report.found:
            console.print(_table(report))
        if len(report.found) > ROWS:
            console.print(f"and {len(report.found) - ROWS} more; --json has all")


def _table(report: Report) -> Table:
    table = Table("class", "listing", "key", "wanted", "believed", "actual", "off", "age", "detail")
    order = {str(kind): number for number, kind in enumerate(reversed(drift.CLASSES))}
    for one in sorted(report.found, key=lambda one: (order[str(one.kind)], -abs(one.units_off)))[:ROWS]:
        detail = "correction asked" if one.key in report.corrected else one.detail
        numbers = ["" if number is None else str(number) for number in (one.wanted, one.believed, one.actual)]
        key = f"{one.sku}@{one.location}" if one.sku else ""
        off = f"{one.units_off:+d}" if one.units_off else ""
        table.add_row(str(one.kind), one.key, key, *numbers, off, f"{one.age_s:.0f} s", detail)
    return table
