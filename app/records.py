"""The values of every public topic, as msgspec structs: one class, one wire format.

Field names of the Shopify bodies are Shopify's own (Admin webhooks, API 2026-10); decoding into
these structs is also the privacy filter, because msgspec drops every field that is not declared.
Instants are timezone-aware; quantities are integers of units.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from app.errors import UnknownSchema

Instant = Annotated[datetime, Meta(tz=True)]
Sku = Annotated[str, Meta(min_length=1, max_length=255)]
Name = Annotated[str, Meta(max_length=255)]
"""An identifier of somebody else's; bounded, because it is kept with a key for a long time."""
LocationCode = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]

MAX_QUANTITY = 1_000_000_000
"""Shopify's own bound for a quantity (facts: set accepts -1e9 to 1e9)."""

MAX_LISTINGS = 1_000
"""Of one stock key: its record must fit into one Kafka record."""

Quantity = Annotated[int, Meta(ge=-MAX_QUANTITY, le=MAX_QUANTITY)]


class Record(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Base of all wire records: immutable, defaults left out, unknown fields ignored.

    They can hold no cycle, so the garbage collector need not look at them.

    ``kw_only`` is not inherited in msgspec, so every subclass says it.
    """


# --- stock ---------------------------------------------------------------------------------


class MovementKind(StrEnum):
    """What happened, or is asked for; the arithmetic is in ``tables.stock``."""

    RECEIVED = "received"  # units came in: on_hand +q
    COMMITTED = "committed"  # an order promised units: committed +q
    RELEASED = "released"  # a promise was taken back: committed -q
    WRITTEN_OFF = "written_off"  # promised units are gone: committed -q, on_hand -q
    SHIPPED = "shipped"  # promised units left: on_hand -q, committed -q
    SOLD = "sold"  # units left without a promise before (till, marketplace): on_hand -q
    RETURNED = "returned"  # units came back: on_hand +q
    ADJUSTED = "adjusted"  # shrinkage or correction: on_hand ±q, reason required
    COUNTED = "counted"  # on_hand was q at as_of
    EXPECTED = "expected"  # a purchase order: incoming ±q
    SET_ASIDE = "set_aside"  # between available, damaged, safety_stock and quality_control


class Policy(StrEnum):
    """Whether the movement tells or asks."""

    FACT = "fact"  # it has happened: always applied
    ASK = "ask"  # it has not happened yet: applied only if the result is allowed


class State(StrEnum):
    """The states that ``set_aside`` moves units between; Shopify's quantity names."""

    AVAILABLE = "available"
    DAMAGED = "damaged"
    SAFETY_STOCK = "safety_stock"
    QUALITY_CONTROL = "quality_control"


class Cause(Record, frozen=True, kw_only=True):
    """Why a movement happened: the outside document, and the listing that sold."""

    shop: Name = ""
    order: int | None = None
    line: int | None = None
    fulfillment: int | None = None
    refund: int | None = None
    document: Name = ""
    listing: Name = ""  # "{shop}/{item}/{location_id}" of the listing whose shop moved the units itself


class Movement(Record, frozen=True, kw_only=True):
    """A fact or a request that changes the stock of one SKU at one location (topic ``stock.movements``)."""

    id: Annotated[Name, Meta(min_length=1)]
    kind: MovementKind
    sku: Sku
    location: LocationCode
    quantity: Quantity
    source: Annotated[Name, Meta(min_length=1)]
    occurred_at: Instant
    correlation_id: Name = ""
    cause: Cause = Cause()
    policy: Policy = Policy.FACT
    expected_version: int | None = None
    valid_until: Instant | None = None
    reason: Annotated[str, Meta(max_length=2_000)] = ""  # required for `adjusted`
    as_of: Instant | None = None  # required for `counted`
    adopted: Quantity | None = None  # `counted`: `cause.listing` showed so many then, `available + committed`
    shipment: Name = ""  # the inbound shipment that a `received` fulfils
    from_state: State | None = None  # `set_aside`
    to_state: State | None = None  # `set_aside`

    @property
    def key(self) -> str:
        """The partition key ``{sku}@{location}``."""
        return stock_key(self.sku, self.location)


class Level(Record, frozen=True, kw_only=True):
    """The parts of a stock level, in units. ``available`` is derived: see the property."""

    on_hand: int = 0
    committed: int = 0
    reserved: int = 0
    damaged: int = 0
    safety_stock: int = 0
    quality_control: int = 0
    incoming: int = 0  # outside on_hand

    @property
    def available(self) -> int:
        """``on_hand - committed - reserved - damaged - safety_stock - quality_control``; may be negative."""
        return (
            self.on_hand
            - self.committed
            - self.reserved
            - self.damaged
            - self.safety_stock
            - self.quality_control
        )


class Listing(Record, frozen=True, kw_only=True):
    """Where a stock key is sold: one inventory item at one location of one shop, with its channel rule."""

    shop: str
    item: int  # Shopify InventoryItem id
    variant: int  # Shopify ProductVariant id
    location_id: int  # Shopify Location id
    buffer: Annotated[int, Meta(ge=0)] = 0  # units kept back from this channel
    maximum: Annotated[int, Meta(ge=0)] | None = None  # never list more than this
    percentage: Annotated[int, Meta(ge=0, le=100)] = 100  # of what is available
    threshold: Annotated[int, Meta(ge=0)] = 0  # with so many available units or fewer, nothing is listed
    off: bool = False  # the channel is never written
    by_sku: bool = False  # it is listed because of the item's SKU, and follows it; else by hand, and stays
    generation: Annotated[int, Meta(ge=0)] = 0  # see ``tables.generations``; 0: nobody has said

    @property
    def key(self) -> str:
        """The listing's key ``{shop}/{item}/{location_id}``."""
        return listing_key(self.shop, self.item, self.location_id)


class Listings(Record, frozen=True, kw_only=True):
    """All listings of one stock key (topic ``stock.listings``)."""

    sku: Sku
    location: LocationCode
    listings: Annotated[list[Listing], Meta(max_length=MAX_LISTINGS)] = []
    updated_at: Instant | None = None
    united: int = 0  # how many changes of single listings the key has seen; 0: written as a whole


class ItemLevel(Record, frozen=True, kw_only=True):
    """What a shop has of an item at one of its locations, in units; the names are Shopify's."""

    location_id: int
    active: bool  # an inactive level sells nothing, whatever it holds
    available: int = 0
    committed: int = 0
    reserved: int = 0
    damaged: int = 0
    safety_stock: int = 0
    quality_control: int = 0

    @property
    def on_hand(self) -> int:
        """All units that are there (help.shopify.com "Inventory states")."""
        held = self.reserved + self.damaged + self.safety_stock + self.quality_control
        return self.available + self.committed + held


class ShopItem(Record, frozen=True, kw_only=True):
    """An inventory item of a shop as it was read, with its levels."""

    item: int
    sku: str = ""
    tracked: bool = True  # an untracked item is sold without counting
    variants: tuple[int, ...] = ()  # usually one; an item can be shared since API 2026-01
    levels: tuple[ItemLevel, ...] = ()


class ListingChange(Record, frozen=True, kw_only=True):
    """One listing added to a stock key, or taken from it (topic ``stock.listing-changes``).

    The listings of a key are one record, and shops change without knowing of each other: the owner of the
    key unites their changes.
    """

    sku: Sku
    location: LocationCode
    listing: Listing
    removed: bool = False
    reason: Annotated[str, Meta(max_length=2_000)] = ""
    correlation_id: Name = ""

    @property
    def key(self) -> str:
        """The stock key ``{sku}@{location}``."""
        return stock_key(self.sku, self.location)


class Moved(Record, frozen=True, kw_only=True):
    """Running totals, in units, of what one listing's own shop did itself."""

    committed: int = 0  # units that the listing's open orders hold now
    physical_total: int = 0  # -fulfilled -written off +restocked +imported, since ever
    imported_total: int = 0  # units of hand edits in the shop that were taken as adjustments, since ever
    adopted: int | None = None  # `available + committed` less `physical_total`, as of the key's opening
    unopened: list[tuple[int, int]] = []  # as StockRecord.history, of this listing, until the key is opened


NO_HISTORY = Raw(b"[]")
"""The history of a key is kept as JSON: only a count reads it, and every change would decode all of it."""


class StockRecord(Record, frozen=True, kw_only=True):
    """The state of one stock key; the changelog of table ``stock`` is the public topic ``stock.levels``."""

    level: Level = Level()
    version: int = 0  # grows by one with each change of this record
    opened_at: Instant | None = None  # nothing is published before a key is opened by a count
    history: Raw = NO_HISTORY  # [[occurred_at in epoch ms, on_hand delta], ...], newest last, bounded
    history_since: int = 0  # epoch ms; physical effects at or before this are not kept
    counted_as_of: int = 0  # epoch ms; physical effects at or before this are in the last count
    listings: list[Listing] = []
    moved: dict[str, Moved] = {}  # by listing key
    recent_orders: list[str] = []  # "{shop}/{order}" of the last commits, newest last, for alerts
    occurred_at: Instant | None = None  # of the fact behind the last change
    updated_at: Instant | None = None
    correlation_id: str = ""  # of the last change


class Result(StrEnum):
    """What became of a movement."""

    APPLIED = "applied"  # the level changed as told
    DUPLICATE = "duplicate"  # the id was applied before; nothing changed
    REJECTED = "rejected"  # not allowed; nothing changed; the reason says why
    CORROBORATED = "corroborated"  # told by a source that is not the authority here; no stock moved


class Outcome(Record, frozen=True, kw_only=True):
    """What became of one movement, immutable (topic ``stock.ledger``)."""

    movement: Movement
    result: Result
    version: int
    before: Level
    after: Level
    reason: str = ""
    oversold: int = 0  # units by which this movement took an opened key (further) below zero
    origin: str = ""  # "{topic}/{partition}/{offset}" of the movement's record


class AlertKind(StrEnum):
    """What a stock alert says."""

    LOW = "low"  # available fell to the low-water mark or below
    OUT = "out"  # available fell to zero or below
    BACK = "back"  # available rose above zero again
    OVERSOLD = "oversold"  # available fell below zero, or further below


class Alert(Record, frozen=True, kw_only=True):
    """A threshold that a key crossed (topic ``stock.alerts``)."""

    kind: AlertKind
    sku: str
    location: str
    available: int
    version: int
    units: int = 0  # oversold: how many units this movement added to the shortage
    orders: list[str] = []  # oversold: "{shop}/{order}", the newest last
    movement: str = ""
    occurred_at: Instant | None = None
    correlation_id: str = ""


class Target(Record, frozen=True, kw_only=True):
    """What a listing should show, with what its own shop moved itself (topic ``shopify.targets``)."""

    shop: str
    item: int
    location_id: int
    sku: str
    location: str
    available: int  # of the stock key; negative when oversold
    wanted: int  # after the channel rule; never negative
    committed: int  # running total: see Moved
    physical_total: int  # running total: see Moved
    version: int  # of the stock record; a lower one than known is old
    generation: int = 0  # of the listing; of two stock keys that speak of a listing the higher one has it
    imported_total: int = 0  # running total: see Moved
    adopted: int | None = None  # see Moved: the writer begins with it instead of a read
    off: bool = False  # never written: see Listing
    occurred_at: Instant | None = None  # of the fact behind it
    updated_at: Instant | None = None
    correlation_id: str = ""

    @property
    def key(self) -> str:
        """The listing's key ``{shop}/{item}/{location_id}``."""
        return listing_key(self.shop, self.item, self.location_id)

    @property
    def record_key(self) -> str:
        """The key of the target's record, ``{listing}/{stock key}``: the topic is compacted, and what two
        stock keys say of a listing must not replace each other.
        """
        return f"{self.key}/{stock_key(self.sku, self.location)}"


class LevelRead(Record, frozen=True, kw_only=True):
    """What a shop says it has of an item at a location, in units; all zero where it never had a level."""

    available: int = 0
    committed: int = 0
    active: bool = True  # an inactive level is written without an error, and sells nothing
    tracked: bool = True  # whether the shop counts the item at all
    updated_at: str = ""  # the level's own, as the shop writes it: equal while nothing has changed
    changed_ms: int = 0  # when the shop last changed what is available, epoch

    @property
    def units(self) -> int:
        """``available + committed``: what placing and cancelling orders does not change."""
        return self.available + self.committed

    @property
    def exists(self) -> bool:
        """Whether the shop has, or had, such a level."""
        return bool(self.updated_at)


class PushResult(StrEnum):
    """What became of one entry of one write to a shop."""

    ACKNOWLEDGED = "acknowledged"  # the shop applied it (or it was a no-op)
    REFUSED = "refused"  # a definitive user error named this entry
    SPLIT = "split"  # another entry of the call was refused; this one goes again under a new key
    EXPIRED = "expired"  # the intent was too old to resend; the listing is read again
    NOT_EXECUTED = "not_executed"  # the shop took nothing of the call; it goes again under a new key
    STALE = "stale"  # a correction whose reading is not true any more; nothing was written
    SHADOW = "shadow"  # the shop or location is in shadow mode: this would have been sent


class Push(Record, frozen=True, kw_only=True):
    """The result of one entry of one write (topic ``shopify.pushes``)."""

    shop: str
    item: int
    location_id: int
    delta: int
    wanted: int
    intent: str
    result: PushResult
    attempts: int = 1
    error: str = ""
    target_version: int = 0
    occurred_at: Instant | None = None  # of the oldest fact that the write carries out
    updated_at: Instant | None = None  # when the answer was taken
    correlation_id: str = ""  # of the target that the write carries out


class DriftClass(StrEnum):
    """Why a shop has something else than we believe or want; the evidence is in ``tables.drift``."""

    PUSH_IN_FLIGHT = "push_in_flight"  # our own write is not acknowledged yet, or waits
    ORDER_IN_FLIGHT = "order_in_flight"  # orders hold other units than those we have heard of
    UNMAPPED = "unmapped"  # listing and level do not go together: one is missing, or the shop refuses it
    INACTIVE = "inactive"  # the shop does not sell from this level, whatever it holds
    LATE_WEBHOOK = "late_webhook"  # the shop moved units so recently that it may tell us yet
    MERCHANT_EDIT = "merchant_edit"  # somebody else than us and orders changed the level
    UNEXPLAINED = "unexplained"  # none of these: our books are wrong, or an edit was not told
    NONE = "none"  # the difference is gone


class Drift(Record, frozen=True, kw_only=True):
    """A difference between a listing and its shop (topic ``shopify.drift``), in units."""

    shop: str
    item: int
    location_id: int
    kind: DriftClass = msgspec.field(name="class")
    found_at: Instant
    since: Instant  # when this difference was first found
    by: str  # who found it: "sweep", "sample" or "writer"
    sku: str = ""
    location: str = ""
    wanted: int | None = None  # what it should show; None: no listing of ours
    believed: int | None = None  # what we think it shows; None: not read yet, or no listing
    actual: int | None = None  # its available; None: the shop has no such level
    units_off: int = 0  # actual available + committed, less what we believe of it
    committed_off: int = 0  # actual committed, less what we believe of it
    detail: str = ""
    hops: int = 0  # corrections that were asked for; it survives that the difference is gone for a day
    corrected_at: Instant | None = None  # when the last one was asked for
    edited: bool = False  # the shop was once seen to have changed it after all that we know of

    @property
    def key(self) -> str:
        """The listing's key ``{shop}/{item}/{location_id}``."""
        return listing_key(self.shop, self.item, self.location_id)

    @property
    def age_s(self) -> float:
        """For how long the difference has been there, in seconds."""
        return (self.found_at - self.since).total_seconds()


class Correction(Record, frozen=True, kw_only=True):
    """What to do about a listing that shows something unexplained (topic ``shopify.corrections``).

    It is carried out by the writer, in the listing's own order of events, and only while what it was
    decided from still holds.
    """

    shop: Name
    item: int
    location_id: int
    id: Annotated[Name, Meta(min_length=1)]  # deterministic; at most one write is made of it
    action: Literal["reread", "set", "look"]
    """Drop the belief and read again; write an absolute value; or read as if the shop had told of a level
    that nothing explains, and follow its policy about hand edits.
    """
    available: Quantity = 0  # `set`: the value read twice, and compared by the shop
    units: Quantity = 0  # `set`: available + committed of the same reading
    physical_total: int = 0  # of the belief when it was read
    target_version: int = 0  # of the belief when it was read
    hops: Annotated[int, Meta(ge=0)] = 0  # corrections of this listing that led to this one
    expires_at: Instant
    reason: Annotated[str, Meta(max_length=2_000)] = ""
    correlation_id: Name = ""

    @property
    def key(self) -> str:
        """The listing's key ``{shop}/{item}/{location_id}``."""
        return listing_key(self.shop, self.item, self.location_id)


class Control(Record, frozen=True, kw_only=True):
    """What the writer shall do with a shop, as an operator or the receiver asks (``shopify.controls``)."""

    shop: Name
    action: Literal["resume", "pause"]  # write again to a shop that was paused; or stop, and keep its work
    requested_at: Instant
    reason: Annotated[str, Meta(max_length=2_000)] = ""
    left_at: Instant | None = None  # a pause: when the shop says it took our access away; None: asked for


class Redaction(Record, frozen=True, kw_only=True):
    """Forget what the tables of one lane hold of a shop (topic ``shopify.redactions``)."""

    shop: Annotated[str, Meta(min_length=1, max_length=255)]
    nonce: int  # makes the key hash to the partition of the lane
    requested_at: Instant

    @property
    def key(self) -> str:
        """The key ``{shop}/{nonce}``."""
        return f"{self.shop}/{self.nonce}"


# --- webhooks ------------------------------------------------------------------------------


class Envelope(Record, frozen=True, kw_only=True):
    """One webhook, or one read that stands for it (topics ``shopify.orders``, ``.levels``, ``.catalog``)."""

    shop: str
    topic: str  # Shopify's topic, e.g. "orders/create"; "orders/read" for a fetched order
    webhook_id: str = ""
    event_id: str = ""
    triggered_at: Instant | None = None
    received_at: Instant
    api_version: str = ""
    oversized: bool = False  # the body was over the limit: fetch the order named in `order_id`
    order_id: int | None = None
    body: Raw = Raw(b"null")  # the declared fields of the body, as JSON


class OrderLine(Record, frozen=True, kw_only=True):
    """A line of an order, as Shopify's order webhooks carry it."""

    id: int
    quantity: int
    current_quantity: int | None = None
    fulfillable_quantity: int | None = None
    variant_id: int | None = None
    sku: str | None = None
    variant_inventory_management: str | None = None  # null: untracked, moves nothing


class FulfillmentLine(Record, frozen=True, kw_only=True):
    """How many units of a line a fulfilment carries."""

    id: int
    quantity: int


class Fulfillment(Record, frozen=True, kw_only=True):
    """A fulfilment of an order."""

    id: int
    created_at: Instant
    status: str | None = None  # success, cancelled, error, failure, pending, open
    location_id: int | None = None
    updated_at: Instant | None = None
    line_items: list[FulfillmentLine] = []


class RefundLine(Record, frozen=True, kw_only=True):
    """A refunded line: how many units, and whether and where they were restocked."""

    id: int | None = None  # webhooks give one; in the schema of reads it may be null
    line_item_id: int
    quantity: int
    restock_type: str = "no_restock"  # no_restock, cancel, return, legacy_restock
    location_id: int | None = None


class ReturnRef(Record, frozen=True, kw_only=True):
    """The return that a refund pays for."""

    id: int | None = None


class Refund(Record, frozen=True, kw_only=True):
    """A refund of an order (``refunds/create``, or inside an order)."""

    id: int
    order_id: int
    created_at: Instant
    refund_line_items: list[RefundLine] = []
    of_return: ReturnRef | int | None = msgspec.field(name="return", default=None)

    @property
    def return_id(self) -> int | None:
        """The id of the return that it pays for."""
        return self.of_return.id if isinstance(self.of_return, ReturnRef) else self.of_return


class Disposition(Record, frozen=True, kw_only=True):
    """What became of some returned units of a line; only reads tell it."""

    id: int
    return_id: int
    line_item_id: int
    restocked: bool = False  # else not (yet), or the units are missing
    quantity: int
    location_id: int | None = None  # where it was restocked
    created_at: Instant


class Routing(Record, frozen=True, kw_only=True):
    """Where an order is to leave from: units of its fulfilment orders by line id and location id (a read)."""

    order_id: int
    open: dict[str, dict[int, int]] = {}  # still to be fulfilled
    cancelled: dict[str, dict[int, int]] = {}  # in fulfilment orders that were cancelled


class Order(Record, frozen=True, kw_only=True):
    """An order snapshot (``orders/create|updated|cancelled|fulfilled``, or read)."""

    id: int
    created_at: Instant
    updated_at: Instant
    cancelled_at: Instant | None = None
    location_id: int | None = None
    test: bool = False
    source_name: str | None = None
    line_items: list[OrderLine] = []
    fulfillments: list[Fulfillment] = []
    refunds: list[Refund] = []


class ReadOrder(Order, frozen=True, kw_only=True):
    """An order as it was read: with what became of its returned units, which no webhook of it tells."""

    dispositions: list[Disposition] = []


class OrderNotice(Record, frozen=True, kw_only=True):
    """That an order had changed by an instant, and hardly how (topic ``orders/seen``: a catch-up)."""

    id: int
    updated_at: Instant
    created_at: Instant | None = None
    cancelled_at: Instant | None = None
    fulfillment_status: str = ""  # Shopify's OrderDisplayFulfillmentStatus; empty: not told
    units: int | None = None  # of lines that are paid for, less what was refunded, edited out or cancelled
    fulfillments: int | None = None  # cancelled ones included


class OrderDeleted(Record, frozen=True, kw_only=True):
    """``orders/delete``: nothing but the id."""

    id: int


class EditedLine(Record, frozen=True, kw_only=True):
    """A line and by how much an edit changed it."""

    id: int
    delta: int


class EditedLines(Record, frozen=True, kw_only=True):
    """The lines an edit added to and removed from."""

    additions: list[EditedLine] = []
    removals: list[EditedLine] = []


class OrderEdit(Record, frozen=True, kw_only=True):
    """The body of ``orders/edited``: only deltas, so the order is read again."""

    id: int
    order_id: int
    committed_at: Instant | None = None
    line_items: EditedLines = EditedLines()


class OrderEdited(Record, frozen=True, kw_only=True):
    """The wrapper that Shopify puts around an edit."""

    order_edit: OrderEdit


class LevelChange(Record, frozen=True, kw_only=True):
    """``inventory_levels/update|connect|disconnect``: a notice; the value is of send time."""

    inventory_item_id: int
    location_id: int
    available: int | None = None
    updated_at: Instant | None = None


class CatalogRef(Record, frozen=True, kw_only=True):
    """Another object that a catalog webhook names."""

    id: int | str | None = None
    sku: str | None = None
    status: str | None = None
    inventory_item_id: int | None = None
    assigned_location_id: int | str | None = None
    quantity: int | None = None


class ObjectRef(Record, frozen=True, kw_only=True):
    """An object that a webhook is about."""

    id: int | str | None = None


class CatalogChange(Record, frozen=True, kw_only=True):
    """Any other webhook (topic ``shopify.catalog``): which object changed, nothing about persons."""

    id: int | str | None = None
    admin_graphql_api_id: str | None = None
    updated_at: str | None = None
    sku: str | None = None
    tracked: bool | None = None
    active: bool | None = None
    status: str | None = None
    order_id: int | str | None = None
    inventory_item_id: int | None = None
    location_id: int | None = None
    destination_location_id: int | str | None = None
    current: list[str] | None = None  # app/scopes_update
    previous: list[str] | None = None
    variants: list[CatalogRef] | None = None
    source_location: CatalogRef | None = None
    order: ObjectRef | None = None  # returns/*
    fulfillment_order: CatalogRef | None = None
    remaining_fulfillment_order: CatalogRef | None = None
    original_fulfillment_order: CatalogRef | None = None
    moved_fulfillment_order: CatalogRef | None = None
    fulfillment_order_line_items_requested: list[CatalogRef] | None = None


class PrivacyRequest(Record, frozen=True, kw_only=True):
    """``customers/data_request``, ``customers/redact`` and ``shop/redact``: what it is about, not whom.

    The field names are those of shopify.dev "Privacy law compliance".
    """

    shop_id: int | None = None
    orders_requested: list[int] = []
    orders_to_redact: list[int] = []
    data_request: CatalogRef | None = None

    @property
    def orders(self) -> list[int]:
        """The customer's orders that are named."""
        return [*self.orders_requested, *self.orders_to_redact]


# --- dead letters --------------------------------------------------------------------------


class DeadLetter(Record, frozen=True, kw_only=True):
    """A record that could not be used, with its origin (topics ``dead-letters.{service}``)."""

    service: str
    topic: str
    partition: int
    offset: int
    error: str  # the error's class name
    message: str
    headers: dict[str, str] = {}
    key: str = ""  # base64 of the key's bytes
    value: str = ""  # base64 of the value's bytes
    failed_at: Instant | None = None


SCHEMAS: dict[type[Record], str] = {
    Movement: "movement/1",
    Listings: "listings/1",
    ListingChange: "listing-change/1",
    StockRecord: "level/1",
    Outcome: "outcome/1",
    Alert: "alert/1",
    Target: "target/1",
    Push: "push/1",
    Drift: "drift/1",
    Correction: "correction/1",
    Control: "control/1",
    Redaction: "redaction/1",
    Envelope: "webhook/1",
    DeadLetter: "dead-letter/1",
}
"""The value of the ``schema`` header: record name and major version."""

_SCHEMA_HEADERS = {kind: ("schema", name.encode()) for kind, name in SCHEMAS.items()}


def stock_key(sku: str, location: str) -> str:
    """``{sku}@{location}``; the last ``@`` separates, because a location code cannot contain one."""
    return f"{sku}@{location}"


def split_stock_key(key: str) -> tuple[str, str]:
    """The SKU and the location code of a stock key; raises ValueError without an ``@``."""
    sku, separator, location = key.rpartition("@")
    if not separator:
        raise ValueError(f"not a stock key: {key!r} has no '@'")
    return sku, location


def listing_key(shop: str, item: int, location_id: int) -> str:
    """``{shop}/{item}/{location_id}``."""
    return f"{shop}/{item}/{location_id}"


def listing_parts(listing: str) -> tuple[str, int, int]:
    """The shop, the inventory item id and the location id of a listing's key."""
    shop, item, location_id = listing.rsplit("/", 2)
    return shop, int(item), int(location_id)


def shop_of(key: bytes) -> bytes:
    """The part before the first ``/`` of a key: where that alone is hashed, all of a shop is one lane."""
    return key.partition(b"/")[0]


Headers = Sequence[tuple[str, bytes | None]]
"""The headers of a fetched record: another client may send one without a value."""

_encoder = msgspec.json.Encoder()


def encode(record: Any) -> bytes:
    """The JSON bytes of a record."""
    return _encoder.encode(record)


def headers(record: Record, correlation_id: str) -> list[tuple[str, bytes]]:
    """The Kafka headers of a record: its schema and the correlation id it carries from the first webhook."""
    return [_SCHEMA_HEADERS[type(record)], ("correlation_id", correlation_id.encode())]


def correlation_of(record_headers: Headers) -> str:
    """The correlation id in a record's headers, or an empty string."""
    for name, value in record_headers:
        if name == "correlation_id":
            return (value or b"").decode(errors="replace")
    return ""


def check_schema(record_headers: Headers, expected: type[Record]) -> None:
    """Refuse a record of another type or of a newer major version; a record without the header passes.

    Raises:
        UnknownSchema: naming both the expected and the found schema.
    """
    for name, value in record_headers:
        if name == "schema":
            if value != _SCHEMA_HEADERS[expected][1]:
                _check_major((value or b"").decode(errors="replace"), SCHEMAS[expected])
            return


def _check_major(found: str, expected: str) -> None:
    name, _, major = expected.partition("/")
    found_name, _, found_major = found.partition("/")
    if found and (found_name != name or not found_major.isdigit() or int(found_major) > int(major)):
        raise UnknownSchema(f"schema header: expected {expected} or older, found {found!r}")
