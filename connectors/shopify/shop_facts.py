"""What one shop says of itself: access, version, clock, budget, locations, webhook subscriptions."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from app.errors import Rejected, Retry
from connectors.shopify import documents
from connectors.shopify.client import ShopClient
from connectors.shopify.subscriptions import Subscription, subscriptions

FactT = TypeVar("FactT")


class ShopLocation(Struct, frozen=True, kw_only=True):
    """A location of the shop."""

    id: int
    name: str
    active: bool


class ShopFacts(Struct, frozen=True, kw_only=True):
    """What was found out. A part that could not be read is the error's message instead."""

    domain: str  # Shopify's own name of the shop: that of the webhooks' header
    scopes: frozenset[str]
    served_version: str  # of the API; empty when the shop does not say
    skew_s: float | None  # the shop's clock less ours; None when it does not say
    bucket_points: float  # 0: the shop does not say
    restore_rate: float  # points a second
    locations: list[ShopLocation] | str
    subscriptions: list[Subscription] | str


async def shop_facts(client: ShopClient, clock: Callable[[], float] = time.time) -> ShopFacts:
    """Ask a shop.

    Raises:
        Retry, Rejected: when the shop does not even say who it is.
    """
    asked_at = clock()
    access = await client.call(documents.ACCESS, {})
    between = (asked_at + clock()) / 2
    told = client.answer_headers
    return ShopFacts(
        domain=access["shop"]["myshopifyDomain"],
        scopes=frozenset(scope["handle"] for scope in access["currentAppInstallation"]["accessScopes"]),
        served_version=told.get("X-Shopify-API-Version", ""),
        skew_s=_skew_s(told.get("Date", ""), between),
        bucket_points=client.budget.capacity,
        restore_rate=client.budget.restore_rate,
        locations=await _told(locations_of(client)),
        subscriptions=await _told(subscriptions(client)),
    )


def _skew_s(date: str, at: float) -> float | None:
    """How far a Date header is from our own clock, in whole seconds: it has no smaller ones."""
    try:
        told = parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None
    return float(round(told + 0.5 - at))


async def locations_of(client: ShopClient) -> list[ShopLocation]:
    """Every location of a shop, inactive ones too.

    Raises:
        Retry, Rejected: as ``ShopClient.call``.
    """
    return [_location(node) async for node in client.nodes(documents.LOCATIONS, "locations")]


async def _told(read: Awaitable[FactT]) -> FactT | str:
    try:
        return await read
    except (Retry, Rejected) as error:
        return str(error)


def _location(node: Any) -> ShopLocation:
    fields = {"id": int(node["legacyResourceId"]), "name": node["name"], "active": node["isActive"]}
    return msgspec.convert(fields, ShopLocation)
