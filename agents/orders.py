"""The orders agent: webhooks of orders in, the movements that are still missing out.

What a webhook says is united with what is known of its order (``tables.orders``). Two things can be missing
for that: the listing of a line (the order waits for it) and facts that only a read tells, of the order or of
its fulfilment orders (readers get them). Both are kept in tables, so that a restart goes on with them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import partial
from typing import Any

import msgspec
import structlog
from prometheus_client import Counter

from agents.listings import ListingFollower
from agents.order_lookups import OrderLookups
from agents.order_routing import Answers, RoutingReader
from agents.shop_queues import ShopQueues
from agents.source import payload_of
from app.errors import Rejected, Retry, Unmapped
from app.exactly_once import App, Lane, SourceRecord, Table, Transaction
from app.records import (
    Envelope,
    Order,
    OrderDeleted,
    OrderEdited,
    OrderNotice,
    ReadOrder,
    Record,
    Refund,
    correlation_of,
    encode,
    headers,
)
from connectors.shopify.changed_orders import READ_TOPIC, SEEN_TOPIC
from connectors.shopify.client import Misshapen, ShopClients
from connectors.shopify.webhooks import RETURN_TOPICS, ROUTING_TOPICS
from tables.catch_up import SETTLE
from tables.listings import ListingDirectory
from tables.order_record import OrderRecord
from tables.order_upgrade import ORDERS_VERSION, upgraded
from tables.orders import (
    evaluate,
    take_deleted,
    take_missing,
    take_notice,
    take_order,
    take_refund,
    take_routing,
    take_routing_notice,
    take_seen,
    waiting_refs,
)

READS_AT_ONCE = 4
"""Of one lane and shop: reads share the shop's budget with the writer."""
WAITING_ORDERS = 500
"""Evaluated again in one transaction when a mapping appears."""

MISSED = Counter("skustream_orders_missed_total", "Changes of orders of which no webhook had told", ["shop"])
ROUTING = "routing"
"""Why an order is in table ``reads`` of which only the fulfilment orders are wanted."""
ROUTING_TOPIC = "orders/routing"
"""What stands for a webhook's topic in a dead letter that an answer about fulfilment orders led to."""

log = structlog.get_logger(__name__)
decode_envelope = msgspec.json.Decoder(Envelope).decode
decode_order = msgspec.json.Decoder(Order).decode
decode_read = msgspec.json.Decoder(ReadOrder).decode
decode_refund = msgspec.json.Decoder(Refund).decode
decode_notice = msgspec.json.Decoder(OrderNotice).decode
decode_deleted = msgspec.json.Decoder(OrderDeleted).decode
decode_edited = msgspec.json.Decoder(OrderEdited).decode


class Waiting(Record, frozen=True, kw_only=True):
    """An order with lines that nobody has mapped (table ``unmapped``)."""

    refs: tuple[str, ...]  # the listings it waits for


class WantedRead(Record, frozen=True, kw_only=True):
    """An order that must be read, or its fulfilment orders (table ``reads``)."""

    reason: str
    misshapen: str = ""  # what was wrong with the answer, when that has been told
    refused: str = ""  # why the shop would not answer, when that has been told


Found = Order | Rejected | None
"""What a read brought; None: the shop has no such order."""


def register(app: App, clients: ShopClients) -> None:
    """Declare the agent's tables, topic and agent on a service."""
    keeper = OrderKeeper(app, clients)
    webhooks = app.batch_topic("shopify.orders")

    @app.agent(webhooks, name="keep")  # type: ignore[untyped-decorator]  # faust ships no types
    async def keep(batches: Any) -> None:
        async for batch in batches:
            await app.process(batch, keeper.take)


class OrderKeeper:
    """Decides webhooks, reads and new mappings over the tables ``orders``, ``unmapped`` and ``reads``."""

    def __init__(self, app: App, clients: ShopClients) -> None:
        self.orders: Table[OrderRecord] = app.state_table(
            "orders", OrderRecord, version=ORDERS_VERSION, upgrade=upgraded
        )
        self.unmapped: Table[Waiting] = app.state_table("unmapped", Waiting)
        self.reads: Table[WantedRead] = app.state_table("reads", WantedRead)
        self._app = app
        self._shops = clients.shops
        self._listings = ListingFollower(app, ListingDirectory(), self._mapped)
        self._waiting: dict[Lane, dict[bytes, tuple[str, ...]]] = {}
        self._reader = OrderReader(app, clients, self)
        self._router = RoutingReader(app, clients, self.unrouted, self.routed)
        self._lookups = OrderLookups(app, clients)
        app.on_lane_opened(self._open)
        app.on_lane_closed(self._close)
        app.on_stopped(clients.close)

    def take(self, transaction: Transaction, source: SourceRecord) -> None:
        """Unite a webhook with its order and emit what is missing."""
        envelope = decode_envelope(payload_of(source, Envelope))
        if source.key is None:
            raise Rejected(f"{source.topic}: expected a webhook's key, got none")
        if envelope.shop not in self._shops:
            raise Rejected(f"the shops file (SKUSTREAM_SHOPS_FILE) has no shop {envelope.shop}")
        if envelope.order_id is None and source.key.count(b"/") == 2:
            self._lookups.take(transaction, source.key, envelope, correlation_of(source.headers))
            return
        known = transaction.get(self.orders, source.key)
        record = united(known, envelope)
        if source.key != key_of(record):
            raise Rejected(f"{source.topic}: the body is about {key_of(record)!r}, the key is {source.key!r}")
        if envelope.topic == SEEN_TOPIC and record is not known and _is_old(envelope):
            transaction.after_commit(MISSED.labels(envelope.shop).inc)
        self._settle(transaction, known, record, source, correlation_of(source.headers))

    def unread(self, transaction: Transaction, keys: Iterable[bytes]) -> dict[bytes, OrderRecord]:
        """Those of the orders that must (still) be read."""
        found = {key: transaction.get(self.orders, key) for key in keys}
        return {key: record for key, record in found.items() if record is not None and record.read_wanted}

    def answers(
        self, transaction: Transaction, found: Mapping[bytes, Found], asked: Mapping[bytes, OrderRecord]
    ) -> set[bytes]:
        """Take what reads brought; the keys for which it was enough, or all that there will be."""
        enough = set()
        for key, order in found.items():
            if isinstance(order, Rejected):
                self._tell_unreadable(transaction, key, order, asked[key].correlation_id)
                if isinstance(order, Misshapen):
                    enough.add(key)
            elif self._answer(transaction, key, order, asked[key]):
                enough.add(key)
            transaction.keep()
        return enough

    def _answer(self, transaction: Transaction, key: bytes, order: Order | None, asked: OrderRecord) -> bool:
        """Take the answer of a read that was asked when the order was ``asked``; whether it was enough."""
        known = transaction.get(self.orders, key)
        if known is None:
            return True
        # A change that was noticed after the question may not be in the answer.
        current = known.notices == asked.notices
        if order is not None:
            record = take_order(known, known.shop, order, read=current)
        else:
            record = take_missing(known)
        source = SourceRecord.stand_in(READ_TOPIC, transaction.now_ms, key, encode(order))
        return not self._settle(transaction, known, record, source, known.correlation_id).read_wanted

    def _tell_unreadable(
        self, transaction: Transaction, key: bytes, error: Rejected, correlation_id: str
    ) -> None:
        """Tell it once; the order stays in ``reads``.

        A refused question is asked again and again; a misshapen answer is not asked for before the order's
        next webhook, or a restart.
        """
        wanted = transaction.get(self.reads, key)
        misshapen = isinstance(error, Misshapen)
        if wanted is None or (wanted.misshapen == str(error) if misshapen else wanted.refused):
            return
        log.error(
            "an order cannot be read", order=key.decode(), error=str(error), correlation_id=correlation_id
        )
        told = {"misshapen" if misshapen else "refused": str(error)}
        transaction.put(self.reads, key, msgspec.structs.replace(wanted, **told))
        source = SourceRecord.stand_in(READ_TOPIC, transaction.now_ms, key)
        letter = self._app.dead_letter(source, error, transaction.now_ms)
        transaction.emit(f"dead-letters.{self._app.service}", key, letter.value, letter.headers)

    def unrouted(self, transaction: Transaction, keys: Iterable[bytes]) -> dict[bytes, OrderRecord]:
        """Those of the orders whose fulfilment orders must (still) be asked for."""
        found = {key: transaction.get(self.orders, key) for key in keys}
        return {key: record for key, record in found.items() if record is not None and record.routing_wanted}

    def routed(self, transaction: Transaction, answers: Answers) -> None:
        """Take what the fulfilment orders of some orders say."""
        for key, (routing, asked) in answers.items():
            known = transaction.get(self.orders, key)
            if known is not None:
                record = take_routing(known, routing, asked)
                source = SourceRecord.stand_in(ROUTING_TOPIC, transaction.now_ms, key, encode(routing))
                self._settle(transaction, known, record, source, known.correlation_id)
            transaction.keep()

    def _settle(
        self,
        transaction: Transaction,
        known: OrderRecord | None,
        record: OrderRecord,
        source: SourceRecord,
        correlation_id: str,
    ) -> OrderRecord:
        """Evaluate, emit and remember; returns the record as it is now."""
        version = self._listings.version
        record, movements, newly_unmapped = evaluate(
            record,
            self._listings.directory,
            default_location_id=self._shops[record.shop].default_location_id,
            correlation_id=correlation_id,
            routed=self._shops[record.shop].order_locations == "read",
        )
        if record == known:
            return record
        record = msgspec.structs.replace(record, correlation_id=correlation_id)
        key = key_of(record)
        transaction.put(self.orders, key, record)
        for movement in movements:
            head = headers(movement, correlation_id)
            transaction.emit("stock.movements", movement.key.encode(), encode(movement), head)
            log.debug(
                "an order moves stock",
                order=key.decode(),
                movement=movement.id,
                key=movement.key,
                correlation_id=correlation_id,
            )
        for place in newly_unmapped:
            self._tell_unmapped(transaction, record, place, source)
        self._note_waiting(transaction, key, known, record, version)
        self._note_read(transaction, key, known, record)
        return record

    def _tell_unmapped(
        self, transaction: Transaction, record: OrderRecord, place: str, source: SourceRecord
    ) -> None:
        line_id, _, location_id = place.partition("@")
        line = record.lines[line_id]
        error = Unmapped(
            f"order {record.shop}/{record.order_id}: line {line_id} (variant {line.variant_id}, SKU "
            f"{line.sku!r}) has no listing at location {location_id}; it counts once stock.listings has one"
        )
        letter = self._app.dead_letter(source, error, transaction.now_ms)
        topic = f"dead-letters.{self._app.service}"
        transaction.emit(topic, key_of(record), letter.value, letter.headers)

    def _note_waiting(
        self,
        transaction: Transaction,
        key: bytes,
        known: OrderRecord | None,
        record: OrderRecord,
        version: int,
    ) -> None:
        refs = tuple(waiting_refs(record))
        if refs:
            transaction.put(self.unmapped, key, Waiting(refs=refs))
        elif known is not None and known.unmapped:
            transaction.delete(self.unmapped, key)
        else:
            return
        transaction.after_commit(partial(self._wait, transaction.lane, key, refs, version))

    def _note_read(
        self, transaction: Transaction, key: bytes, known: OrderRecord | None, record: OrderRecord
    ) -> None:
        reason = _read_reason(record)
        if reason:
            wanted = transaction.get(self.reads, key)
            if wanted is None or wanted.reason != reason:
                transaction.put(self.reads, key, WantedRead(reason=reason))
        elif known is not None and _read_reason(known):
            transaction.delete(self.reads, key)
        if record.read_wanted:
            transaction.after_commit(partial(self._reader.queues.want, transaction.lane, key))
        if record.routing_wanted:
            transaction.after_commit(partial(self._router.want, transaction.lane, key))

    # -- orders that wait for a mapping --------------------------------------------------------

    def _open(self, lane: Lane) -> None:
        self._waiting[lane] = {key: waiting.refs for key, waiting in lane.scan(self.unmapped)}
        # Listings may have come while nobody looked.
        self._evaluate_again(lane, list(self._waiting[lane]))
        reads = list(lane.scan(self.reads))
        self._reader.queues.open(lane, [key for key, wanted in reads if wanted.reason != ROUTING])
        self._router.open(lane, [key for key, _ in reads])
        self._lookups.open(lane)

    def _close(self, lane: Lane) -> None:
        self._waiting.pop(lane, None)
        self._reader.queues.close(lane)
        self._router.close(lane)
        self._lookups.close(lane)

    def _wait(self, lane: Lane, key: bytes, refs: tuple[str, ...], version: int) -> None:
        waiting = self._waiting.get(lane)
        if waiting is None:
            return
        waiting.pop(key, None)
        if refs:
            waiting[key] = refs
            if version != self._listings.version:  # a listing came between the decision and its commit
                self._evaluate_again(lane, [key])

    def _mapped(self, refs: set[str]) -> None:
        for lane, waiting in self._waiting.items():
            self._evaluate_again(
                lane, [key for key, wanted in waiting.items() if not refs.isdisjoint(wanted)]
            )

    def _evaluate_again(self, lane: Lane, keys: list[bytes]) -> None:
        if keys:
            self._app.background(self._evaluate_all(lane, keys), "mapped orders")

    async def _evaluate_all(self, lane: Lane, keys: list[bytes]) -> None:
        for start in range(0, len(keys), WAITING_ORDERS):
            await lane.submit(partial(self._evaluate, keys=keys[start : start + WAITING_ORDERS]))

    def _evaluate(self, transaction: Transaction, keys: Iterable[bytes]) -> None:
        for key in keys:
            known = transaction.get(self.orders, key)
            if known is not None and known.unmapped and known.shop in self._shops:
                source = SourceRecord.stand_in("stock.listings", transaction.now_ms, key)
                self._settle(transaction, known, known, source, known.correlation_id)
            transaction.keep()


class OrderReader:
    """Reads orders from their shops until the answer is enough; what is open is in table ``reads``."""

    def __init__(self, app: App, clients: ShopClients, keeper: OrderKeeper) -> None:
        self.queues = ShopQueues(app, "reads", self._work, size=READS_AT_ONCE, gather_s=0.0)
        self._clients = clients
        self._keeper = keeper

    async def _work(self, lane: Lane, shop: str, keys: list[bytes]) -> set[bytes]:
        asked = await lane.submit(partial(self._keeper.unread, keys=keys))
        found: dict[bytes, Found] = {}
        await asyncio.gather(*(self._read(key, record, found) for key, record in asked.items()))
        enough = set[bytes]()
        if found:
            enough = await lane.submit(partial(self._keeper.answers, found=found, asked=asked))
        return enough | (set(keys) - asked.keys())

    async def _read(self, key: bytes, asked: OrderRecord, found: dict[bytes, Found]) -> None:
        try:
            found[key] = await self._clients.of(asked.shop).order(asked.order_id)
        except Rejected as error:
            found[key] = error
        except Retry as error:
            log.warning(
                "an order could not be read",
                order=key.decode(),
                error=str(error),
                correlation_id=asked.correlation_id,
            )


def key_of(record: OrderRecord) -> bytes:
    """The order's key ``{shop}/{order_id}``."""
    return f"{record.shop}/{record.order_id}".encode()


def _read_reason(record: OrderRecord) -> str:
    return record.read_wanted or (ROUTING if record.routing_wanted else "")


def united(known: OrderRecord | None, envelope: Envelope) -> OrderRecord:
    """What is known after a webhook."""
    shop, body = envelope.shop, envelope.body
    if envelope.oversized:
        if envelope.order_id is None:
            raise Rejected(f"{envelope.topic}: a marker without an order id")
        return take_notice(known, shop, envelope.order_id, at=_noticed_at(envelope))
    if envelope.topic == READ_TOPIC:
        order = decode_read(body)
        # A change that was noticed after the order was read may not be in it.
        noticed_at = known.noticed_at if known is not None else None
        current = known is None or not known.unread
        current = current and (noticed_at is None or order.updated_at > noticed_at)
        return take_order(known, shop, order, read=current)
    if envelope.topic == SEEN_TOPIC:
        return take_seen(known, shop, decode_notice(body))
    if envelope.topic == "refunds/create":
        return take_refund(known, shop, decode_refund(body))
    if envelope.topic == "orders/edited":
        edit = decode_edited(body).order_edit
        return take_notice(known, shop, edit.order_id, at=edit.committed_at or _noticed_at(envelope))
    if envelope.topic == "orders/delete":
        return take_deleted(known, shop, decode_deleted(body).id, at=_noticed_at(envelope))
    if envelope.order_id is not None and envelope.topic.startswith(ROUTING_TOPICS):
        return take_routing_notice(known, shop, envelope.order_id)
    if envelope.order_id is not None and envelope.topic.startswith(RETURN_TOPICS):
        return take_notice(known, shop, envelope.order_id, at=_noticed_at(envelope), unread=True)
    return take_order(known, shop, decode_order(body), read=False)


def _is_old(envelope: Envelope) -> bool:
    """Whether a poll has seen a change of which a webhook should have told by then."""
    return envelope.received_at - decode_notice(envelope.body).updated_at > SETTLE


def _noticed_at(envelope: Envelope) -> datetime:
    return envelope.triggered_at or envelope.received_at
