"""The writer on one lane in memory: the engine's own transactions over plain dictionaries, without Kafka.

A commit encodes what was staged, so that what is read back is what a restart would find.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

from agents.hearing import Heard
from agents.shopify.pump import Pump
from agents.shopify.writer import Rules, Writer
from app.dead_letters import dead_letter
from app.errors import LaneLost, Rejected
from app.exactly_once.store import Table
from app.exactly_once.transaction import SourceRecord, Transaction
from app.records import (
    Correction,
    DeadLetter,
    LevelChange,
    Push,
    PushResult,
    Record,
    Target,
    encode,
    headers,
    shop_of,
)
from app.shops import Shop
from connectors.shopify.client import ShopClients
from tables.pushes import Intent, PushState

T = TypeVar("T")
LIMIT_S = 20.0
EVERYTHING = Heard(looked_until=datetime.max.replace(tzinfo=UTC))
"""What the services say when nothing is left to be heard."""


class Memory(dict[str, dict[bytes, bytes]]):
    """What is committed, by table: it outlives a writer."""


class OneLane:
    """The part of the engine that the writer uses, with one lane that is always open."""

    service = "shopify"
    partition, partitions = 0, 1

    def __init__(self, memory: Memory) -> None:
        self.app = self
        self.memory = memory
        self.stores: dict[Table[Any], dict[bytes, bytes]] = {}
        self.recent: dict[Table[Any], Any] = {}  # nothing is remembered
        self.out: list[tuple[str, bytes | None, bytes | None]] = []
        self.failures: list[BaseException] = []
        self._opened: list[Callable[[Any], None]] = []
        self._closed: list[Callable[[Any], None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._lost = False

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for a condition; a failure in the background ends it at once."""
        async with asyncio.timeout(LIMIT_S):
            while not condition():
                assert not self.failures, self.failures
                await asyncio.sleep(0.01)

    # -- what a service declares

    def state_table(self, name: str, value_type: type[T], **options: Any) -> Table[T]:
        table = Table(name, value_type, f"skustream.shopify.{name}", **options)
        self.stores[table] = self.memory.setdefault(name, {})
        return table

    def on_lane_opened(self, callback: Callable[[Any], None]) -> None:
        self._opened.append(callback)

    def on_lane_closed(self, callback: Callable[[Any], None]) -> None:
        self._closed.append(callback)

    def before_lanes(self, callback: Any) -> None:
        """No listings are followed."""

    def on_stopped(self, callback: Any) -> None:
        """The test closes the clients."""

    def background(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    @property
    def idle(self) -> bool:
        """Nothing runs in the background."""
        return not self._tasks

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, LaneLost):
            self.failures.append(error)

    def dead_letter(self, record: Any, error: Exception, now_ms: int) -> Any:
        return dead_letter(self.service, record, error, now_ms)

    def record_limit(self, topic: str) -> int:
        return 1 << 20

    # -- what a lane does

    def open(self) -> None:
        for opened in self._opened:
            opened(self)

    def lose(self) -> None:
        """A rebalance takes the lane: what is under way in the background finds it closed."""
        self._lost = True
        for closed in self._closed:
            closed(self)

    async def close(self) -> None:
        self.lose()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def scan(self, table: Table[T]) -> Iterator[tuple[bytes, T]]:
        return iter([(key, table.decode(value)) for key, value in sorted(self.stores[table].items())])

    async def submit(self, work: Callable[[Transaction], T]) -> T:
        await asyncio.sleep(0)
        if self._lost:
            raise LaneLost("the lane is closed")
        return self.decide(work)

    def decide(self, work: Callable[[Transaction], T]) -> T:
        transaction = Transaction(self, int(time.time() * 1000), 0)  # type: ignore[arg-type]  # one lane
        result = work(transaction)
        transaction.keep()
        for table, values in transaction.changes().items():
            for key, value in values.items():
                if value is None:
                    self.stores[table].pop(key, None)
                else:
                    self.stores[table][key] = msgspec.json.encode(value)
        self.out += [(topic, key, value) for topic, _, key, value, _ in transaction.out]
        for callback in transaction.callbacks:
            callback()
        return result


class Bench:
    """A writer on one lane, and what went in and out."""

    def __init__(self, shop: Shop, memory: Memory | None = None, *, hand_edit_s: float = 1.0) -> None:
        self.shop = shop
        self.lane = OneLane(memory if memory is not None else Memory())
        self.clients = ShopClients({shop.domain: shop})
        self.heard = EVERYTHING
        rules = Rules(max_refusals=2, hand_edit_s=hand_edit_s)
        self.writer = Writer(self.lane, self.clients, rules, self._hearing)  # type: ignore[arg-type]  # one lane
        self.refused: list[Rejected] = []

    async def _hearing(self, shop: str) -> Heard:
        assert shop == self.shop.domain
        return self.heard

    @property
    def pump(self) -> Pump:
        return self.writer._pump(self.lane, self.shop.domain)  # type: ignore[arg-type]  # one lane

    def state(self, item: int) -> PushState:
        """What is committed of a listing of the first location."""
        (found,) = (state for _, state in self.lane.scan(self.writer.pushes) if state.target.item == item)
        return found

    def intents(self) -> list[Intent]:
        return [intent for _, intent in self.lane.scan(self.writer.intents)]

    def told(self, result: PushResult | None = None) -> list[Push]:
        """The pushes told, of one result."""
        values = [value for topic, _, value in self.lane.out if topic == "shopify.pushes" and value]
        pushes = [msgspec.json.decode(value, type=Push) for value in values]
        return [push for push in pushes if result in (None, push.result)]

    def emitted(self, topic: str, kind: type[T]) -> list[T]:
        found = [value for name, _, value in self.lane.out if name == topic and value is not None]
        return [msgspec.json.decode(value, type=kind) for value in found]

    def letters(self) -> list[DeadLetter]:
        return self.emitted("dead-letters.shopify", DeadLetter)

    def take(self, target: Target, key: str = "") -> None:
        self._feed("shopify.targets", key or target.record_key, target, self.writer.take)

    def correct(self, correction: Correction) -> None:
        self._feed("shopify.corrections", correction.key, correction, self.writer.correct)

    def control(self, control: Any) -> None:
        self._feed("shopify.controls", control.shop, control, self.writer.control)

    def level(self, envelope: Any, change: LevelChange) -> None:
        key = f"{envelope.shop}/{change.inventory_item_id}/{change.location_id}"
        self._feed("shopify.levels", key, envelope, self.writer.levels.take)

    def _feed(self, topic: str, key: str, record: Record, decide: Callable[..., None]) -> None:
        head = headers(record, "test")
        source = SourceRecord(topic, 0, 0, int(time.time() * 1000), key.encode(), encode(record), head)
        assert shop_of(key.encode()) == self.shop.domain.encode()
        try:
            self.lane.decide(lambda transaction: decide(transaction, source))
        except Rejected as error:
            self.refused.append(error)

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for a condition; a failure in the background ends it at once."""
        assert what
        await self.lane.until(condition)


@asynccontextmanager
async def bench(shop: Shop, memory: Memory | None = None, **options: Any) -> AsyncIterator[Bench]:
    """A running writer, ended in any case; its memory can be given to another."""
    made = Bench(shop, memory, **options)
    made.lane.open()
    try:
        yield made
        assert not made.lane.failures, made.lane.failures
    finally:
        await made.lane.close()
        await made.clients.close()
