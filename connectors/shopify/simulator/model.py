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


class NotPossible(Rejected):
    """A shopper, a merchant or a set-up call asked for what a shop cannot do; nothing has changed."""


class ShopConfig(Struct, frozen=True, kw_only=True):
    """One simulated shop and the app's access to it. Secrets are never part of its text."""

    domain: str
    access_token: str
    webhook_secret: str
    webhook_url: str  # every topic goes here
    default_location_id: int  # web orders are allocated here
    utc_offset_minutes: int = 60  # webhook timestamps are shop-local; not UTC, to catch naive readers

    def __repr__(self) -> str:
        return f"ShopConfig({self.domain!r})"


class Location(Struct, frozen=True, kw_only=True):
    """A place that holds stock."""

    id: int
    name: str
    created_at: float


class Item(Struct, frozen=True, kw_only=True):
    """An inventory item with its one variant."""

    id: int
    variant_id: int
    product_id: int
    sku: str
    tracked: bool  # untracked: sold without any stock moving
    policy: Literal["DENY", "CONTINUE"]  # CONTINUE: sold below zero
    price: str
    created_at: float


class Level(Struct, frozen=True, kw_only=True):
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


class Line(Struct, frozen=True, kw_only=True):
    """A line of an order and what became of its units."""

    id: int
    item: Item
    quantity: int
    location_id: int  # where it was allocated; the webhook does not tell
    fulfilled: int = 0
    removed: int = 0  # refunded or cancelled before they were fulfilled
    returned: int = 0  # refunded after they were fulfilled

    @property
    def open(self) -> int:
        """Units still to be fulfilled: what the level holds as committed for this line."""
        return self.quantity - self.fulfilled - self.removed

    @property
    def current(self) -> int:
        """Units that are still part of the order."""
        return self.quantity - self.removed - self.returned


class Part(Struct, frozen=True, kw_only=True):
    """Some units of a line, in a fulfilment."""

    id: int
    line_id: int
    quantity: int


class Fulfillment(Struct, frozen=True, kw_only=True):
    """Units that left a location."""

    id: int
    created_at: float
    location_id: int
    parts: tuple[Part, ...]


class RefundedPart(Struct, frozen=True, kw_only=True):
    """Some units of a line, in a refund."""

    id: int
    line_id: int
    quantity: int
    restock_type: RestockType
    location_id: int | None  # null when nothing was restocked


class Refund(Struct, frozen=True, kw_only=True):
    """Units taken out of an order."""

    id: int
    created_at: float
    parts: tuple[RefundedPart, ...]


class Order(Struct, frozen=True, kw_only=True):
    """An order as it is now."""

    id: int
    number: int
    created_at: float
    updated_at: float
    location_id: int | None  # set for a till's order only
    lines: tuple[Line, ...]
    cancelled_at: float | None = None
    fulfillments: tuple[Fulfillment, ...] = ()
    refunds: tuple[Refund, ...] = ()

    def line(self, line_id: int) -> Line:
        """The line with that id; raises NotPossible naming both."""
        for line in self.lines:
            if line.id == line_id:
                return line
        raise NotPossible(f"order {self.id} has no line {line_id}")


class Webhook(Struct, frozen=True, kw_only=True):
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
    REFUNDED = "refunded"
    EDITED = "edited"  # changed by hand
    ACTIVATED = "activated"
    DEACTIVATED = "deactivated"
    PUSHED = "pushed"  # an entry of a mutation was applied
    REPLAYED = "replayed"  # a mutation was answered from the key store and not executed
    WEBHOOK_DROPPED = "webhook_dropped"  # given up after the last try


class LogEntry(Struct, frozen=True, kw_only=True, omit_defaults=True):
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
    key: str = ""  # pushes: the idempotency key
    detail: str = ""  # mutation or topic


def gid(kind: str, number: int) -> str:
    """``gid://shopify/{kind}/{number}``."""
    return f"gid://shopify/{kind}/{number}"


def level_gid(level: Level) -> str:
    """The GID of a level, which carries its item's id too (facts 2.5)."""
    return f"gid://shopify/InventoryLevel/{level.id}?inventory_item_id={level.item_id}"
