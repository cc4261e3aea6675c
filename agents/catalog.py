"""The catalog agent: webhooks of items, levels and locations in, changes of listings out.

A webhook only says where to look: the item is read again, laid beside its listings (``tables.catalog``), and
what follows goes to ``stock.listing-changes``. That a product was deleted says nothing of its items, and the
shop cannot be asked any more: so the ids of all its items are read, and listed items that are missing among
them are read like any other. Nothing is listed of a shop of which a person has listed
nothing yet (``skustream catalog sync --apply``), or whose locations have no codes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from functools import partial
from typing import Any

import msgspec
import structlog
from prometheus_client import Counter

from agents.catalog_reads import QUIET_S, IdReader, ItemReader
from agents.listings import ListingFollower
from agents.source import payload_of
from app.errors import Rejected
from app.exactly_once import App, Lane, SourceRecord, Table, Transaction
from app.records import (
    CatalogChange,
    Envelope,
    LevelChange,
    Listing,
    ListingChange,
    Listings,
    Record,
    ShopItem,
    correlation_of,
    encode,
    headers,
    shop_of,
    stock_key,
)
from connectors.shopify.client import ShopClients
from tables.catalog import Comparison, changes, compare, fits
from tables.listings import ListingIndex

SENT_MS = 60_000
"""How long a change that was sent counts as made before it has come round: it takes a second."""
ITEMS = frozenset({"inventory_items/create", "inventory_items/update"})
PRODUCTS = frozenset({"products/create", "products/update"})
DELETED_PRODUCT = "products/delete"
LEVELS = frozenset({"inventory_levels/connect", "inventory_levels/disconnect"})
LOCATIONS = frozenset({"locations/activate", "locations/deactivate", "locations/delete"})

FINDINGS = Counter("skustream_catalog_findings_total", "What item webhooks have led to", ["shop", "finding"])

log = structlog.get_logger(__name__)
decode_envelope = msgspec.json.Decoder(Envelope).decode
decode_change = msgspec.json.Decoder(CatalogChange).decode
decode_level = msgspec.json.Decoder(LevelChange).decode


class SeenItem(Record, frozen=True, kw_only=True):
    """An item as it was last read (table ``items``)."""

    sku: str
    tracked: bool
    sent: dict[str, Listing] = {}  # what was listed because of it, by stock key
    sent_ms: int = 0


class WantedItem(Record, frozen=True, kw_only=True):
    """An item that must be read (table ``item_reads``), or a shop's ids of all items (``id_reads``)."""

    times: int  # how often it was wanted: tells a read asked before a webhook from one asked after
    correlation_id: str = ""  # of the last webhook


def register(app: App, clients: ShopClients, listings: ListingFollower[ListingIndex]) -> None:
    """Declare the agent's tables, topics and agents on a service."""
    keeper = CatalogKeeper(app, clients, listings.directory)
    catalog = app.batch_topic("shopify.catalog", route=shop_of)
    levels = app.batch_topic("shopify.levels", route=shop_of)

    @app.agent(catalog, name="catalog")  # type: ignore[untyped-decorator]  # faust ships no types
    async def look_at_items(batches: Any) -> None:
        async for batch in batches:
            await app.process(batch, keeper.take)

    @app.agent(levels, name="connections")  # type: ignore[untyped-decorator]  # faust ships no types
    async def look_at_levels(batches: Any) -> None:
        async for batch in batches:
            await app.process(batch, keeper.take)


class CatalogKeeper:
    """Decides webhooks and reads of items over the tables ``items``, ``item_reads`` and ``id_reads``."""

    def __init__(
        self, app: App, clients: ShopClients, index: ListingIndex, *, quiet_s: float = QUIET_S
    ) -> None:
        self.items: Table[SeenItem] = app.state_table("items", SeenItem)
        self.item_reads: Table[WantedItem] = app.state_table("item_reads", WantedItem)
        self.id_reads: Table[WantedItem] = app.state_table("id_reads", WantedItem)
        self._shops = clients.shops
        self._index = index
        self._reader = ItemReader(app, clients, self)
        self._ids = IdReader(app, clients, self, quiet_s)
        app.on_lane_opened(self._open)
        app.on_lane_closed(self._reader.queues.close)
        app.on_lane_closed(self._ids.queues.close)

    def take(self, transaction: Transaction, source: SourceRecord) -> None:
        """Note the items that a webhook says have changed."""
        envelope = decode_envelope(payload_of(source, Envelope))
        if source.key is None or shop_of(source.key) != envelope.shop.encode():
            raise Rejected(f"{source.topic}: the body is about {envelope.shop!r}, the key is {source.key!r}")
        shop = self._shops.get(envelope.shop)
        if shop is None or not shop.locations or not self._index.lists(shop.domain):
            return
        correlation_id = correlation_of(source.headers)
        if envelope.topic == DELETED_PRODUCT:
            self._want(transaction, self.id_reads, self._ids, shop.domain.encode(), correlation_id)
        for item in sorted(self._changed(transaction, envelope)):
            self._want_item(transaction, shop.domain, item, correlation_id)

    def unread(
        self, transaction: Transaction, table: Table[WantedItem], keys: Iterable[bytes]
    ) -> dict[bytes, int]:
        """How often what is (still) to be read was wanted, by key."""
        found = {key: transaction.get(table, key) for key in keys}
        return {key: wanted.times for key, wanted in found.items() if wanted is not None}

    def answer(
        self,
        transaction: Transaction,
        shop: str,
        found: Mapping[int, ShopItem | None],
        asked: Mapping[int, int],
    ) -> None:
        """Take the answer of a read; ``asked`` says how often each item was wanted before the question."""
        for number, item in found.items():
            key = item_key(shop, number)
            wanted = transaction.get(self.item_reads, key)
            correlation_id = wanted.correlation_id if wanted is not None else ""
            self._settle(transaction, shop, number, item, correlation_id)
            if wanted is not None and wanted.times == asked[number]:
                transaction.delete(self.item_reads, key)

    def compare_ids(self, transaction: Transaction, shop: str, there: Set[int], asked: int) -> None:
        """Take the ids of all items that a shop has; ``asked`` is how often they were wanted before."""
        key = shop.encode()
        wanted = transaction.get(self.id_reads, key)
        missing = self._index.items_of(shop) - there
        for item in sorted(missing):
            self._want_item(transaction, shop, item, wanted.correlation_id if wanted is not None else "")
        if wanted is not None and wanted.times == asked:
            transaction.delete(self.id_reads, key)
        log.info("the items of a shop were looked through for deleted ones", shop=shop, missing=len(missing))

    def _changed(self, transaction: Transaction, envelope: Envelope) -> set[int]:
        """The items that a webhook is about, and of which it says something new."""
        if envelope.topic in LEVELS:
            return {decode_level(envelope.body).inventory_item_id}
        if envelope.topic not in ITEMS | PRODUCTS | LOCATIONS | {"inventory_items/delete"}:
            return set()
        body = decode_change(envelope.body)
        if envelope.topic in PRODUCTS:
            told = [(one.inventory_item_id, one.sku, None) for one in body.variants or ()]
            return {
                item
                for item, sku, tracked in told
                if item and self._news(transaction, envelope.shop, item, sku)
            }
        if not isinstance(body.id, int):
            raise Rejected(f"{envelope.topic}: expected a numeric id, got {body.id!r}")
        if envelope.topic in LOCATIONS:
            return self._index.items_at(envelope.shop, body.id)
        known = envelope.topic in ITEMS and not self._news(
            transaction, envelope.shop, body.id, body.sku, body.tracked
        )
        return set() if known else {body.id}

    def _news(
        self, transaction: Transaction, shop: str, item: int, sku: str | None, tracked: bool | None = None
    ) -> bool:
        """Whether this was not known; products say that they changed with every order, and reads cost."""
        seen = transaction.get(self.items, item_key(shop, item))
        return seen is None or seen.sku != (sku or "") or tracked not in (None, seen.tracked)

    def _want_item(self, transaction: Transaction, shop: str, item: int, correlation_id: str) -> None:
        self._want(transaction, self.item_reads, self._reader, item_key(shop, item), correlation_id)

    def _want(
        self,
        transaction: Transaction,
        table: Table[WantedItem],
        reader: ItemReader | IdReader,
        key: bytes,
        correlation_id: str,
    ) -> None:
        known = transaction.get(table, key)
        wanted = WantedItem(times=known.times + 1 if known is not None else 1, correlation_id=correlation_id)
        transaction.put(table, key, wanted)
        transaction.after_commit(partial(reader.queues.want, transaction.lane, key))

    def _settle(
        self, transaction: Transaction, shop: str, number: int, item: ShopItem | None, correlation_id: str
    ) -> None:
        """Compare an item with its listings, and send what follows."""
        key = item_key(shop, number)
        seen = transaction.get(self.items, key)
        recent = seen is not None and transaction.now_ms - seen.sent_ms < SENT_MS
        sent = dict(seen.sent) if seen is not None and recent else {}
        known = self._known(shop, number, item, sent)
        read = [item] if item is not None else []
        comparison = compare(shop, read, self._shops[shop].locations, known, asked={number})
        _tell(shop, number, comparison)
        steps = changes(comparison, transaction.now_ms, correlation_id=correlation_id)
        for step in steps:
            head = headers(step, correlation_id)
            transaction.emit("stock.listing-changes", step.key.encode(), encode(step), head)
        if item is None:
            if seen is not None:
                transaction.delete(self.items, key)
            return
        now = SeenItem(
            sku=item.sku,
            tracked=item.tracked,
            sent=_sent(sent, steps),
            sent_ms=transaction.now_ms if steps else (seen.sent_ms if seen is not None else 0),
        )
        if now != seen:
            transaction.put(self.items, key, now)

    def _known(
        self, shop: str, number: int, item: ShopItem | None, sent: Mapping[str, Listing]
    ) -> Iterator[Listings]:
        """The listings of every key that the item is, was just, or wants to be listed under."""
        keys = {*self._index.keys_of(shop, number), *sent, *self._wants(shop, item)}
        for key in sorted(keys):
            known = self._index.of(key)
            own = sent.get(key)
            if own is not None and all(one.key != own.key for one in known.listings):
                known = msgspec.structs.replace(known, listings=[*known.listings, own])
            yield known

    def _wants(self, shop: str, item: ShopItem | None) -> Iterator[str]:
        codes = self._shops[shop].locations
        if item is not None and fits(item.sku):
            for level in item.levels:
                if level.location_id in codes:
                    yield stock_key(item.sku, codes[level.location_id])

    def _open(self, lane: Lane) -> None:
        for table, reader in ((self.item_reads, self._reader), (self.id_reads, self._ids)):
            keys = [key for key, _ in lane.scan(table) if shop_of(key).decode() in self._shops]
            reader.queues.open(lane, keys)


def item_key(shop: str, item: int) -> bytes:
    """The key of the tables ``items`` and ``item_reads``: by shop, so that it lives in the shop's lane."""
    return f"{shop}/{item}".encode()


def _sent(before: Mapping[str, Listing], steps: Iterable[ListingChange]) -> dict[str, Listing]:
    """What an item is listed as by all that was sent of late."""
    sent = dict(before)
    for step in steps:
        if step.removed:
            sent.pop(step.key, None)
        else:
            sent[step.key] = step.listing
    return sent


def _tell(shop: str, item: int, comparison: Comparison) -> None:
    for row in comparison.rows:
        FINDINGS.labels(shop, str(row.finding)).inc()
        log.info(
            "an item of a shop was read again",
            shop=shop,
            item=item,
            finding=str(row.finding),
            key=row.key,
            detail=row.detail,
        )
