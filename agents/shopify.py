"""The writer: targets of listings in, writes to their shops out, each carried out once.

The agent keeps the newest target of each listing. A pump per shop takes what differs, commits the write as
an intent, sends it, and brings the answer back through the lane. A crash at any point leaves either no
intent or one whose same bytes are sent again under the same key.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import Any, NamedTuple
from uuid import uuid4

import msgspec
import structlog
from prometheus_client import Counter, Gauge, Histogram
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential_jitter

from app.errors import OutcomeUnknown, Rejected, Retry
from app.exactly_once import App, Lane, SourceRecord, Table, Transaction
from app.records import Push, PushResult, Target, check_schema, encode, headers
from connectors.shopify.client import CallRefused, ShopClients, ShopUnavailable, Throttled, UserFault
from tables import pushes
from tables.pushes import Entry, Intent, PushState

INTENT_AGE_S = 23 * 3600.0
"""Shopify forgets a key after 24 h and would execute the call again (facts: implementing idempotency)."""
CALL_COST = 20.0
"""Points of a write, for the pause before it: 13 were captured for small ones."""
READS_AT_ONCE = 500
SHOP_PAUSE_S = 30.0
"""Before a shop that does not let us in is asked again."""
REFUSAL_PAUSE_S = (1.0, 2.0, 4.0, 8.0)

SYNC_BUCKETS_S = (0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 30, 60, 300, 900, 3600)
"""Shopify's times have a resolution of a second; beyond an hour it does not matter by how much."""

CONCURRENT = "IDEMPOTENCY_CONCURRENT_REQUEST"
MISMATCH = "IDEMPOTENCY_KEY_PARAMETER_MISMATCH"
NOT_EXECUTED = frozenset(
    {"IDEMPOTENCY_PREVIOUS_ATTEMPT_FAILED", "SERVICE_UNAVAILABLE", "ADJUST_QUANTITIES_FAILED"}
)
"""Nobody is to blame: everything goes again, under a new key."""

PUSHES = Counter("skustream_pushes_total", "Entries of writes, by what became of them", ["shop", "result"])
CALLS = Histogram("skustream_shopify_write_seconds", "From the first try of a write to its answer", ["shop"])
RETRIES = Counter("skustream_shopify_retries_total", "Writes sent again", ["shop", "error"])
SYNC = Histogram(
    "skustream_sync_seconds",
    "From the oldest fact that a write carries out to the shop's answer",
    ["shop"],
    buckets=SYNC_BUCKETS_S,
)
WAITING = Gauge("skustream_listings_waiting", "Listings that may differ from their target", ["shop"])

log = structlog.get_logger(__name__)
decode_target = msgspec.json.Decoder(Target).decode


class Expired(Exception):  # a fact about an intent, caught where it is raised
    """The intent is too old to be sent again."""


class Unread(NamedTuple):
    """A listing to be read, and the physical total at the time of asking."""

    listing: str
    physical_total: int


class Step(NamedTuple):
    """What a pump does next."""

    unread: list[Unread]
    intent: Intent | None


class Answer(NamedTuple):
    """What became of a call: no faults is success; ``expired`` when nobody can tell."""

    faults: Sequence[UserFault] = ()
    expired: str = ""


def register(app: App, clients: ShopClients, *, max_refusals: int) -> None:
    """Declare the writer's tables, topic and agent on a service."""
    writer = Writer(app, clients, max_refusals)
    targets = app.batch_topic("shopify.targets", route=shop_of)

    @app.agent(targets, name="write")  # type: ignore[untyped-decorator]  # faust ships no types
    async def write(batches: Any) -> None:
        async for batch in batches:
            await app.process(batch, writer.take)


class Writer:
    """Decides targets and answers over the tables ``pushes`` and ``intents``; owns the pumps."""

    def __init__(self, app: App, clients: ShopClients, max_refusals: int) -> None:
        self.pushes: Table[PushState] = app.state_table("pushes", PushState)
        self.intents: Table[Intent] = app.state_table("intents", Intent)
        self.clients = clients
        self._app = app
        self._max_refusals = max_refusals
        self._pumps: dict[Lane, dict[str, Pump]] = {}
        app.on_lane_opened(self._open)
        app.on_lane_closed(self._close)
        app.on_stopped(clients.close)

    # -- decisions, inside the lane --------------------------------------------------------------

    def take(self, transaction: Transaction, source: SourceRecord) -> None:
        """Take the newest target of a listing."""
        check_schema(source.headers, Target)
        if source.value is None:
            return  # the listing is gone: nothing more is written
        target = decode_target(source.value)
        key = target.key.encode()
        if source.key != key:
            raise Rejected(f"{source.topic}: the body is about {target.key!r}, the key is {source.key!r}")
        if target.shop not in self.clients.shops:
            raise Rejected(f"the shops file (SKUSTREAM_SHOPS_FILE) has no shop {target.shop}")
        known = transaction.get(self.pushes, key)
        state = pushes.take_target(known, target)
        if state is not known:
            transaction.put(self.pushes, key, state)
            transaction.after_commit(partial(self._notice, transaction.lane, target.shop, [target.key]))

    def next_step(self, transaction: Transaction, pump: Pump) -> Step:
        """The next call's intent, made of what differs now, and the listings that must be read first."""
        unread: list[Unread] = []
        ready: list[PushState] = []
        for listing in pump.candidates():
            state = transaction.get(self.pushes, listing.encode())
            if state is not None and pushes.needs_read(state):
                unread.append(Unread(listing, state.target.physical_total))
            elif state is not None and pushes.needs_push(state):
                ready.append(state)
            else:
                pump.waiting.pop(listing, None)
            if len(ready) == pushes.MAX_ENTRIES or len(unread) == READS_AT_ONCE:
                break
        entries = pushes.entries_of(ready)
        if not entries:
            return Step(unread, None)
        intent = new_intent(pump.shop, entries, transaction.now_ms)
        transaction.put(self.intents, intent_key(intent), intent)
        states = {state.target.key: state for state in ready}
        for entry in entries:
            state = states[entry.listing]
            transaction.put(self.pushes, entry.listing.encode(), pushes.begin(state, intent))
            pump.waiting.pop(entry.listing, None)  # its answer brings it back, behind all others
        return Step(unread, intent)

    def take_reads(
        self, transaction: Transaction, pump: Pump, unread: Iterable[Unread], units: Mapping[str, int | None]
    ) -> None:
        """Take what the shop says its listings have."""
        for asked in unread:
            key = asked.listing.encode()
            state = transaction.get(self.pushes, key)
            if state is None:
                continue
            found = units[asked.listing]
            if found is None:
                error = "INVALID_INVENTORY_ITEM: the shop has no such inventory item"
                self._refuse(transaction, pump, state, error)
            else:
                transaction.put(self.pushes, key, pushes.take_units(state, found, asked.physical_total))

    def settle(self, transaction: Transaction, pump: Pump, intent: Intent, answer: Answer) -> None:
        """Take the answer of a call; the intent is done with."""
        codes = {fault.code for fault in answer.faults}
        names = {fault.index: f"{fault.code}: {fault.message}" for fault in answer.faults}
        told = "; ".join(names.values())
        known = not codes & NOT_EXECUTED
        blamed = pushes.blamed(intent.entries, names) if answer.faults and known else set()
        for index, entry in enumerate(intent.entries):
            state = transaction.get(self.pushes, entry.listing.encode())
            assert state is not None, "an intent is only made of known listings"
            error = ""
            if answer.expired or MISMATCH in codes:
                state, result, error = pushes.forget(state), PushResult.EXPIRED, answer.expired or told
            elif not answer.faults:
                state, result = pushes.acknowledge(state, entry), PushResult.ACKNOWLEDGED
            elif index in blamed:
                result, error = PushResult.REFUSED, names.get(index, told)
                state = self._refuse(transaction, pump, state, error)
            else:
                state = pushes.release(state, alone=known and not blamed)
                result = PushResult.SPLIT
            transaction.put(self.pushes, entry.listing.encode(), state)
            self._tell(transaction, entry, intent, result, error)
        transaction.delete(self.intents, intent_key(intent))
        again = [entry.listing for entry in intent.entries]
        transaction.after_commit(partial(self._notice, transaction.lane, intent.shop, again))

    def _refuse(self, transaction: Transaction, pump: Pump, state: PushState, error: str) -> PushState:
        refused = pushes.refuse(state, error, self._max_refusals)
        transaction.put(self.pushes, state.target.key.encode(), refused)
        pump.delay(state.target.key, refused.refusals)
        if refused.held:
            self._dead_letter(transaction, refused)
        return refused

    def _dead_letter(self, transaction: Transaction, state: PushState) -> None:
        target = state.target
        key = target.key.encode()
        error = Rejected(
            f"{target.key}: refused {state.refusals} times (SKUSTREAM_MAX_REFUSALS): {state.held}"
        )
        source = TargetRecord(timestamp=transaction.now_ms, key=key, value=encode(target))
        letter = self._app.dead_letter(source, error, transaction.now_ms)
        topic, route = f"dead-letters.{self._app.service}", target.shop.encode()
        transaction.emit(topic, key, letter.value, letter.headers, route)
        log.error(
            "a listing is not written any more until its next target",
            error=str(error),
            correlation_id=target.correlation_id,
        )

    def _tell(
        self,
        transaction: Transaction,
        entry: Entry,
        intent: Intent,
        result: PushResult,
        error: str,
    ) -> None:
        at = datetime.fromtimestamp(transaction.now_ms / 1000, UTC)
        push = pushes.push_of(entry, intent, result, at=at, error=error)
        head = headers(push, push.correlation_id)
        transaction.emit("shopify.pushes", entry.listing.encode(), encode(push), head, intent.shop.encode())
        transaction.after_commit(partial(_measure, push, at))

    # -- pumps -----------------------------------------------------------------------------------

    def _open(self, lane: Lane) -> None:
        self._pumps[lane] = {}
        for _, intent in lane.scan(self.intents):
            self._pump(lane, intent.shop).open_intents.append(intent)
        listings: dict[str, list[str]] = defaultdict(list)
        for _, state in lane.scan(self.pushes):
            if pushes.needs_push(state) or pushes.needs_read(state):
                listings[state.target.shop].append(state.target.key)
        for shop, waiting in listings.items():
            self._notice(lane, shop, waiting)

    def _close(self, lane: Lane) -> None:
        for pump in self._pumps.pop(lane, {}).values():
            pump.stop()

    def _notice(self, lane: Lane, shop: str, listings: Iterable[str]) -> None:
        if lane in self._pumps:
            self._pump(lane, shop).notice(listings)

    def _pump(self, lane: Lane, shop: str) -> Pump:
        known = self._pumps[lane]
        if shop not in known:
            known[shop] = Pump(self._app, self, lane, shop)
        return known[shop]


class Pump:
    """Carries out the writes of one shop, one call at a time, what a former worker began first."""

    def __init__(self, app: App, writer: Writer, lane: Lane, shop: str) -> None:
        self.shop = shop
        self.waiting: dict[str, None] = {}  # listings that may differ, the longest waiting first
        self.open_intents: list[Intent] = []
        self._writer = writer
        self._lane = lane
        self._not_before: dict[str, float] = {}
        self._wake = asyncio.Event()
        self._task = app.background(self._run(), f"pump {shop}")

    def stop(self) -> None:
        """The lane is gone; a call under way is left to its next owner."""
        self._task.cancel()
        WAITING.labels(self.shop).set(0)

    def notice(self, listings: Iterable[str]) -> None:
        """These listings may differ."""
        self.waiting.update(dict.fromkeys(listings))
        WAITING.labels(self.shop).set(len(self.waiting))
        self._wake.set()

    def candidates(self) -> list[str]:
        """Waiting listings whose pause after a refusal is over."""
        now = time.monotonic()
        ready = (listing for listing in self.waiting if self._not_before.get(listing, 0.0) <= now)
        return list(islice(ready, pushes.MAX_ENTRIES + READS_AT_ONCE))

    def delay(self, listing: str, refusals: int) -> None:
        """Try a refused listing again later."""
        pause_s = REFUSAL_PAUSE_S[min(refusals, len(REFUSAL_PAUSE_S)) - 1]
        self._not_before[listing] = time.monotonic() + pause_s
        asyncio.get_running_loop().call_later(pause_s, self.notice, [listing])

    async def _run(self) -> None:
        while self.open_intents:
            await self._carry_out(self.open_intents[0])
            self.open_intents.pop(0)
        while True:
            self._wake.clear()
            unread, intent = await self._lane.submit(partial(self._writer.next_step, pump=self))
            if intent is not None:
                await self._carry_out(intent)
            if unread:
                await self._read(unread)
            if intent is None and not unread:
                WAITING.labels(self.shop).set(len(self.waiting))
                await self._wake.wait()

    async def _read(self, unread: list[Unread]) -> None:
        by_location: dict[int, dict[int, str]] = defaultdict(dict)
        for one in unread:
            _, item, location_id = pushes.listing_parts(one.listing)
            by_location[location_id][item] = one.listing
        units: dict[str, int | None] = {}
        async for attempt in self._retrying():
            with attempt:
                client = self._writer.clients.of(self.shop)
                for location_id, items in by_location.items():
                    found = await client.levels(location_id, items)
                    units.update({items[item]: value for item, value in found.items()})
        await self._lane.submit(partial(self._writer.take_reads, pump=self, unread=unread, units=units))

    async def _carry_out(self, intent: Intent) -> None:
        try:
            with CALLS.labels(self.shop).time():
                answer = Answer(await self._send(intent))
        except Expired as error:
            answer = Answer(expired=str(error))
        except CallRefused as error:
            answer = Answer([UserFault(message=str(error), code="CALL_REFUSED")])
        await self._lane.submit(partial(self._writer.settle, pump=self, intent=intent, answer=answer))

    async def _send(self, intent: Intent) -> list[UserFault]:
        faults: list[UserFault] = []
        async for attempt in self._retrying():
            with attempt:
                client = self._writer.clients.of(self.shop)
                await asyncio.sleep(client.budget.pause_s(CALL_COST))
                age_s = time.time() - intent.created_ms / 1000
                if age_s > INTENT_AGE_S:
                    raise Expired(f"the intent is {age_s / 3600:.1f} h old; its outcome is unknown")
                faults = await client.adjust(intent.variables.encode())
                if any(fault.code == CONCURRENT for fault in faults):
                    raise OutcomeUnknown(f"{self.shop}: the same key is being executed")
        return faults

    def _retrying(self) -> AsyncRetrying:
        return AsyncRetrying(
            retry=retry_if_exception_type(Retry),
            wait=_pause,
            before_sleep=self._told,
            reraise=True,
        )

    def _told(self, state: RetryCallState) -> None:
        assert state.outcome is not None
        assert state.next_action is not None
        error = state.outcome.exception()
        RETRIES.labels(self.shop, type(error).__name__).inc()
        log.warning(
            "a call to the shop is made again",
            shop=self.shop,
            tries=state.attempt_number,
            pause_s=round(state.next_action.sleep, 1),
            error=str(error),
        )


def _measure(push: Push, at: datetime) -> None:
    PUSHES.labels(push.shop, str(push.result)).inc()
    if push.result is PushResult.ACKNOWLEDGED and push.occurred_at is not None:
        SYNC.labels(push.shop).observe(max(0.0, (at - push.occurred_at).total_seconds()))
    log.debug(
        "a listing was written",
        listing=f"{push.shop}/{push.item}/{push.location_id}",
        delta=push.delta,
        result=str(push.result),
        intent=push.intent,
        correlation_id=push.correlation_id,
    )


class TargetRecord(msgspec.Struct, kw_only=True):
    """A target in the place of a source record, for dead letters."""

    topic: str = "shopify.targets"
    partition: int = -1
    offset: int = -1
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


_unknown_pause = wait_exponential_jitter(initial=1.0, max=8.0, jitter=1.0)


def _pause(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    if isinstance(error, Throttled):
        return error.wait_s
    if isinstance(error, ShopUnavailable):
        return SHOP_PAUSE_S
    return float(_unknown_pause(state))


def shop_of(key: bytes) -> bytes:
    """The part of a listing's key that is hashed: all of a shop is one lane."""
    return key.partition(b"/")[0]


def intent_key(intent: Intent) -> bytes:
    """The key of table ``intents``: by shop, so that it lives in the shop's lane."""
    return f"{intent.shop}/{intent.key}".encode()


def new_intent(shop: str, entries: list[Entry], now_ms: int) -> Intent:
    """A write with its exact bytes; the order of the fields never changes (Shopify compares them)."""
    key = str(uuid4())
    changes = []
    for entry in entries:
        _, item, location_id = pushes.listing_parts(entry.listing)
        changes.append(
            {
                "inventoryItemId": f"gid://shopify/InventoryItem/{item}",
                "locationId": f"gid://shopify/Location/{location_id}",
                "delta": entry.delta,
                "changeFromQuantity": None,
            }
        )
    variables = {
        "key": key,
        "input": {
            "name": "available",
            "reason": "correction",
            "referenceDocumentUri": f"gid://skustream/Push/{key}",
            "changes": changes,
        },
    }
    return Intent(
        key=key, shop=shop, variables=encode(variables).decode(), entries=entries, created_ms=now_ms
    )
