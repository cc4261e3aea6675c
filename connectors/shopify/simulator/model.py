"""What a simulated shop consists of: frozen records, replaced and never changed in place.

Names follow Shopify's own. Instants are epoch seconds of the world's clock; quantities are units.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from msgspec import Struct

from app.errors import Rejected

STATES = ("available", "committed", "reserved", "damaged", "safety_stock", "quality_control", "incoming")
"""The stored quantity names; ``on_hand`` is derived (facts 2.4)."""

QuantityName = Literal[
    "available", "committed", "reserved", "damaged", "safety_stock", "quality_control", "incoming"
]
RestockType = Literal["no_restock", "cancel", "return"]
Source = Literal["web", "pos", "shopify_draft_order"]
"""An order's ``source_name``."""
FulfillmentOrderStatus = Literal["OPEN", "CLOSED", "CANCELLED"]
Disposition = Literal["RESTOCKED", "NOT_RESTOCKED", "PROCESSING_REQUIRED", "MISSING"]
"""What became of a returned unit (``ReverseFulfillmentOrderDispositionType``)."""

TOPICS = (
    "app/scopes_update", "app/uninstalled", "bulk_operations/finish",
    "fulfillments/create", "fulfillments/update",
    "fulfillment_orders/cancelled", "fulfillment_orders/merged", "fulfillment_orders/moved",
    "fulfillment_orders/order_routing_complete", "fulfillment_orders/split",
    "inventory_items/create", "inventory_items/delete", "inventory_items/update",
    "inventory_levels/connect", "inventory_levels/disconnect", "inventory_levels/update",
    "locations/activate", "locations/create", "locations/deactivate", "locations/delete", "locations/update",
    "orders/cancelled", "orders/create", "orders/delete", "orders/edited", "orders/fulfilled", "orders/paid",
    "orders/partially_fulfilled", "orders/updated",
    "products/create", "products/delete", "products/update", "refunds/create",
    "returns/approve", "returns/cancel", "returns/close", "returns/process", "returns/reopen",
    "returns/request", "returns/update", "reverse_fulfillment_orders/dispose", "shop/update",
)  # fmt: skip
"""The webhook topics that can be subscribed to here; Shopify has many more."""


class NotPossible(Rejected):
    """A shopper, a merchant or a set-up call asked for what a shop cannot do; nothing has changed."""


class ShopConfig(Struct, frozen=True, kw_only=True):
    """One simulated shop and the app's access to it. Secrets are never part of its text."""

    domain: str
    access_token: str
    webhook_secret: str
    webhook_url: str  # where every topic goes at first, see `subscribed`
    default_location_id: int  # web orders are allocated here
    client_id: str = ""  # of the app that asks for tokens; none: only the access token above
    client_secret: str = ""
    subscribed: Literal["api", "app", "none"] = "api"
    """Who made the first subscriptions: calls of the API, the app's own configuration (never listed, never
    deleted, facts 5.1), or nobody."""
    utc_offset_minutes: int = 60  # webhook timestamps are shop-local; not UTC, to catch naive readers

    def __repr__(self) -> str:
        return f"ShopConfig({self.domain!r})"


class Subscription(Struct, frozen=True, kw_only=True, gc=False):
    """Where the webhooks of one topic go."""

    id: int
    topic: str
    uri: str
    created_at: float
    updated_at: float
    by_api: bool = True  # the app's configuration made it otherwise: not listed and not deleted
    format: str = "JSON"
    include_fields: tuple[str, ...] = ()  # none: the whole body
    filter: str | None = None  # in search syntax, over the body's top fields
    name: str | None = None
    metafield_namespaces: tuple[str, ...] = ()


class Location(Struct, frozen=True, kw_only=True, gc=False):
    """A place that holds stock."""

    id: int
    name: str
    created_at: float
    active: bool = True


class Item(Struct, frozen=True, kw_only=True, gc=False):
    """An inventory item with its one variant."""

    id: int
    variant_id: int
    product_id: int
    sku: str
    tracked: bool  # untracked: sold without any stock moving
    policy: Literal["DENY", "CONTINUE"]  # CONTINUE: sold below zero
    price: str
    created_at: float
    gift_card: bool = False


class Level(Struct, frozen=True, kw_only=True, gc=False):
    """The quantities of one item at one location, in units."""

    id: int  # not the location's id: a level's GID cannot be constructed (facts 2.5)
    item_id: int
    location_id: int
    created_at: float
    updated_at: float
    active: bool = True
    available: int = 0  # may be negative (facts 2.4)
    committed: int = 0
    reserved: int = 0
    damaged: int = 0
    safety_stock: int = 0
    quality_control: int = 0
    incoming: int = 0  # outside on_hand

    @property
    def on_hand(self) -> int:
        """All units that are physically there."""
        return (
            self.available
            + self.committed
            + self.reserved
            + self.damaged
            + self.safety_stock
            + self.quality_control
        )

    def quantity(self, name: str) -> int:
        """The quantity of that name, ``on_hand`` included."""
        return int(getattr(self, name))


class Line(Struct, frozen=True, kw_only=True, gc=False):
    """A line of an order and what became of its units."""

    id: int
    item: Item
    quantity: int  # the most ever ordered: edits down and refunds leave it as it is
    fulfilled: int = 0
    removed: int = 0  # refunded, edited out or cancelled before they were fulfilled
    returned: int = 0  # refunded or given back after they were fulfilled

    @property
    def open(self) -> int:
        """Units still to be fulfilled: what the level holds as committed for this line."""
        return self.quantity - self.fulfilled - self.removed

    @property
    def current(self) -> int:
        """Units that are still part of the order."""
        return self.quantity - self.removed - self.returned


class Part(Struct, frozen=True, kw_only=True, gc=False):
    """Some units of a line, in a fulfilment."""

    id: int
    line_id: int
    quantity: int


class FulfillmentOrderPart(Struct, frozen=True, kw_only=True, gc=False):
    """Some units of a line, in a fulfilment order."""

    id: int
    line_id: int
    total: int
    remaining: int  # not fulfilled yet


class FulfillmentOrder(Struct, frozen=True, kw_only=True, gc=False):
    """Units that are to leave one location: nowhere else does Shopify tell where an order is allocated."""

    id: int
    location_id: int
    created_at: float
    updated_at: float
    status: FulfillmentOrderStatus = "OPEN"
    parts: tuple[FulfillmentOrderPart, ...]


class Fulfillment(Struct, frozen=True, kw_only=True, gc=False):
    """Units that left a location."""

    id: int
    created_at: float
    updated_at: float
    location_id: int
    parts: tuple[Part, ...]
    status: Literal["success", "cancelled"] = "success"


class Disposed(Struct, frozen=True, kw_only=True, gc=False):
    """What became of some units of a returned line."""

    id: int
    type: Disposition
    quantity: int
    location_id: int | None  # set when they were restocked
    created_at: float


class ReturnedPart(Struct, frozen=True, kw_only=True, gc=False):
    """Some units of a line, in a return (and in its one reverse fulfilment order)."""

    id: int
    line_id: int
    quantity: int
    disposed: tuple[Disposed, ...] = ()

    @property
    def undecided(self) -> int:
        """Units of which nothing became yet."""
        return self.quantity - sum(each.quantity for each in self.disposed)


class Return(Struct, frozen=True, kw_only=True, gc=False):
    """Fulfilled units that a customer gives back."""

    id: int
    reverse_id: int  # of its reverse fulfilment order
    created_at: float
    parts: tuple[ReturnedPart, ...]
    processed: bool = False


class RefundedPart(Struct, frozen=True, kw_only=True, gc=False):
    """Some units of a line, in a refund."""

    id: int
    line_id: int
    quantity: int
    restock_type: RestockType
    location_id: int | None  # null when nothing was restocked


class Refund(Struct, frozen=True, kw_only=True, gc=False):
    """Units taken out of an order."""

    id: int
    created_at: float
    parts: tuple[RefundedPart, ...]  # empty: only money went back
    return_id: int | None = None  # the return that it pays for


class Order(Struct, frozen=True, kw_only=True, gc=False):
    """An order as it is now."""

    id: int
    number: int
    created_at: float
    updated_at: float
    location_id: int | None  # set for a till's order and some drafts
    lines: tuple[Line, ...]
    source: Source = "web"
    test: bool = False
    moves: bool = True  # False: imported past the inventory (inventoryBehaviour BYPASS)
    cancelled_at: float | None = None
    fulfillment_orders: tuple[FulfillmentOrder, ...] = ()
    fulfillments: tuple[Fulfillment, ...] = ()
    refunds: tuple[Refund, ...] = ()
    returns: tuple[Return, ...] = ()

    def line(self, line_id: int) -> Line:
        """The line with that id; raises NotPossible naming both."""
        for line in self.lines:
            if line.id == line_id:
                return line
        raise NotPossible(f"order {self.id} has no line {line_id}")

    def returned(self, return_id: int) -> Return:
        """The return with that id; raises NotPossible naming both."""
        for each in self.returns:
            if each.id == return_id:
                return each
        raise NotPossible(f"order {self.id} has no return {return_id}")


class Webhook(Struct, frozen=True, kw_only=True, gc=False):
    """One event for one topic, to be delivered at least once.

    An order's body is of the moment it happened; a level's is rendered when it is sent, so that two quick
    changes both show the last value (facts 5.2).
    """

    id: str  # X-Shopify-Webhook-Id, the same for every retry and duplicate
    event_id: str  # shared by all topics of one action
    shop: str
    topic: str
    triggered_at: float
    body: bytes | None = None
    level: tuple[int, int] | None = None  # (item, location), when there is no body yet


class LogKind(StrEnum):
    """What the log tells."""

    SOLD = "sold"  # an order line was accepted
    REFUSED = "refused"  # an order was not accepted: this line had too few units
    CANCELLED = "cancelled"  # open units of a cancelled order
    FULFILLED = "fulfilled"
    UNFULFILLED = "unfulfilled"  # a fulfilment was cancelled
    REFUNDED = "refunded"
    MOVED = "moved"  # a fulfilment order went to another location
    CHANGED = "changed"  # an order was edited
    RETURNED = "returned"  # units of a return were restocked
    DELETED = "deleted"  # open units of a deleted order
    EDITED = "edited"  # changed by hand
    ACTIVATED = "activated"
    DEACTIVATED = "deactivated"
    PUSHED = "pushed"  # an entry of a mutation was applied
    REPLAYED = "replayed"  # a mutation was answered from the key store and not executed
    REQUEST = "request"  # a call of the API and what was answered
    BULK_ENDED = "bulk_ended"
    WEBHOOK_SENT = "webhook_sent"  # accepted by the receiver; `quantity` is the number of the try
    WEBHOOK_FAILED = "webhook_failed"  # one try; `quantity` is its number
    WEBHOOK_LOST = "webhook_lost"  # a fault: it never left
    WEBHOOK_DUPLICATED = "webhook_duplicated"  # a fault: another one with the same id was sent
    WEBHOOK_LATE = "webhook_late"  # a fault: it was held back
    WEBHOOK_UNWANTED = "webhook_unwanted"  # nobody subscribes to the topic, or no longer
    WEBHOOK_SAME = "webhook_same"  # left out: its fields did not change since the last one
    WEBHOOK_DROPPED = "webhook_dropped"  # given up after the last try
    SUBSCRIPTION_DELETED = "subscription_deleted"  # nothing had been accepted for too long


class LogEntry(Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """One line of the append-only log of what really happened: one event for one listing."""

    seq: int  # 1, 2, 3, ... without gaps
    kind: LogKind
    shop: str
    wall_ms: int  # epoch milliseconds
    monotonic_s: float  # for differences
    item: int | None = None
    location: int | None = None
    delta: int | None = None  # what it did to available
    available: int | None = None  # after it
    committed: int | None = None  # after it
    on_hand: int | None = None  # after it
    order: int | None = None
    line: int | None = None
    quantity: int | None = None  # units asked for or moved
    name: str = ""  # pushes: the quantity that was written
    key: str = ""  # calls and pushes: the idempotency key; webhooks: the webhook's id
    detail: str = ""  # root field or topic
    result: str = ""  # calls: "ok", the HTTP status, or the first error's code
    fault: str = ""  # the fault that struck, if any


def gid(kind: str, number: int) -> str:
    """``gid://shopify/{kind}/{number}``."""
    return f"gid://shopify/{kind}/{number}"


def level_gid(level: Level) -> str:
    """The GID of a level, which carries its item's id too (facts 2.5)."""
    return f"gid://shopify/InventoryLevel/{level.id}?inventory_item_id={level.item_id}"
