"""What ``skustream catalog open`` does: reads a baseline of the shops, plans, and sends what opens keys."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from msgspec import Raw, Struct

from app.catalog import Synced, require_codes, sync
from app.kafka_tools import all_listings, levels, send_listing_changes, send_movements, send_orders
from app.lag import wait_taken
from app.records import (
    Envelope,
    ItemLevel,
    Listing,
    ListingChange,
    Listings,
    Movement,
    Order,
    ShopItem,
    encode,
    listing_key,
    stock_key,
)
from app.settings import Settings
from app.shops import Shop
from connectors.shopify import documents
from connectors.shopify.catalog import open_orders, read_catalog
from connectors.shopify.changed_orders import READ_TOPIC
from connectors.shopify.client import ShopClient
from tables.listings import ListingDirectory
from tables.opening import Plan, Reading, adoption, held_units, plan_adoption, plan_publishing

QUIET_S = 4.0
"""Between the two reads; the count is as of the middle. Shopify's instants are whole seconds and its clock is
known to half a second, so three would do."""
ORDERS_AT_ONCE = 4
"""Reads of orders under way; they share the shop's budget with everything else."""
TAKEN_LIMIT_S = 300.0
"""For the services to take the open orders before their keys are opened."""

Sleep = Callable[[float], Awaitable[None]]
T = TypeVar("T")


class Baseline(Struct, frozen=True, kw_only=True):
    """What the shops have, as of one instant each, and the orders that hold units."""

    readings: dict[str, Reading]
    as_of: dict[str, datetime]  # by shop
    orders: dict[str, list[Order]]


class Opening(Struct, frozen=True, kw_only=True):
    """A plan and all that carries it out."""

    plan: Plan
    changes: list[ListingChange]
    movements: list[Movement]
    orders: dict[str, list[Order]]  # by shop


async def adopt(
    settings: Settings,
    shops: Sequence[Shop],
    *,
    source: str = "",
    quiet_s: float = QUIET_S,
    sleep: Sleep = asyncio.sleep,
) -> Opening:
    """Plan to open every key that the shops list with what a shop has; sends nothing.

    Raises:
        Retry, Rejected: as the shops' reads; BrokerUnavailable without Kafka.
    """
    domains = {shop.domain for shop in shops}
    keys = [one for one in await all_listings(settings) if any(each.shop in domains for each in one.listings)]
    base = await read_baseline(shops, quiet_s=quiet_s, sleep=sleep)
    held = _held(shops, base, keys)
    known = await levels(settings)
    plan = plan_adoption(keys, known, base.readings, held, source=source)
    moves = list(adoption(plan, base.as_of))
    return Opening(plan=plan, changes=[], movements=moves, orders=base.orders)


async def publish(settings: Settings, shops: Sequence[Shop]) -> Opening:
    """Plan to list what the shops have under keys of ours that have stock; sends nothing.

    Raises:
        Misconfigured: for a shop without codes of its locations; and as ``adopt``.
    """
    require_codes(settings, shops)
    known = await levels(settings)
    opened = {key for key, record in known.items() if record.opened_at is not None}
    found = await sync(settings, shops, opened, move=False)
    base = await read_baseline(shops)
    added = _added(found)
    keys = [Listings(sku=sku, location=code, listings=one) for (sku, code), one in added.items()]
    held = _held(shops, base, keys)
    by_key = {stock_key(*key): one for key, one in added.items()}
    plan = plan_publishing(by_key, known, base.readings, held)
    return Opening(
        plan=plan, changes=[one for synced in found for one in synced.held], movements=[], orders=base.orders
    )


async def carry_out(settings: Settings, opening: Opening, *, limit_s: float = TAKEN_LIMIT_S) -> None:
    """Send what a plan needs. The numbers are the order.

    1. New listings: orders need them to be counted.
    2. Open orders, as they were read.
    3. Wait until they have become commitments: a key opened before would show units that are promised.
    4. The counts that open the keys.

    Sending it twice changes nothing: changes of listings are states, orders know what has moved, and
    movements have ids.

    Raises:
        Retry: the services did not take the orders in time; nothing was opened then.
    """
    if not opening.changes and not opening.movements:
        return
    await send_listing_changes(settings, opening.changes)
    envelopes = [read_envelope(shop, order) for shop, orders in opening.orders.items() for order in orders]
    await send_orders(settings, envelopes)
    if opening.movements:
        await wait_taken(settings, "orders", "shopify.orders", limit_s)
        await wait_taken(settings, "stock", "stock.movements", limit_s)
        await send_movements(settings, opening.movements)


async def read_baseline(
    shops: Sequence[Shop], *, quiet_s: float = 0.0, sleep: Sleep = asyncio.sleep
) -> Baseline:
    """Read the shops, one beside the other; without ``quiet_s`` only once, which is no base for a count."""
    found = await _together([_read_shop(shop, quiet_s, sleep) for shop in shops])
    return Baseline(
        readings={one.shop: one for one, _, _ in found},
        as_of={one.shop: as_of for one, as_of, _ in found},
        orders={one.shop: orders for one, _, orders in found},
    )


def read_envelope(shop: str, order: Order) -> Envelope:
    """The record of ``shopify.orders`` with an order as it was read; the same state has the same ids."""
    name = f"opening:{order.id}:{order.updated_at.isoformat()}"
    return Envelope(
        shop=shop,
        topic=READ_TOPIC,
        webhook_id=name,
        event_id=name,
        received_at=datetime.now(UTC),
        api_version=documents.API_VERSION,
        order_id=order.id,
        body=Raw(encode(order)),
    )


async def _read_shop(shop: Shop, quiet_s: float, sleep: Sleep) -> tuple[Reading, datetime, list[Order]]:
    client = ShopClient(shop)
    try:
        after = before = _levels(shop, await read_catalog(client))
        as_of = await _shop_time(client) + timedelta(seconds=quiet_s / 2)
        if quiet_s:
            await sleep(quiet_s)
            after = _levels(shop, await read_catalog(client))
        orders = await _read_orders(client, await open_orders(client))
    finally:
        await client.close()
    return Reading(shop=shop.domain, before=before, after=after), as_of, orders


async def _shop_time(client: ShopClient) -> datetime:
    """What the shop's clock says now, to half a second: its orders and fulfilments are dated by it."""
    asked_at = time.time()
    await client.clock()
    now = time.time()
    told = client.answer_headers.get("Date")
    if told is None:
        return datetime.fromtimestamp(now, UTC)
    ahead_s = parsedate_to_datetime(told).timestamp() + 0.5 - (asked_at + now) / 2
    return datetime.fromtimestamp(now + ahead_s, UTC)


async def _read_orders(client: ShopClient, ids: Iterable[int]) -> list[Order]:
    slots = asyncio.Semaphore(ORDERS_AT_ONCE)

    async def read(order_id: int) -> Order | None:
        async with slots:
            return await client.order(order_id)

    found = await _together([read(order_id) for order_id in ids])
    return [order for order in found if order is not None]


async def _together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all; the first failure ends the others and is raised alone."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


def _levels(shop: Shop, items: Iterable[ShopItem]) -> dict[str, ItemLevel]:
    return {
        listing_key(shop.domain, item.item, level.location_id): level
        for item in items
        for level in item.levels
    }


def _held(shops: Iterable[Shop], base: Baseline, keys: Iterable[Listings]) -> Counter[str]:
    directory = ListingDirectory()
    for one in keys:
        directory.put(stock_key(one.sku, one.location), one)
    held: Counter[str] = Counter()
    for shop in shops:
        held += held_units(shop.domain, base.orders[shop.domain], directory, shop.default_location_id)
    return held


def _added(found: Iterable[Synced]) -> dict[tuple[str, str], list[Listing]]:
    added: dict[tuple[str, str], list[Listing]] = defaultdict(list)
    for synced in found:
        for change in synced.held:
            added[change.sku, change.location].append(change.listing)
    return dict(added)
