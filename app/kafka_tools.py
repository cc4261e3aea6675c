"""What the command does with topics: send movements and listings, read levels."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import yaml
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError
from msgspec import Struct

from app.errors import Misconfigured
from app.exactly_once.partitioner import partition_of
from app.exactly_once.reading import records_between
from app.records import (
    Control,
    Correction,
    Drift,
    Envelope,
    Listing,
    ListingChange,
    Listings,
    Movement,
    Record,
    Redaction,
    StockRecord,
    encode,
    headers,
    shop_of,
    split_stock_key,
    stock_key,
)
from app.settings import Settings, unavailable
from tables import generations


class KeyChange(Struct, frozen=True, kw_only=True):
    """What applying a listings file does to one key."""

    before: list[Listing]
    after: Listings

    def describe(self) -> str:
        """One line for the preview."""
        key = stock_key(self.after.sku, self.after.location)
        before, after = _undated(self.before), _undated(self.after.listings)
        added = [listing.key for listing in after if listing not in before]
        removed = [listing.key for listing in before if listing not in after]
        told = [*(f"+{one}" for one in added), *(f"-{one}" for one in removed)]
        return " ".join([key, *(told or ["is left to have what it lists"])])


def _undated(listings: Iterable[Listing]) -> list[Listing]:
    return [msgspec.structs.replace(one, generation=0) for one in listings]


def read_listings(path: Path) -> list[Listings]:
    """The listings of a YAML file, by key.

    Raises:
        Misconfigured: naming the file, the key and the field.
    """
    try:
        document = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise Misconfigured(f"{path} is not YAML: {error}") from None
    if not isinstance(document, dict):
        raise Misconfigured(f"{path}: expected a mapping of sku@location to a list of listings")
    return [_listings(path, str(key), entries) for key, entries in document.items()]


def _listings(path: Path, key: str, entries: Any) -> Listings:
    try:
        sku, location = split_stock_key(key)
        return msgspec.convert({"sku": sku, "location": location, "listings": entries or []}, Listings)
    except ValueError as error:
        raise Misconfigured(f"{path}: {key}: {error}") from None


async def listing_changes(settings: Settings, wanted: Iterable[Listings]) -> list[KeyChange]:
    """The keys whose listings differ from what stock.listings says now."""
    known = {stock_key(one.sku, one.location): one for one in await all_listings(settings)}
    return [
        KeyChange(before=known[key].listings if key in known else [], after=one)
        for one in generations.changed(wanted, known, int(time.time() * 1000))
        for key in [stock_key(one.sku, one.location)]
    ]


async def send_listings(settings: Settings, listings: Iterable[Listings]) -> None:
    """Write all listings of keys to stock.listings, as of now."""
    now = datetime.now(UTC)
    records = (
        (stock_key(one.sku, one.location), msgspec.structs.replace(one, updated_at=now), "")
        for one in listings
    )
    await _send(settings, "stock.listings", records)


async def send_listing_changes(settings: Settings, changes: Iterable[ListingChange]) -> None:
    """Write changes of single listings to stock.listing-changes; the service reconcile unites them."""
    await _send(settings, "stock.listing-changes", ((one.key, one, one.correlation_id) for one in changes))


async def all_listings(settings: Settings) -> list[Listings]:
    """What stock.listings says now, by key."""
    values = await last_values(settings, "stock.listings")
    return [msgspec.json.decode(value, type=Listings) for value in values.values()]


async def send_movements(settings: Settings, movements: Iterable[Movement]) -> None:
    """Write movements to stock.movements."""
    await _send(settings, "stock.movements", ((one.key, one, one.correlation_id) for one in movements))


async def send_orders(settings: Settings, envelopes: Iterable[Envelope]) -> None:
    """Write envelopes of orders to shopify.orders."""
    await _send(
        settings, "shopify.orders", ((f"{one.shop}/{one.order_id}", one, one.event_id) for one in envelopes)
    )


async def stock_of(settings: Settings, sku: str, location: str) -> StockRecord | None:
    """The newest committed level of a key, or None."""
    key = stock_key(sku, location).encode()
    partition = partition_of(key, settings.partitions)
    value = (await last_values(settings, "stock.levels", [partition])).get(key)
    return msgspec.json.decode(value, type=StockRecord) if value is not None else None


async def levels(settings: Settings) -> dict[str, StockRecord]:
    """The newest committed level of every key."""
    values = await last_values(settings, "stock.levels")
    return {key.decode(): msgspec.json.decode(value, type=StockRecord) for key, value in values.items()}


async def send_drift(settings: Settings, found: Iterable[Drift]) -> None:
    """Write differences to shopify.drift."""
    await _send(settings, "shopify.drift", ((one.key, one, "") for one in found), route=shop_of)


async def send_corrections(settings: Settings, corrections: Iterable[Correction]) -> None:
    """Ask the writer for corrections."""
    records = ((one.key, one, one.correlation_id) for one in corrections)
    await _send(settings, "shopify.corrections", records, route=shop_of)


async def send_controls(settings: Settings, controls: Iterable[Control]) -> None:
    """Ask the writer to pause a shop or to try it again."""
    await _send(settings, "shopify.controls", ((one.shop, one, "") for one in controls))


async def send_redactions(settings: Settings, redactions: Iterable[Redaction]) -> None:
    """Ask lanes to forget a shop."""
    await _send(settings, "shopify.redactions", ((one.key, one, "") for one in redactions))


async def send_tombstones(
    settings: Settings, topic: str, keys: Iterable[str], route: Callable[[bytes], bytes] = bytes
) -> None:
    """Take keys out of a compacted topic; ``route`` is the part of a key that is hashed."""
    await _send(settings, topic, ((key, None, "") for key in keys), route=route)


async def known_drift(settings: Settings, shop: str) -> dict[str, Drift]:
    """What the reconcile service knows to differ in a shop, by listing."""
    partition = partition_of(shop.encode(), settings.partitions)
    values = await last_values(settings, "skustream.reconcile.drift", [partition])
    decode = msgspec.json.Decoder(Drift).decode
    return {
        key.decode(): decode(value) for key, value in values.items() if key.startswith(f"{shop}/".encode())
    }


def reader(settings: Settings, **options: Any) -> AIOKafkaConsumer:
    """A ``read_committed`` consumer without a group, not started yet."""
    return AIOKafkaConsumer(
        **settings.kafka_options(), isolation_level="read_committed", enable_auto_commit=False, **options
    )


async def _send(
    settings: Settings,
    topic: str,
    records: Iterable[tuple[str, Record | None, str]],
    route: Callable[[bytes], bytes] = bytes,
) -> None:
    """Write records, None as a tombstone; ``route`` is the part of a key that is hashed."""
    producer = AIOKafkaProducer(**settings.kafka_options(), acks="all", enable_idempotence=True, linger_ms=5)
    async with _started(producer, settings):
        sent = []
        for key, record, correlation_id in records:
            partition = partition_of(route(key.encode()), settings.partitions)
            head = headers(record, correlation_id) if record is not None else []
            value = encode(record) if record is not None else None
            sent.append(await producer.send(topic, value, key.encode(), partition=partition, headers=head))
        for future in sent:
            await future


async def read_topic(
    settings: Settings,
    topic: str,
    partitions: Iterable[int] | None = None,
    *,
    since_ms: int | None = None,
) -> AsyncIterator[list[Any]]:
    """Every committed record of a topic that is there now, batch by batch, in offset order by partition.

    With ``since_ms``, an instant in epoch ms, from the first record of that time on.

    Raises:
        BrokerUnavailable: when no broker answers.
    """
    consumer = reader(settings)
    async with _started(consumer, settings):
        numbers = range(settings.partitions) if partitions is None else partitions
        parts = [TopicPartition(topic, number) for number in numbers]
        consumer.assign(parts)
        starts, ends = await consumer.beginning_offsets(parts), await consumer.end_offsets(parts)
        if since_ms is not None:
            found = await consumer.offsets_for_times(dict.fromkeys(parts, since_ms))
            starts = {part: found[part].offset if found[part] is not None else ends[part] for part in parts}
        async with aclosing(records_between(consumer, starts, ends)) as batches:
            async for records in batches:
                yield records


async def last_values(
    settings: Settings, topic: str, partitions: Iterable[int] | None = None
) -> dict[bytes, bytes]:
    """The newest committed value of every key of a compacted topic."""
    values: dict[bytes, bytes] = {}
    async for records in read_topic(settings, topic, partitions):
        values.update((record.key, record.value) for record in records)
    return {key: value for key, value in values.items() if value is not None}


@asynccontextmanager
async def _started(client: Any, settings: Settings) -> AsyncIterator[None]:
    try:
        await client.start()
    except (KafkaError, OSError) as error:
        await client.stop()
        raise unavailable(settings, error) from None
    try:
        yield
    finally:
        await client.stop()
