"""Makes the calls of one shop: as many at a time as its cost bucket pays for, and none while it fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential_jitter

from agents.shopify import intents, metrics
from agents.shopify.breaker import Breaker, State
from agents.shopify.looks import Looks
from agents.shopify.plan import ACTIVATE, ADJUST, CLOCK, LEVELS, SET, Activate, Read, Send, Work
from agents.shopify.waiting import Queue, Waiting
from app.errors import OutcomeUnknown, Rejected, Retry
from app.exactly_once import App, Lane
from app.records import listing_parts
from connectors.shopify.budget import FIRST_COST, Reservation
from connectors.shopify.client import CallRefused, ShopClient, ShopUnavailable, Throttled, UserFault
from tables import pushes, reactions
from tables.pushes import Intent, Need, PushState
from tables.reactions import TOO_COSTLY, Reaction, reaction_to

if TYPE_CHECKING:
    from agents.shopify.writer import Writer

T = TypeVar("T")

INTENT_AGE_S = 23 * 3600.0
"""Shopify forgets a key after 24 h and would execute the call again (facts: implementing idempotency)."""
CALLS_AT_ONCE = 10
"""Of one shop: enough that the answers' way does not hold up the bucket, few enough to be overseen."""
URGENT_CALLS = 2
"""Of these, kept for what reaches or leaves zero."""
SCAN_CALLS = 4
"""One step of the lane looks at so many calls' worth of waiting listings."""
DEFECT_LIMIT = 3
"""Calls refused as a whole, in a row, after which the shop is paused: the code or its data is defective."""
PUT_OFF_S = (1.0, 2.0, 4.0, 8.0)

log = structlog.get_logger(__name__)


class Expired(Exception):  # a fact about an intent, caught where it is raised
    """The intent is too old to be sent again."""


class Pump:
    """Carries out the work of one shop; what a former worker began goes first."""

    def __init__(self, app: App, writer: Writer, lane: Lane, shop: str) -> None:
        self.shop = shop
        self.waiting = Waiting()
        self.looks = Looks(app, shop, writer.hearing, self._look)
        self.breaker = Breaker(shop)
        self.entries_limit = pushes.MAX_ENTRIES
        self._app = app
        self._writer = writer
        self._lane = lane
        self._client: ShopClient = writer.clients.of(shop)
        self._calls: set[asyncio.Task[None]] = set()
        self._reserved: set[Reservation] = set()  # of calls that are decided or under way
        self._busy: set[str] = set()  # being read or activated, or put off
        self._trying: asyncio.Task[None] | None = None
        self.not_executed = 0  # calls of which the shop carried out nothing, in a row
        self._defects = 0  # calls that were refused as a whole, in a row
        self.answered_at: datetime | None = None  # when the shop last let us in
        self._wake = asyncio.Event()
        # Asked for, it costs a backlog nothing.
        metrics.WAITING.labels(shop).set_function(self.waiting.__len__)
        self._task = app.background(self._run(), f"pump {shop}")

    def stop(self) -> None:
        """The lane is gone; calls under way are left to its next owner, and take no points any more.

        The budget outlives the pump: what was decided and never sent would be missing in it for ever.
        """
        self.looks.stop()
        if self._trying is not None:
            self._trying.cancel()
        for task in (self._task, *self._calls):
            task.cancel()
        for reserved in self._reserved:
            self._client.budget.end(reserved)
        self._reserved.clear()
        metrics.WAITING.labels(self.shop).set_function(int)

    # -- what waits ------------------------------------------------------------------------------

    def notice(self, state: PushState) -> None:
        """A listing has changed."""
        listing = state.target.key
        self.looks.notice(listing, unexplained=state.noticed is not None)
        if listing in self._busy:
            return
        shadow = self._writer.shadows(state.target)
        need = pushes.need_of(state, shadow=shadow, due=listing in self.looks.due)
        if need is Need.NOTHING:
            self.waiting.drop([listing])
            return
        self.waiting.put(listing, self._queue_of(state, need))
        self._wake.set()

    def _queue_of(self, state: PushState, need: Need) -> Queue:
        if need is Need.READ:
            return self.waiting.unread
        return self.waiting.urgent if pushes.crosses_zero(state) else self.waiting.ready

    def drop(self, listing: str) -> None:
        """Nothing is to be done about a listing."""
        self.take([listing], busy=False)
        self.looks.done([listing])

    def take(self, listings: Sequence[str], *, busy: bool) -> None:
        """A call is made about these listings; ``busy`` ones are left alone until ``done``."""
        self.waiting.drop(listings)
        if busy:
            self._busy.update(listings)

    def done(self, listings: Collection[str]) -> None:
        """These listings were read or activated."""
        self._busy.difference_update(listings)
        self.looks.done(listings)

    def carry_out(self, intent: Intent) -> None:
        """Send a committed intent that no call carries yet."""
        self._start(self._carry_out(intent, None))

    def put_off(self, listings: Sequence[str], times: int = 1) -> None:
        """Try refused listings again later."""
        pause_s = PUT_OFF_S[min(times, len(PUT_OFF_S)) - 1]
        self.take(listings, busy=True)
        for listing in listings:
            asyncio.get_running_loop().call_later(pause_s, self._again, listing)

    def _look(self, listing: str) -> None:
        if listing not in self._busy:  # else it is looked at when that is over
            self._again(listing)

    def _again(self, listing: str) -> None:
        """Look at a listing again, whatever it needs."""
        self._busy.discard(listing)
        if listing not in self.waiting:
            self.waiting.put(listing, self.waiting.ready)
        self._wake.set()

    # -- what may be called ----------------------------------------------------------------------

    def next_of(self, queue: Queue) -> list[str]:
        """The listings that the next step should look at."""
        return queue.first(min(self._free(urgent=queue.urgent), SCAN_CALLS) * self.entries_limit)

    def reserve(self, kind: str, size: int, queue: Queue) -> Reservation | None:
        """Take the points for a call from the budget; None when it cannot be made now."""
        if self._free(urgent=queue.urgent) <= 0:
            return None
        points = self._client.budget.expected(kind, size)
        if self._client.budget.wait_s(points, urgent=queue.urgent) > 0:
            queue.points = points
            return None
        queue.points = FIRST_COST
        self.waiting.served(queue)
        reserved = self._client.budget.begin(kind, size)
        self._reserved.add(reserved)
        return reserved

    def _free(self, *, urgent: bool) -> int:
        if self.breaker.state is not State.CLOSED:
            return 1 if not self._reserved and self.breaker.wait_s == 0 else 0
        return max(0, CALLS_AT_ONCE - len(self._reserved) - (0 if urgent else URGENT_CALLS))

    async def _ready(self) -> None:
        """Wait until something waits that can be called for."""
        while True:
            self._wake.clear()
            wait_s = min(self._wait_s(queue) for queue in self.waiting.queues)
            if wait_s == 0:
                return
            try:
                async with asyncio.timeout(None if wait_s == float("inf") else wait_s):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _wait_s(self, queue: Queue) -> float:
        if not queue:
            return float("inf")
        if self._free(urgent=queue.urgent) <= 0:
            # An answer will wake us, or else it is time for a probe.
            return float("inf") if self._reserved else max(self.breaker.wait_s, 0.01)
        return self._client.budget.wait_s(queue.points, urgent=queue.urgent)

    async def _run(self) -> None:
        while True:
            await self._ready()
            work: list[Work] = await self._lane.submit(partial(self._writer.next_work, pump=self))
            for one in work:
                self._start(self._do(one))

    def _start(self, call: Any) -> None:
        task = self._app.background(call, f"call to {self.shop}")
        self._calls.add(task)
        task.add_done_callback(self._done)
        metrics.UNDER_WAY.labels(self.shop).set(len(self._calls))

    def _done(self, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        metrics.UNDER_WAY.labels(self.shop).set(len(self._calls))
        self._wake.set()

    # -- calls -----------------------------------------------------------------------------------

    async def _do(self, work: Work) -> None:
        try:
            if isinstance(work, Send):
                await self._carry_out(work.intent, work.reserved)
            elif isinstance(work, Read):
                await self._read(work)
            else:
                await self._activate(work)
        finally:
            self._reserved.discard(work.reserved)

    async def _carry_out(self, intent: Intent, reserved: Reservation | None) -> None:
        """Carry out a write exactly once.

        1. The intent, with its key and its exact bytes, was committed together with the listings that it is
           about: from here on they are in no other write, whoever owns the lane.
        2. Right before each send its age is checked: a key that the shop has forgotten would be executed
           again. An intent that is too old is never sent; reading decides what became of it.
        3. The stored bytes are sent, and again under the same key for as long as nobody can tell whether they
           were carried out: the shop answers a repetition without doing it twice.
        4. The answer, what it means for each listing, and the end of the intent are committed together.

        A crash before 4 leaves the intent, and the lane's next owner begins at 2.
        """
        try:
            with metrics.CALLS.labels(self.shop).time():
                faults = await self._sent(intent, reserved)
            self._defects = 0
        except Expired as error:
            faults = [UserFault(code=reactions.EXPIRED, message=str(error))]
        except CallRefused as error:
            faults = [await self._refused(intent, error)]
        self._note(intent, faults)
        await self._lane.submit(partial(self._writer.settle, pump=self, intent=intent, faults=faults))

    def _note(self, intent: Intent, faults: Sequence[UserFault]) -> None:
        """Count what the shop did not carry out, and tell of keys that stood for another body."""
        reaction = reaction_to(fault.code for fault in faults) if faults else None
        self.not_executed = self.not_executed + 1 if reaction is Reaction.NEW_KEY else 0
        if reaction is Reaction.DOUBT:
            log.error(
                "nobody can tell what became of a write; its listings are read",
                shop=self.shop,
                intent=intent.key,
                error=faults[0].message,
            )

    async def _sent(self, intent: Intent, reserved: Reservation | None) -> list[UserFault]:
        kind = ADJUST if intent.kind == "adjust" else SET
        body, size = intent.variables.encode(), len(intent.entries)

        async def send(points: Reservation) -> list[UserFault]:
            age_s = time.time() - intent.created_ms / 1000
            if age_s > INTENT_AGE_S:
                raise Expired(f"the intent is {age_s / 3600:.1f} h old; its outcome is unknown")
            faults = await self._client.write(intent.kind, body, size, points)
            if faults and reaction_to(fault.code for fault in faults) is Reaction.SAME_KEY:
                raise OutcomeUnknown(f"{self.shop}: the same key is being executed")
            return faults

        return await self._called(kind, size, reserved, send)

    async def _read(self, read: Read) -> None:
        by_item = {listing_parts(asked.listing)[1]: asked.listing for asked in read.listings}

        async def look(points: Reservation) -> dict[str, Any]:
            found = await self._client.levels(read.location_id, by_item, points)
            return {by_item[item]: level for item, level in found.items()}

        try:
            levels = await self._called(LEVELS, len(by_item), read.reserved, look)
        except Rejected as error:
            await self._defect(error)
            self.put_off(list(by_item.values()), self._defects)
            return
        await self._lane.submit(partial(self._writer.take_reads, pump=self, read=read, found=levels))

    async def _activate(self, activate: Activate) -> None:
        body = intents.activation(activate.listing)

        async def send(points: Reservation) -> list[UserFault]:
            return await self._client.write("activate", body, 1, points)

        try:
            faults = await self._called(ACTIVATE, 1, activate.reserved, send)
        except CallRefused as error:
            faults = [UserFault(message=str(error))]
        await self._lane.submit(partial(self._writer.activated, pump=self, activate=activate, faults=faults))

    async def _called(
        self,
        kind: str,
        size: int,
        reserved: Reservation | None,
        call: Callable[[Reservation], Awaitable[T]],
    ) -> T:
        """Make a call until it has an answer, as the bucket and the breaker allow."""
        answer: T
        async for attempt in self._retrying():
            with attempt:
                answer = await self._tried(kind, size, reserved, call)
            reserved = None
        return answer

    async def _tried(
        self,
        kind: str,
        size: int,
        reserved: Reservation | None,
        call: Callable[[Reservation], Awaitable[T]],
    ) -> T:
        points = reserved
        try:
            await self.breaker.enter()
            points = points or await self._afford(kind, size)
            answer = await call(points)
        except Expired:
            self.breaker.untried()
            raise
        except ShopUnavailable as error:
            await self._pause(str(error))
            raise
        except OutcomeUnknown as error:
            self.breaker.failed(str(error))
            raise
        except (Throttled, CallRefused):
            await self._answered()
            raise
        finally:
            if points is not None:
                self._client.budget.end(points)
        await self._answered()
        return answer

    async def _afford(self, kind: str, size: int) -> Reservation:
        """The points for a call that was decided before: it goes before what is not."""
        budget = self._client.budget
        wait_s = budget.wait_s(budget.expected(kind, size), urgent=True)
        while wait_s > 0:
            await asyncio.sleep(wait_s)  # time fills a bucket, nobody signals it
            wait_s = budget.wait_s(budget.expected(kind, size), urgent=True)
        return budget.begin(kind, size)

    async def _answered(self) -> None:
        self.answered_at = datetime.now(UTC)
        if self.breaker.succeeded():
            await self._lane.submit(partial(self._writer.resume, shop=self.shop))
            metrics.PAUSED.labels(self.shop).set(0)
            log.info("the shop lets us in again; its work goes on", shop=self.shop)

    def resume(self) -> None:
        """Try a paused shop at once."""
        self.breaker.probe_now()
        self._wake.set()
        if not self.waiting and (self._trying is None or self._trying.done()):
            self._trying = self._app.background(self._try(), f"question to {self.shop}")

    def hold(self, reason: str, *, asked: bool = False) -> None:
        """The table says that the shop is paused; when that was ``asked`` for, it is not tried."""
        self.breaker.pause(reason, probe=not asked)
        metrics.PAUSED.labels(self.shop).set(1)

    async def _try(self) -> None:
        """Ask a shop whether it lets us in. Only when nothing is to be written: that asks better."""
        with suppress(CallRefused):  # it let us in
            await self._called(CLOCK, 1, None, self._client.clock)
        self._wake.set()  # for what has come meanwhile

    async def _pause(self, reason: str) -> None:
        if self.breaker.pause(reason):
            await self._lane.submit(partial(self._writer.pause, shop=self.shop, reason=reason))
            metrics.PAUSED.labels(self.shop).set(1)
            log.error(
                "the shop is paused and its work is kept; it is tried again every minute, and at once after "
                "'skustream shop resume'",
                shop=self.shop,
                reason=reason,
            )

    async def _refused(self, intent: Intent, error: CallRefused) -> UserFault:
        """A call was refused as a whole: it is too costly, or it is wrong."""
        if TOO_COSTLY in error.codes and len(intent.entries) > 1:
            self.entries_limit = max(1, len(intent.entries) // 2)
            log.warning("a write costs more than a call may", shop=self.shop, entries=len(intent.entries))
            return UserFault(code=TOO_COSTLY, message=str(error))
        await self._defect(error)
        return UserFault(code=reactions.REFUSED, message=str(error))

    async def _defect(self, error: Rejected) -> None:
        """Tell of a call that is wrong, or whose answer is; after some in a row the shop is paused."""
        self._defects += 1
        metrics.DEFECTS.labels(self.shop).inc()
        log.error("a call was refused as a whole: a defect", shop=self.shop, error=str(error))
        if self._defects >= DEFECT_LIMIT:
            await self._pause(f"{self._defects} calls in a row were refused as a whole: {error}")

    def _retrying(self) -> AsyncRetrying:
        return AsyncRetrying(
            retry=retry_if_exception_type(Retry), wait=_pause_s, before_sleep=self._told, reraise=True
        )

    def _told(self, state: RetryCallState) -> None:
        assert state.outcome is not None
        assert state.next_action is not None
        error = state.outcome.exception()
        metrics.RETRIES.labels(self.shop, type(error).__name__).inc()
        log.warning(
            "a call to the shop is made again",
            shop=self.shop,
            tries=state.attempt_number,
            pause_s=round(state.next_action.sleep, 1),
            error=str(error),
        )


_unknown_pause_s = wait_exponential_jitter(initial=1.0, max=8.0, jitter=1.0)


def _pause_s(state: RetryCallState) -> float:
    """Before the next try; a paused shop's are paced by the breaker."""
    error = state.outcome.exception() if state.outcome is not None else None
    if isinstance(error, Throttled):
        return error.wait_s
    return 0.0 if isinstance(error, ShopUnavailable) else float(_unknown_pause_s(state))
