"""The command ``skustream``."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import click
import msgspec
from msgspec import ValidationError

from app import kafka_tools, topics
from app.catalog_commands import catalog
from app.dev.commands import chaos, demo, dev
from app.errors import Misconfigured, SkustreamError
from app.exactly_once.set_positions import Start, set_positions, show_positions
from app.explain import explain as explain_key
from app.explain import plain_console
from app.explain import show as show_explanation
from app.logs import configure_logs
from app.reconcile import reconcile
from app.records import Movement, MovementKind, Policy, State
from app.services import SERVICES, WORKERS
from app.services import run as run_service
from app.settings import Settings, load_settings
from app.shop_commands import orders, shop
from app.shops import load_shops
from app.verify import verify as verify_stores
from benchmarks.commands import bench
from connectors.shopify.simulator.delivery import RETRY_SCALE
from connectors.shopify.simulator.server import serve as serve_simulator

INSTANT = click.DateTime(["%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M:%S.%f%z"])
"""An instant with its offset, as in 2026-11-02T09:15:03+01:00 or ...Z."""
as_json = click.option("--json", "as_json", is_flag=True, help="Print facts as JSON.")


class Command(click.Group):
    """Prints our own errors as one line and exits with 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except SkustreamError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(1)


@click.group(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.pass_context
def main(ctx: click.Context) -> None:
    """Keeps stock true across Shopify stores, warehouses, tills and marketplaces, exactly once, on Kafka."""
    ctx.obj = load_settings()
    configure_logs("command", ctx.obj.log_level, as_json=ctx.obj.log_json)


@main.group("topics")
def topics_group() -> None:
    """The topics of the pipeline."""


@topics_group.command("plan")
@as_json
@click.pass_obj
def topics_plan(settings: Settings, as_json: bool) -> None:
    """Show what `apply` would create, and what does not match; changes nothing. Exit 1 on a mismatch."""
    differences = asyncio.run(topics.plan(settings))
    _show_differences(differences, as_json)
    sys.exit(any(difference.action == "mismatch" for difference in differences))


@topics_group.command("apply")
@as_json
@click.pass_obj
def topics_apply(settings: Settings, as_json: bool) -> None:
    """Create missing topics. A topic that exists with another shape is an error; nothing is altered."""
    _show_differences(asyncio.run(topics.apply(settings)), as_json)


def _show_differences(differences: list[topics.Difference], as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(differences))
        return
    for difference in differences:
        click.echo(f"{difference.action:9} {difference.topic}: {difference.detail}")
    if not differences:
        click.echo("all topics are as declared")


@main.command("run")
@click.argument("service", type=click.Choice(SERVICES))
@click.pass_obj
def run(settings: Settings, service: str) -> None:
    """Run one service in the foreground until it is told to stop."""
    run_service(service, settings)


@main.command("simulator")
@click.option("--seed", type=int, default=1, show_default=True, help="Makes ids and faults repeatable.")
@click.option(
    "--webhook-url", help="Where webhooks are sent; the local receiver of these settings by default."
)
@click.option(
    "--retry-scale",
    type=click.FloatRange(0.0001, 1.0),
    default=RETRY_SCALE,
    show_default=True,
    help="Webhook retries take Shopify's four hours times this.",
)
@click.pass_obj
def simulator(settings: Settings, seed: int, webhook_url: str | None, retry_scale: float) -> None:
    """Run the shops of the shops file as a Shopify simulator, with an admin API under /_admin."""
    configure_logs("simulator", settings.log_level, as_json=settings.log_json)
    receiver = f"http://{settings.receiver_host}:{settings.receiver_port}/webhooks/shopify"
    serving = serve_simulator(
        settings.receiver_host,
        settings.simulator_port,
        seed=seed,
        webhook_url=webhook_url or receiver,
        shops=load_shops(settings.shops_file),
        retry_scale=retry_scale,
    )
    asyncio.run(serving)


@main.group("movement")
def movement_group() -> None:
    """Movements: facts and requests that change stock."""


@movement_group.command("send")
@click.option("--kind", type=click.Choice([str(one) for one in MovementKind]), required=True)
@click.option("--sku", required=True)
@click.option("--location", required=True)
@click.option("--quantity", type=int, required=True, help="Units; signed for adjusted and expected.")
@click.option("--source", default="cli", show_default=True, help="Who says so, e.g. wms:acme.")
@click.option(
    "--id", "movement_id", help="Made once by whoever saw the fact; sending it again changes nothing."
)
@click.option("--occurred-at", type=click.DateTime(["%Y-%m-%dT%H:%M:%S%z"]), help="When; now by default.")
@click.option("--as-of", type=click.DateTime(["%Y-%m-%dT%H:%M:%S%z"]), help="counted: when it was counted.")
@click.option("--reason", default="", help="adjusted: why.")
@click.option("--shipment", default="", help="received: the inbound shipment.")
@click.option(
    "--policy", type=click.Choice([str(one) for one in Policy]), default=str(Policy.FACT), show_default=True
)
@click.option("--expected-version", type=int, help="Reject unless the key is at this version.")
@click.option("--from-state", type=click.Choice([str(one) for one in State]), help="set_aside: from.")
@click.option("--to-state", type=click.Choice([str(one) for one in State]), help="set_aside: to.")
@click.pass_obj
def movement_send(settings: Settings, /, movement_id: str | None, **fields: Any) -> None:
    """Send one movement; returns when the broker has it on all in-sync replicas."""
    now = datetime.now(UTC)
    fields["occurred_at"] = fields["occurred_at"] or now
    if fields["kind"] == MovementKind.COUNTED:
        fields["as_of"] = fields["as_of"] or now
    given = {name: value for name, value in fields.items() if value is not None}
    try:
        movement = msgspec.convert({"id": movement_id or str(uuid4()), **given}, Movement)
    except ValidationError as error:
        raise Misconfigured(f"not a movement: {error}") from None
    asyncio.run(kafka_tools.send_movements(settings, [movement]))
    click.echo(movement.id)


@movement_group.command("send-file")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.pass_obj
def movement_send_file(settings: Settings, file: Path) -> None:
    """Send movements from a file of JSON lines; nothing is sent unless every line is a movement."""
    movements = []
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        try:
            movements.append(msgspec.json.decode(line, type=Movement))
        except msgspec.MsgspecError as error:
            raise Misconfigured(f"{file}:{number}: not a movement: {error}") from None
    asyncio.run(kafka_tools.send_movements(settings, movements))
    click.echo(f"{len(movements)} movements sent")


@main.group("listings")
def listings_group() -> None:
    """Which shops list which stock keys."""


@listings_group.command("apply")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--yes", is_flag=True, help="Apply without asking.")
@click.pass_obj
def listings_apply(settings: Settings, file: Path, yes: bool) -> None:
    """Preview and apply a YAML file: `sku@location: [{shop, item, variant, location_id, buffer}]`."""
    wanted = kafka_tools.read_listings(file)
    changes = asyncio.run(kafka_tools.listing_changes(settings, wanted))
    for change in changes:
        click.echo(change.describe())
    if not changes:
        click.echo("the listings are as in the file")
    elif yes or click.confirm(f"apply {len(changes)} changes?"):
        asyncio.run(kafka_tools.send_listings(settings, [change.after for change in changes]))
        click.echo(f"{len(changes)} keys applied")


@main.group("stock")
def stock_group() -> None:
    """What we know of stock."""


@stock_group.command("get")
@click.argument("sku")
@click.argument("location")
@as_json
@click.pass_obj
def stock_get(settings: Settings, sku: str, location: str, as_json: bool) -> None:
    """Show the level of a key from stock.levels. Exit 1 when the key is unknown."""
    record = asyncio.run(kafka_tools.stock_of(settings, sku, location))
    if record is None:
        raise Misconfigured(f"stock.levels has no {sku}@{location}")
    if as_json:
        click.echo(msgspec.json.encode(record))
        return
    click.echo(f"{sku}@{location} version {record.version}, available {record.level.available}")
    for part, units in msgspec.structs.asdict(record.level).items():
        click.echo(f"  {part:16} {units}")


@main.command("explain")
@click.argument("sku")
@click.argument("location")
@click.option("--since", type=INSTANT, help="Only what was recorded from then on.")
@click.option("--webhooks", is_flag=True, help="Also the webhooks of the orders that moved it.")
@as_json
@click.pass_obj
def explain(
    settings: Settings, sku: str, location: str, since: datetime | None, webhooks: bool, as_json: bool
) -> None:
    """Show the chain of events of a stock key: movements with balances and causes, alerts, targets, writes.

    Reads only the partitions of the key and of its shops. Exit 1 when something does not add up, naming it,
    or when the key is unknown.
    """
    found = asyncio.run(explain_key(settings, sku, location, since=since, webhooks=webhooks))
    if found is None:
        raise Misconfigured(f"no topic knows {sku}@{location}")
    if as_json:
        click.echo(msgspec.json.encode(found))
    else:
        show_explanation(found, plain_console())
    sys.exit(not found.adds_up)


stock_group.add_command(explain)


@main.command("verify")
@click.argument("services", nargs=-1, type=click.Choice(sorted(WORKERS)))
@click.option(
    "--data-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A worker's data directory; SKUSTREAM_DATA_DIR by default.",
)
@click.option("--ledger", is_flag=True, help="Also follow stock.ledger to the levels of the stock service.")
@as_json
@click.pass_obj
def verify(
    settings: Settings, services: tuple[str, ...], data_dir: Path | None, ledger: bool, as_json: bool
) -> None:
    """Rebuild each partition store from its changelog and compare, while the workers run.

    Looks at the stores of this machine, those of standbys too. Exit 1 when anything differs.
    """
    wanted = list(services) or sorted(WORKERS)
    found = asyncio.run(verify_stores(settings, data_dir or settings.data_dir, wanted, ledger=ledger))
    if as_json:
        click.echo(msgspec.json.encode(found))
    else:
        for one in found:
            moved_on = f", {one.moved_on} moved on" if one.moved_on else ""
            result = "equal" if one.equal else "DIFFERS: " + "; ".join(one.differing)
            click.echo(f"{one.store} at {one.offset}: {one.keys} keys{moved_on}, {one.digest} {result}")
    sys.exit(not all(one.equal for one in found))


@main.group("positions")
def positions_group() -> None:
    """Where services go on reading; set only while a service is stopped."""


service_argument = click.argument("service", type=click.Choice(sorted(WORKERS)))


@positions_group.command("show")
@service_argument
@as_json
@click.pass_obj
def positions_show(settings: Settings, service: str, as_json: bool) -> None:
    """Show the recorded position of every lane."""
    found = asyncio.run(show_positions(service, settings.kafka_options(), settings.partitions))
    _show_positions(found, as_json)


@positions_group.command("set")
@service_argument
@click.option("--to", "start", type=click.Choice([str(one) for one in Start]), required=True)
@as_json
@click.pass_obj
def positions_set(settings: Settings, service: str, start: str, as_json: bool) -> None:
    """Make a stopped service go on somewhere else; refused while it runs."""
    sources = WORKERS[service](settings).source_topics
    _show_positions(
        asyncio.run(
            set_positions(service, settings.kafka_options(), settings.partitions, sources, Start(start))
        ),
        as_json,
    )


def _show_positions(found: dict[int, Any], as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(found))
        return
    for lane, position in sorted(found.items()):
        offsets = ", ".join(f"{topic} {offset}" for topic, offset in sorted(position.offsets.items()))
        click.echo(f"lane {lane}: {offsets or 'nothing read yet'}")


for command in (dev, demo, chaos, bench, shop, orders, catalog, reconcile):
    main.add_command(command)
