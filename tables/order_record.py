"""What is kept of an order: what its webhooks and reads have told, and what has moved because of it."""

from __future__ import annotations

from datetime import UTC, datetime

from app.records import Disposition, Fulfillment, Instant, Record
from tables.listings import Listed

NOT_SHIPPING = frozenset({"cancelled", "error", "failure"})
"""Fulfilment statuses whose units did not leave, or came back."""

EPOCH = datetime.fromtimestamp(0, UTC)

JUST_ANSWERED = -1
"""Of ``LineState.answered_open``: an answer that the rules have not seen yet."""


GUESSED = "?"
"""Ends an entry of ``OrderRecord.unmapped`` whose location the fulfilment orders have not confirmed."""


class LineState(Record, frozen=True, kw_only=True):
    """What we know of a line, in units."""

    variant_id: int | None = None
    sku: str | None = None
    tracked: bool = False  # untracked lines move nothing
    quantity: int = 0  # the most ever ordered; Shopify counts removed units in
    fulfillable: int = 0  # of the newest snapshot
    as_of: Instant | None = None  # updated_at of the snapshot that told `fulfillable`
    removed: int = 0  # edited out, by the newest snapshot that is not cancelled
    live_as_of: Instant | None = None  # updated_at of the snapshot that told `removed`
    pin: Listed | None = None  # where the line was committed first
    assigned: dict[int, int] = {}  # open units by location id, as the fulfilment orders last told
    answered_open: int | None = None  # units that were open when they told it; None: never asked
    ordered_before: int = 0  # `quantity` then
    left_before: dict[int, int] = {}  # units that had left by then, by location id
    ended_before: int = 0  # fulfilments of the line that had been cancelled by then


class RefundLineState(Record, frozen=True, kw_only=True):
    """A refund line with what it takes from its refund."""

    refund: int
    line: int
    quantity: int
    restock_type: str
    location_id: int | None = None
    created_at: Instant
    return_id: int | None = None  # the return it pays for, whose dispositions tell what was restocked


class MovedEffect(Record, frozen=True, kw_only=True):
    """How many units an effect has moved so far, and at which place."""

    quantity: int
    at: Listed


class OrderRecord(Record, frozen=True, kw_only=True):
    """All that an order's webhooks have told, and what has moved because of it. Never expires."""

    shop: str
    order_id: int
    created_at: Instant | None = None
    updated_at: Instant | None = None  # of the newest snapshot; None: no snapshot yet
    cancelled_at: Instant | None = None
    deleted_at: Instant | None = None  # nothing can be read any more
    location_id: int | None = None
    lines: dict[str, LineState] = {}  # by line id
    fulfillments: dict[str, Fulfillment] = {}  # by fulfilment id
    refund_lines: dict[str, RefundLineState] = {}  # by refund line id
    dispositions: dict[str, Disposition] = {}  # by id; only reads tell them
    moved: dict[str, MovedEffect] = {}  # by effect name
    unmapped: list[str] = []  # "{line}@{location_id}" without a listing; with GUESSED where that is a guess
    noticed_at: Instant | None = None  # a change by then that we know of, but not what it was
    notices: int = 0  # how many; tells a read asked before a notice from one asked after
    unread: bool = False  # a change that no webhook's snapshot tells (a return): only a read will do
    read_wanted: str = ""  # why the order must be read; empty: no need
    read_done: Instant | None = None  # updated_at of the newest read
    routing_notices: int = 0  # how often its fulfilment orders were said to have changed
    routing_answered: int = 0  # the notices that were there when they were last asked for
    routing_wanted: bool = False  # its fulfilment orders must be asked for
    correlation_id: str = ""  # of the last webhook that changed the record
