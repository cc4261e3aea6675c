"""How far a shop's changed orders were looked through, and which of a page are news."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from msgspec.structs import replace

from app.records import Instant, OrderNotice, Record

OVERLAP = timedelta(minutes=10)
"""Each poll looks back so far: a search finds an order only once Shopify has indexed it, and how long that
may take is documented nowhere.
"""
FIRST = timedelta(hours=1)
"""How far the first poll of a shop looks back. What was open before comes in with the opening balance, or by
``skustream orders catch-up --since``.
"""
SETTLE = timedelta(minutes=1)
"""A new order that is younger than this is left for the next poll: its webhook is likely under way."""


class CaughtUp(Record, frozen=True, kw_only=True):
    """How far a shop was looked through (table ``caught_up``)."""

    until: Instant  # updated_at of the newest order that was looked at
    looked_until: Instant | None = None  # every change up to then has been told of


class Taken(NamedTuple):
    """What a page told: the changes that were not told before, and how far we came."""

    news: list[OrderNotice]
    reached: CaughtUp


def settle_time(period_s: float) -> timedelta:
    """How old an order must be: ``SETTLE``, or a third of the period where polls are closer together."""
    return min(SETTLE, timedelta(seconds=period_s / 3))


def first(now: datetime) -> CaughtUp:
    """What stands for the progress at a shop that was never looked through."""
    return CaughtUp(until=now - FIRST + OVERLAP)


def begins(reached: CaughtUp) -> datetime:
    """Where the next poll begins."""
    return reached.until - OVERLAP


def settled(orders: Sequence[OrderNotice], until: datetime) -> list[OrderNotice]:
    """The orders that may have changed up to then, whatever happened to them since.

    An order shows its last change only, which may hide one of long before. So only orders that did not exist
    then are left out.
    """
    return [order for order in orders if order.created_at is None or order.created_at <= until]


def take(
    known: Callable[[int], OrderNotice | None], reached: CaughtUp, orders: Iterable[OrderNotice]
) -> Taken:
    """Compare a page with what was told of each order (``known``, by order id)."""
    news: list[OrderNotice] = []
    for order in orders:
        if order.updated_at > reached.until:
            reached = replace(reached, until=order.updated_at)
        if known(order.id) != order:
            news.append(order)
    return Taken(news, reached)
