"""How far the services are, read from what they leave in Kafka: each thing that may be behind, in turn."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer

from agents.orders import WantedRead
from app import topics
from app.exactly_once.positions import Position, positions_topic
from app.hearing import CAUGHT_UP, LOOKUPS, READS, SOURCES, ServiceHearing
from app.local_kafka import LocalKafka
from app.records import Record, encode
from app.settings import Settings
from tables.catch_up import CaughtUp

pytestmark = [pytest.mark.kafka, pytest.mark.asyncio(loop_scope="module")]
SHOP, OTHER = "north.myshopify.com", "south.myshopify.com"
AT = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
ORDER = f"{SHOP}/7".encode()


class Services:
    """What the services would leave, on one partition."""

    def __init__(self, settings: Settings) -> None:
        self.hearing = ServiceHearing(settings, limit_s=1.0)
        self._settings = settings
        self._taken = dict.fromkeys(SOURCES, 0)  # how far each service is

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AIOKafkaProducer]:
        producer = AIOKafkaProducer(**self._settings.kafka_options(), transactional_id="test")
        await producer.start()
        try:
            async with producer.transaction():
                yield producer
        finally:
            await producer.stop()

    async def write(self, topic: str, key: bytes, record: Record | Position | None) -> int:
        """Commit a record; its offset."""
        async with self.transaction() as producer:
            value = encode(record) if record is not None else None
            told = await producer.send_and_wait(topic, value, key, partition=0)
        return int(told.offset)

    async def take(self, service: str, offset: int) -> None:
        """A service says that it has come to an offset of its source."""
        position = Position(offsets={SOURCES[service]: offset})
        await self.write(positions_topic(service), b"0", position)

    async def behind(self) -> str:
        return (await self.hearing(SHOP)).behind


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def services(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Services]:
    broker = LocalKafka(tmp_path_factory.mktemp("kafka"))
    try:
        broker.start()
        settings = Settings(bootstrap_servers=broker.bootstrap_servers, partitions=1)
        await topics.apply(settings)
        yield Services(settings)
    finally:
        broker.stop()


async def test_where_nothing_ever_was_nothing_is_behind_nor_looked_for(
    services: Services,
) -> None:
    heard = await services.hearing(SHOP)
    assert (heard.behind, heard.looked_until) == ("", None)


async def test_how_far_the_catch_up_has_looked_is_told_for_each_shop(services: Services) -> None:
    await services.write(CAUGHT_UP, SHOP.encode(), CaughtUp(until=AT, looked_until=AT))
    assert (await services.hearing(SHOP)).looked_until == AT
    assert (await services.hearing(OTHER)).looked_until is None


@pytest.mark.parametrize("service", SOURCES)
async def test_a_service_that_has_not_taken_a_record_is_named(services: Services, service: str) -> None:
    offset = await services.write(SOURCES[service], ORDER, Position())
    assert f"{service} has not taken 1 records of {SOURCES[service]}" in await services.behind()
    await services.take(service, offset + 1)  # only the marker of the transaction is left
    assert await services.behind() == ""


@pytest.mark.parametrize("service", SOURCES)
async def test_a_position_beyond_its_topic_has_taken_nothing(services: Services, service: str) -> None:
    offset = await services.write(SOURCES[service], ORDER, Position())
    await services.take(service, offset + 1_000)
    assert f"{service} has not taken" in await services.behind()
    await services.take(service, offset + 1)
    assert await services.behind() == ""


async def test_what_a_transaction_has_written_and_not_committed_is_waited_for(services: Services) -> None:
    async with services.transaction() as producer:
        told = await producer.send_and_wait("stock.movements", b"{}", b"TEE@main", partition=0)
        assert "stock has not taken" in await services.behind()
    await services.take("stock", told.offset + 1)
    assert await services.behind() == ""


@pytest.mark.parametrize("topic", [READS, LOOKUPS])
@pytest.mark.parametrize("reason", ["an edit", "routing"])
async def test_an_order_that_the_shop_is_still_to_be_asked_about_holds_its_own_shop_up(
    services: Services, topic: str, reason: str
) -> None:
    await services.write(topic, ORDER, WantedRead(reason=reason))
    assert "still to ask the shop about 1 orders" in await services.behind()
    assert (await services.hearing(OTHER)).behind == ""
    await services.write(topic, ORDER, None)
    assert await services.behind() == ""


async def test_an_order_that_cannot_be_read_holds_nothing_up(services: Services) -> None:
    await services.write(READS, ORDER, WantedRead(reason="an edit", misshapen="it has no lines"))
    assert await services.behind() == ""


async def test_without_a_broker_nothing_is_heard() -> None:
    nobody = Settings(bootstrap_servers="127.0.0.1:9", partitions=1)
    assert "the brokers do not tell" in (await ServiceHearing(nobody)(SHOP)).behind
