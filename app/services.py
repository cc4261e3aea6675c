"""The composition root: builds each service from the settings."""

from __future__ import annotations

import asyncio
import resource
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import agents.catalog
import agents.listing_changes
import agents.orders
import agents.reconcile
import agents.redaction
import agents.shopify
import agents.stock
from agents import subscriptions
from agents.catch_up import CatchUp
from agents.comparison import Limits
from agents.listings import ListingFollower
from agents.subscriptions import SubscriptionKeeper
from app import receiver, topics
from app.dead_letters import dead_letter
from app.errors import Misconfigured
from app.exactly_once import App
from app.hearing import ServiceHearing
from app.logs import configure_logs
from app.settings import Settings
from app.shops import load_shops
from connectors.shopify.client import ShopClients
from connectors.shopify.subscriptions import uri_of
from tables.catch_up import settle_time
from tables.listings import ListingIndex


def stock(settings: Settings) -> App:
    """The inventory adjuster."""
    app = _app("stock", settings, settings.stock_port)
    rules = agents.stock.Rules(seen_days=settings.seen_days, low_water=settings.low_water)
    agents.stock.register(app, rules)
    return app


def orders(settings: Settings) -> App:
    """The orders agent."""
    app = _app("orders", settings, settings.orders_port)
    clients = ShopClients(load_shops(settings.shops_file))
    agents.orders.register(app, clients)
    agents.redaction.register(app, clients.shops)
    return app


def shopify(settings: Settings) -> App:
    """The writer."""
    app = _app("shopify", settings, settings.shopify_port)
    clients = ShopClients(load_shops(settings.shops_file))
    rules = agents.shopify.Rules(max_refusals=settings.max_refusals, hand_edit_s=settings.hand_edit_s)
    agents.shopify.register(app, clients, rules, ServiceHearing(settings))
    agents.redaction.register(app, clients.shops)
    return app


def limits_of(settings: Settings) -> Limits:
    """When differences are settled, listings quiet and corrections small, by the settings."""
    return Limits(
        settle_s=settings.reconcile_settle_s,
        quiet_s=settings.reconcile_quiet_s,
        units=settings.reconcile_max_units,
    )


def reconcile(settings: Settings) -> App:
    """Compares listings with their shops, and does what shops need every so often."""
    app = _app("reconcile", settings, settings.reconcile_port)
    clients = ShopClients(load_shops(settings.shops_file))
    limits = limits_of(settings)
    rhythm = agents.reconcile.Rhythm(settings.reconcile_sweep_s, settings.reconcile_sample_s)
    schedule = agents.reconcile.register(app, clients, limits, rhythm, ServiceHearing(settings))
    listings = ListingFollower(app, ListingIndex(), lambda changed: None)
    agents.listing_changes.register(app, listings)
    agents.catalog.register(app, clients, listings)
    agents.redaction.register(app, clients.shops)
    catch_up = CatchUp(app, clients, settle=settle_time(settings.catch_up_s))
    schedule.every(settings.catch_up_s, "order catch-up", catch_up.run)
    if settings.public_url is not None:
        keeper = SubscriptionKeeper(app, clients, uri_of(settings.public_url))
        schedule.every(subscriptions.EVERY_S, "subscriptions", keeper.run)
    return app


WORKERS: dict[str, Callable[[Settings], App]] = {
    "orders": orders,
    "stock": stock,
    "shopify": shopify,
    "reconcile": reconcile,
}
"""The services that are Faust workers, by name."""

MIN_FREE_BYTES = 64 << 20
_FAUST_LEVELS = {"warning": "warn"}
"""Where Faust has another word for a log level than everybody else."""

SERVICES = ("receiver", *WORKERS)
"""All services."""


def run(service: str, settings: Settings) -> None:
    """Run a service in the foreground until it is told to stop; a worker ends the process."""
    configure_logs(service, settings.log_level, as_json=settings.log_json)
    if service == "receiver":
        asyncio.run(receiver.serve(settings))
        return
    require_room(settings.data_dir / service)
    require_port(settings.receiver_host, service, getattr(settings, f"{service}_port"))
    raise_file_limit()
    app = WORKERS[service](settings)
    asyncio.run(topics.require(settings, app.needed_topics()))
    asyncio.run(topics.tell_old_brokers(settings))
    sys.argv = [
        sys.argv[0],
        "worker",
        "--loglevel",
        _FAUST_LEVELS.get(settings.log_level, settings.log_level),
    ]
    app.main()


def raise_file_limit() -> None:
    """Allow as many open files as the system lets us: a lane needs about ten, and 1 024 is usual."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def require_room(directory: Path) -> None:
    """Refuse a data directory that cannot be written, or whose disk is almost full.

    A worker that found out later would take lanes from workers that have room, and fail with each.

    Raises:
        Misconfigured: naming the directory and the setting.
    """
    where = f"setting SKUSTREAM_DATA_DIR: {directory}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
        free = shutil.disk_usage(directory).free
    except OSError as error:
        raise Misconfigured(f"{where} cannot be written: {error.strerror}") from None
    if free < MIN_FREE_BYTES:
        raise Misconfigured(f"{where} has {free >> 20} MiB free, at least {MIN_FREE_BYTES >> 20} are needed")


def require_port(host: str, service: str, port: int) -> None:
    """Refuse a port that is taken.

    Raises:
        Misconfigured: naming the setting.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            setting = f"SKUSTREAM_{service.upper()}_PORT"
            raise Misconfigured(f"{setting} {port}: cannot listen: {error.strerror}") from None


def _app(service: str, settings: Settings, port: int) -> App:
    return App(
        service,
        kafka_options=settings.kafka_options(),
        data_dir=settings.data_dir,
        partitions=settings.partitions,
        encode_dead_letter=dead_letter,
        web_port=port,
        web_host=settings.receiver_host,
        session_timeout_s=settings.session_timeout_s,
        standby_replicas=settings.standby_replicas,
        instance_id=settings.instance_id,
        record_limits={spec.name: spec.max_message_bytes for spec in topics.TOPICS},
    )
