"""The admin API of the simulator, under ``/_admin``: shoppers, stock by hand, faults, and the truth.

Bodies and answers are JSON. 422 says what is wrong: a bad body, or something that the shop cannot do.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import replace

from connectors.shopify.simulator import after_sales, items, shopper
from connectors.shopify.simulator.behaviour import Behaviour, Door, Positive
from connectors.shopify.simulator.bodies import order_fields
from connectors.shopify.simulator.delivery import Delivery, as_facts
from connectors.shopify.simulator.faults import Faults, FaultSettings
from connectors.shopify.simulator.graphql import Api
from connectors.shopify.simulator.model import (
    Disposition,
    LogKind,
    NotPossible,
    RestockType,
    ShopConfig,
    Webhook,
    level_gid,
)
from connectors.shopify.simulator.tokens import Tokens
from connectors.shopify.simulator.world import ShopState, World

BEHAVIOUR = Behaviour.__struct_fields__
MAX_SHOWN = 100
"""Pending webhooks that are listed one by one; the count is always whole."""


class _Body(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request body; a field that nobody reads is a mistake of the caller."""


class SetUpLocation(_Body, frozen=True, kw_only=True):
    """A location of a shop."""

    id: int
    name: str
    active: bool = True


class SetUpShop(_Body, frozen=True, kw_only=True):
    """A new shop, or more locations or another plan for one that is there."""

    domain: str
    config: ShopConfig | None = None  # for a new shop
    locations: list[SetUpLocation] = []
    bucket_capacity: float = 2000.0
    restore_rate: float | None = None  # points a second; the bucket is only changed when this is given


class SetUpItem(_Body, frozen=True, kw_only=True):
    """A new item. Ids are made when they are left out."""

    sku: str
    item: int | None = None
    variant: int | None = None
    tracked: bool = True
    policy: Literal["DENY", "CONTINUE"] = "DENY"
    price: str = "19.90"
    gift_card: bool = False
    available: dict[int, int] = {}  # location id to units


class SetUpItems(_Body, frozen=True, kw_only=True):
    """Many items of one shop."""

    shop: str
    items: list[SetUpItem]
    told: bool = False  # whether webhooks tell of them; they are set-up without


class Sell(_Body, frozen=True, kw_only=True):
    """A shopper's click; ``location`` makes it a till's."""

    shop: str
    lines: list[shopper.Wanted]
    location: int | None = None
    how: shopper.Checkout = shopper.WEB


class Cancel(_Body, frozen=True, kw_only=True):
    """Cancel an order."""

    shop: str
    order: int
    restock: bool
    refund: bool = True


class Fulfil(_Body, frozen=True, kw_only=True):
    """Ship lines of an order (line id to quantity), or all that is open."""

    shop: str
    order: int
    lines: dict[int, int] | None = None
    location: int | None = None


class RefundOrder(_Body, frozen=True, kw_only=True):
    """Refund lines of an order (line id to quantity)."""

    shop: str
    order: int
    lines: dict[int, int]
    restock_type: RestockType
    location: int | None = None


class CancelFulfillment(_Body, frozen=True, kw_only=True):
    """Cancel a shipment."""

    shop: str
    order: int
    fulfillment: int


class MoveAllocation(_Body, frozen=True, kw_only=True):
    """Open units (line id to quantity, or all) are to leave from another location."""

    shop: str
    order: int
    destination: int
    lines: dict[int, int] | None = None


class SplitAllocation(_Body, frozen=True, kw_only=True):
    """Open units get a fulfilment order of their own."""

    shop: str
    order: int
    lines: dict[int, int]


class EditOrder(_Body, frozen=True, kw_only=True):
    """Add lines to an order, and change lines (line id to a difference)."""

    shop: str
    order: int
    add: list[shopper.Wanted] = []
    change: dict[int, int] = {}
    restock: bool = True
    as_refund: bool = False


class OpenReturn(_Body, frozen=True, kw_only=True):
    """A customer may give units back (line id to quantity)."""

    shop: str
    order: int
    lines: dict[int, int]


class DecideReturn(_Body, frozen=True, kw_only=True):
    """Dispose of a return, process it (with an exchange), or refund it."""

    shop: str
    order: int
    return_id: int
    act: Literal["dispose", "process", "refund"]
    kind: Disposition = "RESTOCKED"
    location: int | None = None
    exchange: list[shopper.Wanted] = []  # process
    restock_type: RestockType = "no_restock"  # refund


class DeleteOrder(_Body, frozen=True, kw_only=True):
    """Delete an order."""

    shop: str
    order: int


class Edit(_Body, frozen=True, kw_only=True):
    """Change stock by hand, or stock an item at a location or no more."""

    shop: str
    item: int
    location: int
    delta: int | None = None
    available: int | None = None
    active: bool | None = None


class EditItem(_Body, frozen=True, kw_only=True):
    """Change an item, or delete it."""

    shop: str
    item: int
    sku: str | None = None
    tracked: bool | None = None
    deleted: bool = False


class Behave(_Body, frozen=True, kw_only=True):
    """How a shop treats the app from now on; what is not named stays as it is. See ``Behaviour``."""

    shop: str
    scopes: tuple[str, ...] | UnsetType = UNSET
    door: Door | UnsetType = UNSET
    door_s: Annotated[float, Meta(ge=0.0)] | None = None  # for how long; none: until it is changed
    serves: str | UnsetType | None = UNSET
    clock_skew_s: float | UnsetType = UNSET
    token_life_s: Positive | UnsetType = UNSET
    bulk_at_once: Annotated[int, Meta(ge=1)] | UnsetType = UNSET
    bulk_objects_s: Positive | UnsetType = UNSET
    expire_tokens: bool = False  # all that were issued


BodyT = TypeVar("BodyT")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Admin:
    """The handlers."""

    def __init__(self, world: World, api: Api, faults: Faults, delivery: Delivery, tokens: Tokens) -> None:
        self._tokens = tokens
        self._world = world
        self._api = api
        self._faults = faults
        self._delivery = delivery

    def routes(self) -> list[web.RouteDef]:
        """Everything under ``/_admin``."""
        posts: dict[str, Handler] = {
            "shops": _posted(SetUpShop, self.shops),
            "items": _posted(SetUpItems, self.items),
            "sell": _posted(Sell, self.sell),
            "cancel": _posted(Cancel, self.cancel),
            "fulfil": _posted(Fulfil, self.fulfil),
            "refund": _posted(RefundOrder, self.refund),
            "fulfil/cancel": _posted(CancelFulfillment, self.cancel_fulfillment),
            "move": _posted(MoveAllocation, self.move),
            "split": _posted(SplitAllocation, self.split),
            "edit-order": _posted(EditOrder, self.edit_order),
            "return": _posted(OpenReturn, self.open_return),
            "return/decide": _posted(DecideReturn, self.decide_return),
            "delete": _posted(DeleteOrder, self.delete),
            "edit": _posted(Edit, self.edit),
            "edit-item": _posted(EditItem, self.edit_item),
            "faults": _posted(FaultSettings, self.faults),
            "behave": _posted(Behave, self.behave),
        }
        gets = {
            "stock": self.stock,
            "log": self.log,
            "subscriptions": self.subscriptions,
            "pending": self.pending,
            "buckets": self.buckets,
            "healthz": self.healthz,
        }
        return [
            *(web.post(f"/_admin/{name}", handler) for name, handler in posts.items()),
            *(web.get(f"/_admin/{name}", handler) for name, handler in gets.items()),
            web.get("/healthz", self.healthz),
        ]

    def shops(self, body: SetUpShop) -> Any:
        """Add a shop, locations, or a plan."""
        if body.config is not None:
            if body.config.domain != body.domain:
                raise NotPossible(f"domain {body.domain} is not the config's {body.config.domain}")
            self._world.add_shop(body.config)
        shop = self._world.shop(body.domain)
        for location in body.locations:
            self._world.add_location(body.domain, location.id, location.name, active=location.active)
        if body.restore_rate is not None:
            self._api.set_bucket(shop, body.bucket_capacity, body.restore_rate)
        return {"shop": body.domain, "locations": sorted(shop.locations)}

    def items(self, body: SetUpItems) -> Any:
        """Add items with their levels."""
        made = []
        for each in body.items:
            item = self._world.add_item(
                body.shop, each.sku, item_id=each.item, variant_id=each.variant, tracked=each.tracked,
                policy=each.policy, price=each.price, gift_card=each.gift_card, available=each.available,
            )  # fmt: skip
            made.append({"sku": item.sku, "item": item.id, "variant": item.variant_id})
            if body.told:
                self._delivery.submit(items.tell_new(self._world, body.shop, item.id))
        return {"items": made}

    def sell(self, body: Sell) -> Any:
        """Place an order; ``accepted`` is false when something was sold out."""
        sale = shopper.sell(self._world, body.shop, body.lines, body.location, body.how)
        self._delivery.submit(sale.webhooks)
        if sale.order is None:
            return {"accepted": False, "order": None}
        config = self._world.shop(body.shop).config
        return {"accepted": True, "order": order_fields(config, sale.order)}

    def cancel(self, body: Cancel) -> Any:
        """Cancel an order."""
        hooks = shopper.cancel(self._world, body.shop, body.order, restock=body.restock, refund=body.refund)
        return self._order(body.shop, body.order, hooks)

    def fulfil(self, body: Fulfil) -> Any:
        """Ship."""
        hooks = shopper.fulfil(self._world, body.shop, body.order, body.lines, body.location)
        return self._order(body.shop, body.order, hooks)

    def refund(self, body: RefundOrder) -> Any:
        """Refund."""
        hooks = shopper.refund(
            self._world, body.shop, body.order, body.lines, body.restock_type, body.location
        )
        return self._order(body.shop, body.order, hooks)

    def cancel_fulfillment(self, body: CancelFulfillment) -> Any:
        """Cancel a shipment."""
        hooks = after_sales.cancel_fulfillment(self._world, body.shop, body.order, body.fulfillment)
        return self._order(body.shop, body.order, hooks)

    def move(self, body: MoveAllocation) -> Any:
        """Move an allocation."""
        hooks = after_sales.move_allocation(self._world, body.shop, body.order, body.destination, body.lines)
        return self._order(body.shop, body.order, hooks)

    def split(self, body: SplitAllocation) -> Any:
        """Split an allocation."""
        hooks = after_sales.split_allocation(self._world, body.shop, body.order, body.lines)
        return self._order(body.shop, body.order, hooks)

    def edit_order(self, body: EditOrder) -> Any:
        """Edit an order."""
        hooks = after_sales.edit_order(
            self._world, body.shop, body.order, add=body.add, change=body.change, restock=body.restock,
            as_refund=body.as_refund,
        )  # fmt: skip
        return self._order(body.shop, body.order, hooks)

    def open_return(self, body: OpenReturn) -> Any:
        """Open a return; the answer has its id."""
        given = after_sales.open_return(self._world, body.shop, body.order, body.lines)
        return {**self._order(body.shop, body.order, given.webhooks), "return": given.return_id}

    def decide_return(self, body: DecideReturn) -> Any:
        """Decide a return."""
        about = (self._world, body.shop, body.order, body.return_id)
        if body.act == "dispose":
            hooks = after_sales.dispose(*about, body.kind, body.location)
        elif body.act == "process":
            hooks = after_sales.process_return(*about, body.kind, body.location, body.exchange)
        else:
            hooks = after_sales.refund_return(*about, body.restock_type)
        return self._order(body.shop, body.order, hooks)

    def delete(self, body: DeleteOrder) -> Any:
        """Delete an order."""
        self._delivery.submit(after_sales.delete(self._world, body.shop, body.order))
        return {"order": None}

    def edit(self, body: Edit) -> Any:
        """Change stock by hand."""
        world = self._world
        hooks: list[Webhook] = []
        if body.active is not None:
            hooks += shopper.set_active(world, body.shop, body.item, body.location, body.active)
        if body.active is None or body.delta is not None or body.available is not None:
            hooks += shopper.edit_stock(
                world, body.shop, body.item, body.location, delta=body.delta, available=body.available
            )
        self._delivery.submit(hooks)
        shop = world.shop(body.shop)
        return {"webhooks": len(hooks), "available": shop.available(body.item, body.location)}

    def edit_item(self, body: EditItem) -> Any:
        """Change or delete an item."""
        if body.deleted:
            hooks = items.delete_item(self._world, body.shop, body.item)
        else:
            hooks = items.change_item(self._world, body.shop, body.item, sku=body.sku, tracked=body.tracked)
        self._delivery.submit(hooks)
        return {"webhooks": len(hooks)}

    def faults(self, body: FaultSettings) -> Any:
        """Replace all faults."""
        self._faults.set(body)
        return msgspec.to_builtins(body)

    def behave(self, body: Behave) -> Any:
        """Change how a shop treats the app."""
        shop = self._world.shop(body.shop)
        given = {
            name: value
            for name in BEHAVIOUR
            if name != "door_until" and (value := getattr(body, name)) is not UNSET
        }
        if "door" in given:
            given["door_until"] = None if body.door_s is None else self._world.clock() + body.door_s
        shop.behaviour = replace(shop.behaviour, **given)
        expired = self._tokens.expire(shop) if body.expire_tokens else 0
        return {**msgspec.to_builtins(shop.behaviour), "expired_tokens": expired}

    async def stock(self, request: web.Request) -> web.Response:
        """All levels of all shops."""
        levels = [row for shop in self._world.shops.values() for row in _levels(shop)]
        return _json({"levels": levels})

    async def log(self, request: web.Request) -> web.Response:
        """The log from the entry after ``?after=SEQ``; also by ``kind`` (or kinds), ``shop`` and ``key``."""
        after = request.query.get("after", "0")
        if not after.isdigit():
            raise web.HTTPUnprocessableEntity(text=f"after: expected a number, got {after!r}")
        kinds = set(filter(None, request.query.get("kind", "").split(",")))
        if kinds - set(LogKind):
            raise web.HTTPUnprocessableEntity(text=f"kind: {kinds}; known are {', '.join(LogKind)}")
        wanted = {name: request.query[name] for name in ("shop", "key") if name in request.query}
        entries = [
            entry
            for entry in self._world.log[int(after) :]
            if (not kinds or entry.kind in kinds)
            and all(getattr(entry, name) == value for name, value in wanted.items())
        ]
        return _json({"entries": entries, "last": len(self._world.log)})

    async def subscriptions(self, request: web.Request) -> web.Response:
        """Every webhook subscription of every shop, those of the app's configuration too."""
        found = [
            {"shop": domain, **msgspec.to_builtins(each)}
            for domain, shop in self._world.shops.items()
            for each in shop.subscriptions.values()
        ]
        return _json({"subscriptions": found})

    async def pending(self, request: web.Request) -> web.Response:
        """Webhooks under way; ``pending`` 0 is quiet."""
        waiting = self._delivery.pending()
        return _json(
            {
                "pending": len(waiting),
                "delivered": self._delivery.delivered,
                "dropped": self._delivery.dropped,
                "webhooks": as_facts(waiting[:MAX_SHOWN]),
            }
        )

    async def buckets(self, request: web.Request) -> web.Response:
        """The cost bucket of each shop, in points; ``spent`` is since the shop has this plan."""
        rows = []
        for domain, shop in self._world.shops.items():
            bucket = self._api.bucket(shop)
            rows.append(
                {
                    "shop": domain,
                    "available": bucket.available,
                    "capacity": bucket.capacity,
                    "restore_rate": bucket.restore_rate,
                    "spent": bucket.spent,
                }
            )
        return _json({"buckets": rows})

    async def healthz(self, request: web.Request) -> web.Response:
        """It runs."""
        return _json({"status": "ok", "pid": os.getpid(), "shops": sorted(self._world.shops)})

    def _order(self, domain: str, order_id: int, hooks: list[Webhook]) -> Any:
        self._delivery.submit(hooks)
        shop = self._world.shop(domain)
        return {"order": order_fields(shop.config, shop.order(order_id))}


def _posted(kind: type[BodyT], act: Callable[[BodyT], Any]) -> Handler:
    """A handler that decodes the body, acts, and answers with JSON."""
    decoder = msgspec.json.Decoder(kind)

    async def handler(request: web.Request) -> web.Response:
        try:
            return _json(act(decoder.decode(await request.read())))
        except msgspec.ValidationError as error:
            return _json({"error": str(error)}, status=422)
        except msgspec.DecodeError as error:
            return _json({"error": f"not JSON: {error}"}, status=422)
        except NotPossible as error:
            return _json({"error": str(error)}, status=422)

    return handler


def _levels(shop: ShopState) -> list[dict[str, Any]]:
    rows = []
    for level in shop.levels.values():
        item = shop.items[level.item_id]
        rows.append(
            {
                "shop": shop.config.domain,
                "sku": item.sku,
                "item": item.id,
                "variant": item.variant_id,
                "location": level.location_id,
                "level": level_gid(level),
                "active": level.active,
                "available": level.available,
                "committed": level.committed,
                "on_hand": level.on_hand,
            }
        )
    return rows


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value), status=status, content_type="application/json", charset="utf-8"
    )
