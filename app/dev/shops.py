"""The two demo shops, their catalogue, and its loading into the simulator and the pipeline."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from msgspec import Struct

from app.errors import Bug, Misconfigured, Rejected
from app.kafka_tools import read_topic, send_listings, send_movements
from app.records import Listing, Listings, Movement, MovementKind
from app.settings import Settings

DOMAINS = ("north.myshopify.com", "south.myshopify.com")
LOCATIONS = ("main", "store", "outlet")
ITEMS_A_CALL = 200
ACT_LIMIT_S = 10.0


class Key(Struct, frozen=True, kw_only=True):
    """A stock key of the demo with its listing in each shop, and the units it opens with."""

    sku: str
    location: str
    listings: tuple[Listing, ...]  # one for each of DOMAINS
    opening: int

    @property
    def name(self) -> str:
        """``{sku}@{location}``."""
        return f"{self.sku}@{self.location}"


def write_shops_file(
    path: Path, simulator_port: int, *, simulated: bool = True, hand_edits: Sequence[str] = ()
) -> None:
    """The shops file of the demo shops; their secrets are worth nothing.

    ``simulated``: the simulator runs, so that orders can be asked where they are to leave from.
    ``hand_edits``: each shop's policy; without any the usual one.
    """
    shops: dict[str, dict[str, Any]] = {
        domain: {
            "api_url": f"http://127.0.0.1:{simulator_port}/{domain}",
            "access_token": f"example-token-{domain.partition('.')[0]}",
            "webhook_secret": f"example-secret-{domain.partition('.')[0]}",
            "default_location_id": location_id(number, 0),
            "locations": {location_id(number, place): code for place, code in enumerate(LOCATIONS)},
            "order_locations": "read" if simulated else "default",
        }
        for number, domain in enumerate(DOMAINS)
    }
    for shop, policy in zip(shops.values(), hand_edits, strict=False):
        shop["hand_edits"] = policy
    path.write_text(yaml.safe_dump({"shops": shops}, sort_keys=False))


def location_id(shop: int, place: int) -> int:
    """The shop's own id of one of LOCATIONS; both by number."""
    return 1001 + 1000 * shop + place


def catalogue(skus: int, opening: int) -> list[Key]:
    """So many SKUs at all LOCATIONS, each listed in both shops."""
    return [
        Key(
            sku=f"SKU-{number:04}",
            location=location,
            opening=opening,
            listings=tuple(
                Listing(
                    shop=domain,
                    item=_item(shop, number),
                    variant=_item(shop, number) + 500_000,
                    location_id=location_id(shop, place),
                )
                for shop, domain in enumerate(DOMAINS)
            ),
        )
        for number in range(1, skus + 1)
        for place, location in enumerate(LOCATIONS)
    ]


def _item(shop: int, number: int) -> int:
    return 1_000_000 * (shop + 1) + number


class NotPossible(Rejected):
    """A simulated shop cannot do what was asked, such as cancelling what has shipped."""


class SimulatorAdmin:
    """The simulator's admin API."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> SimulatorAdmin:
        timeout = aiohttp.ClientTimeout(total=ACT_LIMIT_S)
        self._session = aiohttp.ClientSession(timeout=timeout)
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def act(self, name: str, **body: Any) -> Any:
        """POST.

        Raises:
            NotPossible: when the shop's state does not allow it.
        """
        assert self._session is not None, "used as a context"
        async with self._session.post(f"{self.url}/_admin/{name}", json=body) as answer:
            if answer.status == 422:
                raise NotPossible(f"simulator {name}: {await answer.text()}")
            if answer.status != 200:
                raise Bug(f"simulator {name}: {answer.status} {await answer.text()}")
            return await answer.json()

    async def see(self, name: str, **query: str) -> Any:
        """GET."""
        assert self._session is not None, "used as a context"
        async with self._session.get(f"{self.url}/_admin/{name}", params=query) as answer:
            if answer.status != 200:
                raise Bug(f"simulator {name}: {answer.status} {await answer.text()}")
            return await answer.json()


async def load(settings: Settings, admin: SimulatorAdmin, keys: list[Key]) -> None:
    """Stock the shops with nothing, list every key, and open it with a count.

    Raises:
        Misconfigured: when the cluster was used before.
        BrokerUnavailable: when Kafka does not answer.
    """
    await require_empty(settings)
    await asyncio.gather(*(_load_shop(admin, number, keys) for number in range(len(DOMAINS))))
    await open_keys(settings, keys, datetime.now(UTC))


async def require_empty(settings: Settings) -> None:
    """Refuse a cluster that was used before: the simulated shops begin with nothing, and so must we.

    Raises:
        Misconfigured: naming the setting and the topic.
    """
    async for _ in read_topic(settings, "stock.ledger"):
        raise Misconfigured(
            f"the cluster {settings.bootstrap_servers} (KAFKA_BOOTSTRAP_SERVERS) has records in stock.ledger"
            ": unset it, or name one without skustream's topics"
        )


async def open_keys(settings: Settings, keys: list[Key], as_of: datetime) -> None:
    """List every key and open it with a count as of that instant."""
    await send_listings(
        settings,
        [Listings(sku=key.sku, location=key.location, listings=list(key.listings)) for key in keys],
    )
    counts = [
        Movement(
            id=f"opening:{key.name}:{as_of.timestamp():.0f}",
            kind=MovementKind.COUNTED,
            sku=key.sku,
            location=key.location,
            quantity=key.opening,
            source="dev",
            occurred_at=as_of,
            as_of=as_of,
        )
        for key in keys
    ]
    await send_movements(settings, counts)


async def _load_shop(admin: SimulatorAdmin, number: int, keys: list[Key]) -> None:
    domain = DOMAINS[number]
    locations = [{"id": location_id(number, place), "name": name} for place, name in enumerate(LOCATIONS)]
    await admin.act("shops", domain=domain, locations=locations)
    items: dict[int, dict[str, Any]] = {}
    for key in keys:
        listing = key.listings[number]
        item = items.setdefault(
            listing.item, {"sku": key.sku, "item": listing.item, "variant": listing.variant, "available": {}}
        )
        item["available"][str(listing.location_id)] = 0
    rows = list(items.values())
    for start in range(0, len(rows), ITEMS_A_CALL):
        await admin.act("items", shop=domain, items=rows[start : start + ITEMS_A_CALL])
