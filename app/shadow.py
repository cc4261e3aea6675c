"""Shadow mode: what skustream would have a shop show, beside what it shows under whoever writes it now."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from app.exactly_once.partitioner import partition_of
from app.kafka_tools import read_topic
from app.settings import Settings
from app.shops import Shop
from connectors.shopify.client import ShopClient
from connectors.shopify.levels import read_levels
from tables.pushes import PushState

STATES = "skustream.shopify.pushes"
"""The changelog of the writer's table: the newest target of each listing, and what was told of it."""


class Shadowed(Struct, frozen=True, kw_only=True):
    """One listing in shadow mode, in units."""

    listing: str
    sku: str
    location: str
    wanted: int  # what it should show
    shows: int | None  # what the shop shows now; None: it has no such item
    would_add: (
        int  # the write that was told last in shopify.pushes; 0: none is needed, or it was not read yet
    )

    @property
    def agrees(self) -> bool:
        """Whether the shop shows what it should."""
        return self.shows == self.wanted


async def shadow_report(settings: Settings, shop: Shop) -> list[Shadowed]:
    """The listings of a shop that are in shadow mode, by key.

    Raises:
        BrokerUnavailable: when no broker answers.
        Retry, Rejected: when the shop cannot be read.
    """
    states = await _states(settings, shop)
    client = ShopClient(shop)
    try:
        found = await read_levels(client, states)
    finally:
        await client.close()
    return [
        Shadowed(
            listing=listing,
            sku=state.target.sku,
            location=state.target.location,
            wanted=state.target.wanted,
            shows=None if (level := found[listing]) is None else level.available if level.active else 0,
            would_add=state.shadowed or 0,
        )
        for listing, state in sorted(states.items())
    ]


async def _states(settings: Settings, shop: Shop) -> dict[str, PushState]:
    partition = partition_of(shop.domain.encode(), settings.partitions)
    newest: dict[str, bytes | None] = {}
    async for records in read_topic(settings, STATES, [partition]):
        newest.update((record.key.decode(), record.value) for record in records)
    decode = msgspec.json.Decoder(PushState).decode
    states = {listing: decode(value) for listing, value in newest.items() if value is not None}
    return {listing: state for listing, state in states.items() if _in_shadow(shop, state)}


def _in_shadow(shop: Shop, state: PushState) -> bool:
    target = state.target
    inside = shop.shadow or target.location_id in shop.shadow_locations
    return inside and target.shop == shop.domain and not target.off
