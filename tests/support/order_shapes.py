"""A simulated shop as a stage for order shapes, and a listener that keeps stock by what the shop tells.

The listener is the orders agent and the adjuster without Kafka: the receiver's ``accept``, the agent's
``united``, the rules of ``tables.orders`` and ``tables.stock``. What it must read, it reads through the real
client's documents, executed by the simulator in this process.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random
from typing import Any

from gql import GraphQLRequest
from graphql import print_ast
from msgspec import Struct
from msgspec.structs import replace

from agents.order_lookups import gid_of
from agents.orders import united
from app.records import (
    Envelope,
    Listing,
    Listings,
    Movement,
    MovementKind,
    Order,
    OrderNotice,
    Routing,
    StockRecord,
    listing_key,
)
from app.shops import Shop
from connectors.shopify.changed_orders import changed_orders, envelope_of
from connectors.shopify.client import ShopClient
from connectors.shopify.simulator import shopper
from connectors.shopify.simulator.bulk import BulkOperations
from connectors.shopify.simulator.faults import Faults
from connectors.shopify.simulator.graphql import Api, Refusal, load_schema, roots
from connectors.shopify.simulator.model import Order as ShopOrder
from connectors.shopify.simulator.model import ShopConfig, Webhook
from connectors.shopify.simulator.shopper import Checkout, Wanted
from connectors.shopify.simulator.world import World
from connectors.shopify.webhooks import ORDERS, Body, accept, read_headers
from tables.listings import ListingDirectory
from tables.order_record import OrderRecord
from tables.orders import evaluate, take_missing, take_notice, take_order, take_routing
from tables.stock import apply

SHOP = "north.myshopify.com"
MAIN, STORE, ANNEX = 71, 72, 73
PLACES = {MAIN: "main", STORE: "store", ANNEX: "annex"}
TEE, CAP, WRAP, GIFT = 5001, 5002, 5003, 5004
SKUS = {TEE: "TEE", CAP: "CAP", WRAP: "WRAP", GIFT: "GIFT"}
OPENING = 50
BEGAN = datetime(2026, 11, 24, 9, tzinfo=UTC)
ROUNDS = 12
"""Reads that lead to further reads, before a listener is taken to go round in circles."""


class InProcess(ShopClient):
    """The client with the simulator's executor in place of HTTP."""

    def __init__(self, world: World) -> None:
        super().__init__(
            Shop(domain=SHOP, api_url="", access_token="t", webhook_secrets=("s",), default_location_id=MAIN)
        )
        self._world = world
        bulk = BulkOperations(
            world, load_schema(), partial(roots, world), faults=Faults(Random(7)), submit=lambda _: None
        )
        self._api = Api(world, bulk)

    async def call(self, document: GraphQLRequest, variables: Any, **priced: Any) -> Mapping[str, Any]:
        """Execute at once; the bucket is as good as endless."""
        shop = self._world.shop(SHOP)
        self._api.set_bucket(shop, 1e9, 1e9)
        admitted = self._api.admit(shop, print_ast(document.document), variables)
        assert not isinstance(admitted, Refusal), admitted.answer
        answer, _ = self._api.execute(admitted)
        assert "errors" not in answer, answer["errors"]
        return answer["data"]


class Stage:
    """A shop with three locations and 50 of everything at each, one order, and the webhooks about it."""

    def __init__(self, *, gap_s: float = 60.0, offset_minutes: int = 60) -> None:
        self.now = BEGAN.timestamp()
        self.gap_s = gap_s
        self.world = World(clock=lambda: self.now, monotonic=lambda: self.now, random=Random(7))
        config = ShopConfig(
            domain=SHOP, access_token="t", webhook_secret="s", webhook_url="", default_location_id=MAIN,
            utc_offset_minutes=offset_minutes,
        )  # fmt: skip
        self.state = self.world.add_shop(config)
        for place in (STORE, ANNEX):
            self.world.add_location(SHOP, place, PLACES[place])
        for item, sku in SKUS.items():
            counted = item in (TEE, CAP)
            self.world.add_item(
                SHOP, sku, item_id=item, variant_id=item + 4000, tracked=counted, gift_card=item == GIFT,
                available=dict.fromkeys(PLACES, OPENING) if counted else {},
            )  # fmt: skip
        self.webhooks: list[Webhook] = []
        self.order_id = 0
        self.client = InProcess(self.world)

    @property
    def order(self) -> ShopOrder:
        """The order as it is now."""
        return self.state.order(self.order_id)

    def line(self, number: int = 0) -> int:
        """The id of a line, by its place in the order."""
        return self.order.lines[number].id

    def tell(self, webhooks: Iterable[Webhook]) -> None:
        """Something happened; some time passes."""
        self.webhooks += [each for each in webhooks if not each.topic.startswith("inventory_levels/")]
        self.now += self.gap_s

    def sell(self, *wanted: tuple[int, int] | Wanted, **how: Any) -> None:
        """Place the order: (item, quantity) lines, or lines with places."""
        lines = [
            each if isinstance(each, Wanted) else Wanted(item=each[0], quantity=each[1]) for each in wanted
        ]
        sale = shopper.sell(self.world, SHOP, lines, how=Checkout(**how))
        assert sale.order is not None
        self.order_id = sale.order.id
        self.tell(sale.webhooks)

    def act(self, what: Any, *args: Any, **more: Any) -> None:
        """Something that happens to the order: a function of ``shopper`` or ``after_sales``."""
        self.tell(what(self.world, SHOP, self.order_id, *args, **more))

    def levels(self) -> dict[str, tuple[int, int]]:
        """(committed, change of on_hand) of everything that is counted."""
        return {
            f"{SKUS[item]}@{PLACES[place]}": (level.committed, level.on_hand - OPENING)
            for (item, place), level in self.state.levels.items()
            if item in (TEE, CAP)
        }


class Answers(Struct, frozen=True, kw_only=True):
    """What the shop answers at one moment."""

    order: Order | None
    routing: Routing | None


def ask(stage: Stage) -> Answers:
    """Read the order and its fulfilment orders as they are now."""

    async def both() -> Answers:
        order = await stage.client.order(stage.order_id)
        routing = (await stage.client.routing([stage.order_id]))[stage.order_id]
        return Answers(order=order, routing=routing)

    return asyncio.run(both())


def poll(stage: Stage) -> Envelope:
    """What the catch-up tells of the order as it is now."""

    async def newest() -> OrderNotice:
        [[notice]] = [page async for page in changed_orders(stage.client, BEGAN - timedelta(days=1))]
        return notice

    return envelope_of(SHOP, asyncio.run(newest()), BEGAN)


def envelopes(stage: Stage, webhooks: Iterable[Webhook]) -> list[Envelope]:
    """What the receiver makes of webhooks, with lookups answered; only those that are about orders."""
    return [found for each in webhooks if (found := _envelope(stage, each)) is not None]


def _envelope(stage: Stage, webhook: Webhook) -> Envelope | None:
    names = {"Topic": webhook.topic, "Shop-Domain": SHOP, "Hmac-Sha256": "x", "Webhook-Id": webhook.id}
    at = datetime.fromtimestamp(webhook.triggered_at, UTC)
    names |= {"Event-Id": webhook.event_id, "Triggered-At": at.isoformat()}
    body = Body(["s"])
    assert webhook.body is not None, "levels are left out"
    body.feed(webhook.body)
    delivery = read_headers({f"X-Shopify-{name}": value for name, value in names.items()})
    accepted = accept(delivery, body, at)
    if accepted.topic != ORDERS:
        return None
    if accepted.envelope.order_id is None:
        order_id = asyncio.run(stage.client.order_of(gid_of(accepted.key)))
        return replace(accepted.envelope, order_id=order_id)
    return accepted.envelope


def directory() -> ListingDirectory:
    """Everything that is counted is listed at every location."""
    listed = ListingDirectory()
    for item in (TEE, CAP):
        for place, code in PLACES.items():
            listing = Listing(shop=SHOP, item=item, variant=item + 4000, location_id=place)
            key = f"{SKUS[item]}@{code}"
            listed.put(key, Listings(sku=SKUS[item], location=code, listings=[listing]))
    return listed


LISTED = directory()


class Listener:
    """Keeps the order's record and the movements that were emitted."""

    def __init__(self, *, routed: bool = True) -> None:
        self._routed = routed
        self.record: OrderRecord | None = None
        self.movements: list[Movement] = []

    def hear(self, envelope: Envelope) -> None:
        """Take a webhook."""
        self._settle(united(self.record, envelope))

    def read(self, answers: Answers) -> None:
        """Read until nothing is wanted any more."""
        for _ in range(ROUNDS):
            record = self.record
            if record is not None and record.read_wanted:
                order = answers.order
                self._settle(
                    take_missing(record) if order is None else take_order(record, SHOP, order, read=True)
                )
            elif record is not None and record.routing_wanted:
                self._settle(take_routing(record, answers.routing, record))
            else:
                return
        raise AssertionError(f"it still wants to read: {self.record}")

    def doubt(self) -> None:
        """Want the order to be read, whatever is known of it."""
        assert self.record is not None
        self._settle(take_notice(self.record, SHOP, self.record.order_id, at=BEGAN, unread=True))

    def _settle(self, record: OrderRecord) -> None:
        done = evaluate(record, LISTED, default_location_id=MAIN, correlation_id="c", routed=self._routed)
        self.record = done.record
        self.movements += done.movements

    def told(self) -> Counter[str]:
        """The movements, as ``{kind} {sku}@{location}`` and units."""
        units: Counter[str] = Counter()
        for movement in self.movements:
            units[f"{movement.kind} {movement.key}"] += movement.quantity
        return units

    def levels(self) -> dict[str, tuple[int, int]]:
        """(committed, change of on_hand) of every key, by the stock rules; each listing's totals agree."""
        records = {f"{SKUS[item]}@{code}": StockRecord() for item in (TEE, CAP) for code in PLACES.values()}
        for key, record in records.items():
            records[key] = apply(record, _opening(key), now=BEGAN).record
        for movement in self.movements:
            records[movement.key] = apply(records[movement.key], movement, now=BEGAN).record
        found = {}
        for key, record in records.items():
            found[key] = (record.level.committed, record.level.on_hand - OPENING)
            for moved in record.moved.values():
                assert (moved.committed, moved.physical_total) == found[key], key
        assert {movement.cause.listing for movement in self.movements} <= _LISTINGS
        return found


_LISTINGS = {listing_key(SHOP, item, place) for item in (TEE, CAP) for place in PLACES}


def _opening(key: str) -> Movement:
    sku, _, location = key.partition("@")
    before = BEGAN - timedelta(days=1)
    return Movement(
        id=f"opening/{key}", kind=MovementKind.COUNTED, sku=sku, location=location, quantity=OPENING,
        source="test", occurred_at=before, as_of=before,
    )  # fmt: skip
