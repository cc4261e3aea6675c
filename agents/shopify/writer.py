"""What the writer decides inside a shop's lane: over targets, reads, answers, corrections and controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

import msgspec
import structlog
from msgspec.structs import replace

from agents.hearing import Hearing
from agents.shopify import intents, metrics
from agents.shopify.levels import Levels
from agents.shopify.plan import Activate, Plan, Read, Work
from agents.shopify.pump import Pump
from agents.source import own_key, payload_of
from app.errors import Rejected
from app.exactly_once import App, Lane, SourceRecord, Table, Transaction
from app.records import (
    Control,
    Correction,
    Instant,
    LevelRead,
    Push,
    PushResult,
    Record,
    Target,
    encode,
    headers,
    shop_of,
)
from connectors.shopify.client import ShopClients, UserFault
from tables import edits, pushes
from tables.pushes import Entry, Intent, Need, PushState
from tables.reactions import Fault, Reaction, Verdict, verdicts

log = structlog.get_logger(__name__)

decode_target = msgspec.json.Decoder(Target).decode
decode_correction = msgspec.json.Decoder(Correction).decode
decode_control = msgspec.json.Decoder(Control).decode


class Paused(Record, frozen=True, kw_only=True):
    """A shop that does not let us in (table ``paused``): its work is kept, a restart does not forget it."""

    shop: str
    reason: str
    since: Instant
    asked: bool = False  # by somebody: it is not tried again before it is resumed


class Rules(NamedTuple):
    """The writer's settings."""

    max_refusals: int  # of a listing, before it is held
    hand_edit_s: float  # how long an unexplained level must stay to be taken for a hand edit


def register(app: App, clients: ShopClients, rules: Rules, hearing: Hearing) -> None:
    """Declare the writer's tables, topics and agents on a service."""
    writer = Writer(app, clients, rules, hearing)
    for topic, take in (
        ("shopify.targets", writer.take),
        ("shopify.levels", writer.levels.take),
        ("shopify.corrections", writer.correct),
        ("shopify.controls", writer.control),
    ):
        _agent(app, topic, take)


def _agent(app: App, topic: str, take: Callable[[Transaction, SourceRecord], None]) -> None:
    source = app.batch_topic(topic, route=shop_of)

    @app.agent(source, name=f"write.{topic}")  # type: ignore[untyped-decorator]  # faust ships no types
    async def write(batches: Any) -> None:
        async for batch in batches:
            await app.process(batch, take)


class Writer:
    """Decides over the tables ``pushes``, ``intents`` and ``paused``; owns the pumps."""

    def __init__(self, app: App, clients: ShopClients, rules: Rules, hearing: Hearing) -> None:
        self.pushes: Table[PushState] = app.state_table("pushes", PushState)
        self.intents: Table[Intent] = app.state_table("intents", Intent)
        self.paused: Table[Paused] = app.state_table("paused", Paused)
        self.clients = clients
        self.hand_edit_s = rules.hand_edit_s
        self.hearing = hearing
        self.levels = Levels(self)
        self._app = app
        self._max_refusals = rules.max_refusals
        self._pumps: dict[Lane, dict[str, Pump]] = {}
        app.on_lane_opened(self._open)
        app.on_lane_closed(self._close)
        app.on_stopped(clients.close)

    # -- what comes in ---------------------------------------------------------------------------

    def take(self, transaction: Transaction, source: SourceRecord) -> None:
        """Take the newest target of a listing."""
        if source.value is None:
            return  # the listing is gone: nothing more is written
        target = pushes.fresh(decode_target(payload_of(source, Target)), transaction.now_ms)
        if target.off and target.shop not in self.clients.shops:
            return  # its listings were taken away with the shop
        key = target.key.encode()  # which was the record's key as well before there were generations
        self.own_key(source, target.shop, target.key if source.key == key else target.record_key)
        known = transaction.get(self.pushes, key)
        state = pushes.take_target(known, target)
        if state is not known:
            self.put(transaction, edits.explained_now(state))

    def correct(self, transaction: Transaction, source: SourceRecord) -> None:
        """Take a correction: unless there is an objection, the belief is replaced, or a value is written."""
        correction = decode_correction(payload_of(source, Correction))
        key = self.own_key(source, correction.shop, correction.key)
        state = transaction.get(self.pushes, key)
        objection = pushes.objection(state, correction, transaction.now_ms)
        if state is None or objection:
            self._object(transaction, correction, objection)
            return
        state = pushes.correct(state, correction, transaction.now_ms)
        entry = pushes.correcting_entry(state) if correction.action == "set" else None
        if entry is not None and not self.shadows(state.target):
            intent = intents.setting(correction, entry, transaction.now_ms)
            transaction.put(self.intents, intents.intent_key(intent), intent)
            state = pushes.begin(state, intent)
            transaction.after_commit(partial(self._carry_out, transaction.lane, intent))
        self.put(transaction, state)
        transaction.after_commit(metrics.CORRECTIONS.labels(correction.shop, "taken").inc)
        log.info(
            "a correction was taken", listing=correction.key, action=correction.action, why=correction.reason
        )

    def _object(self, transaction: Transaction, correction: Correction, objection: str) -> None:
        transaction.after_commit(metrics.CORRECTIONS.labels(correction.shop, "stale").inc)
        log.info("a correction was dropped", listing=correction.key, id=correction.id, why=objection)

    def control(self, transaction: Transaction, source: SourceRecord) -> None:
        """Take what an operator asks, or the receiver when an app was removed: pause a shop, or try again."""
        control = decode_control(payload_of(source, Control))
        key = self.own_key(source, control.shop, control.shop)
        if control.left_at is not None:
            self._left(transaction, control.shop, control.reason, control.left_at)
            return
        if control.action == "pause":
            self.pause(transaction, control.shop, control.reason or "asked for", asked=True)
            transaction.after_commit(partial(self._hold, transaction.lane, control.shop, control.reason))
            return
        if transaction.get(self.paused, key) is not None:
            transaction.delete(self.paused, key)
        transaction.after_commit(partial(self._resume, transaction.lane, control.shop))

    def _left(self, transaction: Transaction, shop: str, reason: str, at: datetime) -> None:
        """A shop says that it took our access away ``at`` an instant; only a call can tell whether it did.

        The webhook may be hours late, and the app installed again since. So it is nothing to a shop that has
        answered after it, and any other is paused with a try at once: one that lets us in goes on, one that
        does not is tried every minute. Comparing the shop's clock with ours is safe: whatever follows,
        the next call is answered or refused.
        """
        pump = self._pumps.get(transaction.lane, {}).get(shop)
        answered_at = pump.answered_at if pump is not None else None
        if answered_at is not None and answered_at > at:
            log.info("a shop has answered since it took our access away", shop=shop, left_at=at)
        elif transaction.get(self.paused, shop.encode()) is None:
            self.pause(transaction, shop, reason)
            transaction.after_commit(partial(self._suspect, transaction.lane, shop, reason))

    def own_key(self, source: SourceRecord, shop: str, expected: str) -> bytes:
        """The key of a record, which has to be the one that its body names, of a shop that we have."""
        key = own_key(source, expected)
        if shop not in self.clients.shops:
            raise Rejected(f"the shops file (SKUSTREAM_SHOPS_FILE) has no shop {shop}")
        return key

    # -- what a pump does next -------------------------------------------------------------------

    def next_work(self, transaction: Transaction, pump: Pump) -> list[Work]:
        """The next calls, as many as the shop's bucket pays for, each write with its intent staged."""
        work: list[Work] = []
        for queue in pump.waiting.queues:
            plan = Plan(entries=pump.entries_limit)
            for listing in pump.next_of(queue):
                state = transaction.get(self.pushes, listing.encode())
                if state is None or not self._add(transaction, plan, pump, state):
                    pump.drop(listing)
            for batch in plan.batches():
                reserved = pump.reserve(batch.kind, len(batch.listings), queue)
                if reserved is None:
                    break
                pump.take(batch.listings, busy=batch.need is not Need.PUSH)
                work.append(batch.work(reserved, partial(self._begin, transaction, pump.shop)))
        return work

    def _add(self, transaction: Transaction, plan: Plan, pump: Pump, state: PushState) -> bool:
        """Plan for a listing; returns whether there is anything to be called for."""
        shadow = self.shadows(state.target)
        need = pushes.need_of(state, shadow=shadow, due=state.target.key in pump.looks.due)
        if need is Need.TELL:
            self._tell_shadow(transaction, state)
        if need in (Need.TELL, Need.NOTHING):
            return False
        plan.add(need, state)
        return True

    def _begin(self, transaction: Transaction, shop: str, states: Sequence[PushState]) -> Intent:
        """Stage an intent: it is committed, with the exact bytes, before any of them is sent."""
        entries = pushes.entries_of(states)
        intent = intents.adjusting(shop, entries, transaction.now_ms)
        transaction.put(self.intents, intents.intent_key(intent), intent)
        by_listing = {state.target.key: state for state in states}
        for entry in entries:
            state = pushes.begin(by_listing[entry.listing], intent)
            transaction.put(self.pushes, entry.listing.encode(), state)
        return intent

    def shadows(self, target: Target) -> bool:
        """Whether nothing is written to a listing: its shop or location is in shadow mode."""
        shop = self.clients.shops[target.shop]
        return shop.shadow or target.location_id in shop.shadow_locations

    def _tell_shadow(self, transaction: Transaction, state: PushState) -> None:
        """Say what would be written now."""
        delta = pushes.difference(state)
        transaction.put(self.pushes, state.target.key.encode(), replace(state, shadowed=delta))
        if delta:
            self._tell(transaction, pushes.entry_of(state), "", PushResult.SHADOW)

    # -- answers ---------------------------------------------------------------------------------

    def take_reads(
        self, transaction: Transaction, pump: Pump, read: Read, found: Mapping[str, LevelRead | None]
    ) -> None:
        """Take what the shop says its listings have."""
        transaction.after_commit(partial(pump.done, [asked.listing for asked in read.listings]))
        for asked in read.listings:
            state = transaction.get(self.pushes, asked.listing.encode())
            level = found[asked.listing]
            if state is None:
                continue
            if level is None:
                error = "INVALID_INVENTORY_ITEM: the shop has no such inventory item"
                self.put(transaction, self._refuse(transaction, pump, state, error, self._max_refusals))
            elif state.offset is None:
                self._take_first(transaction, state, level, asked.physical_total)
            elif state.noticed is not None:
                self.levels.look(transaction, pump, state, level, asked.version)
            else:  # explained meanwhile, maybe by a target that is to be written
                transaction.after_commit(partial(self._notice, transaction.lane, state))

    def _take_first(
        self, transaction: Transaction, state: PushState, level: LevelRead, physical_total: int
    ) -> None:
        taken = pushes.take_read(state, level, physical_total)
        if state.doubt is not None and taken.offset is not None:
            result = pushes.pending_result(state, level)
            entry, intent = state.doubt.entry, state.doubt.intent
            self._tell(transaction, entry, intent, result, "decided by reading")
        self.put(transaction, taken)

    def activated(
        self, transaction: Transaction, pump: Pump, activate: Activate, faults: Sequence[UserFault]
    ) -> None:
        """Take the answer to an activation: what the level holds now is read."""
        transaction.after_commit(partial(pump.done, [activate.listing]))
        state = transaction.get(self.pushes, activate.listing.encode())
        if state is None:
            return
        if faults:
            error = "; ".join(fault.message for fault in faults)
            state = self._refuse(transaction, pump, state, f"inventoryActivate: {error}", self._max_refusals)
        else:
            state = replace(pushes.forget(state), intent=state.intent, inactive=False)
        self.put(transaction, state)

    def settle(
        self, transaction: Transaction, pump: Pump, intent: Intent, faults: Sequence[UserFault]
    ) -> None:
        """Take the answer of a call, no faults being success; the intent is done with."""
        told = [Fault(fault.index, fault.code, fault.message) for fault in faults]
        judged = verdicts(told, len(intent.entries)) if told else [None] * len(intent.entries)
        for entry, verdict in zip(intent.entries, judged, strict=True):
            state = transaction.get(self.pushes, entry.listing.encode())
            assert state is not None, "an intent is only made of known listings"
            state, result = self._settled(transaction, pump, state, entry, intent, verdict)
            self.put(transaction, edits.explained_now(state))
            self._tell(transaction, entry, intent.key, result, verdict.error if verdict else "")
        transaction.delete(self.intents, intents.intent_key(intent))

    def _settled(
        self,
        transaction: Transaction,
        pump: Pump,
        state: PushState,
        entry: Entry,
        intent: Intent,
        verdict: Verdict | None,
    ) -> tuple[PushState, PushResult]:
        """What becomes of a listing; no verdict is success. See ``tables.reactions``."""
        if verdict is None:
            return pushes.acknowledge(state, entry), PushResult.ACKNOWLEDGED
        match verdict.reaction:
            case None:
                return pushes.release(state, alone=verdict.alone), PushResult.SPLIT
            case Reaction.DOUBT:
                return pushes.doubt(state, entry, intent), PushResult.EXPIRED
            case Reaction.READ:
                return pushes.forget(state), PushResult.STALE
            case Reaction.NEW_KEY | Reaction.SAME_KEY:
                pump.put_off([entry.listing], pump.not_executed)
                return pushes.release(state, alone=False), PushResult.NOT_EXECUTED
            case Reaction.ACTIVATE:
                state = replace(state, inactive=True)
        limit = 1 if verdict.reaction is Reaction.HOLD else self._max_refusals
        return self._refuse(transaction, pump, state, verdict.error, limit), PushResult.REFUSED

    def _refuse(
        self, transaction: Transaction, pump: Pump, state: PushState, error: str, limit: int
    ) -> PushState:
        refused = pushes.refuse(state, error, limit)
        pump.put_off([state.target.key], refused.refusals)
        if refused.held:
            self._dead_letter(transaction, refused)
        return refused

    def _dead_letter(self, transaction: Transaction, state: PushState) -> None:
        target = state.target
        key = target.key.encode()
        error = Rejected(
            f"{target.key}: refused {state.refusals} times (SKUSTREAM_MAX_REFUSALS): {state.held}"
        )
        source = SourceRecord.stand_in(
            "shopify.targets", transaction.now_ms, target.record_key.encode(), encode(target)
        )
        letter = self._app.dead_letter(source, error, transaction.now_ms)
        topic, route = f"dead-letters.{self._app.service}", target.shop.encode()
        transaction.emit(topic, key, letter.value, letter.headers, route)
        log.error(
            "a listing is not written any more until its next target",
            error=str(error),
            correlation_id=target.correlation_id,
        )

    def _tell(
        self, transaction: Transaction, entry: Entry, intent: str, result: PushResult, error: str = ""
    ) -> None:
        at = datetime.fromtimestamp(transaction.now_ms / 1000, UTC)
        push = pushes.push_of(entry, intent, result, at=at, error=error)
        head = headers(push, push.correlation_id)
        transaction.emit("shopify.pushes", entry.listing.encode(), encode(push), head, push.shop.encode())
        transaction.after_commit(partial(_measure, push, at))

    def put(self, transaction: Transaction, state: PushState) -> None:
        """Stage a listing's state; what it needs is looked at after the commit."""
        transaction.put(self.pushes, state.target.key.encode(), state)
        transaction.after_commit(partial(self._notice, transaction.lane, state))

    # -- shops that do not let us in -------------------------------------------------------------

    def pause(self, transaction: Transaction, shop: str, reason: str, *, asked: bool = False) -> None:
        """Remember that a shop is paused."""
        since = datetime.fromtimestamp(transaction.now_ms / 1000, UTC)
        transaction.put(
            self.paused, shop.encode(), Paused(shop=shop, reason=reason, since=since, asked=asked)
        )

    def resume(self, transaction: Transaction, shop: str) -> None:
        """A shop lets us in again."""
        transaction.delete(self.paused, shop.encode())

    # -- pumps -----------------------------------------------------------------------------------

    def _open(self, lane: Lane) -> None:
        self._pumps[lane] = {}
        for _, paused in lane.scan(self.paused):
            if paused.shop in self.clients.shops:
                self._pump(lane, paused.shop).hold(paused.reason, asked=paused.asked)
        for _, intent in lane.scan(self.intents):
            self._carry_out(lane, intent)
        waiting: list[PushState] = []
        for _, state in lane.scan(self.pushes):
            if self._needed(state):
                waiting.append(state)
        for state in sorted(waiting, key=_age):
            self._notice(lane, state)

    def _needed(self, state: PushState) -> bool:
        if state.target.shop not in self.clients.shops:
            return False
        shadow = self.shadows(state.target)
        return state.noticed is not None or pushes.need_of(state, shadow=shadow) is not Need.NOTHING

    def _close(self, lane: Lane) -> None:
        for pump in self._pumps.pop(lane, {}).values():
            pump.stop()

    def _notice(self, lane: Lane, state: PushState) -> None:
        if lane in self._pumps:
            self._pump(lane, state.target.shop).notice(state)

    def _carry_out(self, lane: Lane, intent: Intent) -> None:
        if lane in self._pumps and intent.shop in self.clients.shops:
            self._pump(lane, intent.shop).carry_out(intent)

    def _resume(self, lane: Lane, shop: str) -> None:
        if lane in self._pumps:
            self._pump(lane, shop).resume()

    def _suspect(self, lane: Lane, shop: str, reason: str) -> None:
        if lane in self._pumps:
            self._pump(lane, shop).hold(reason)
            self._pump(lane, shop).resume()

    def _hold(self, lane: Lane, shop: str, reason: str) -> None:
        if lane in self._pumps:
            self._pump(lane, shop).hold(reason, asked=True)

    def _pump(self, lane: Lane, shop: str) -> Pump:
        known = self._pumps[lane]
        if shop not in known:
            known[shop] = Pump(self._app, self, lane, shop)
        return known[shop]


def _measure(push: Push, at: datetime) -> None:
    metrics.PUSHES.labels(push.shop, str(push.result)).inc()
    if push.result is PushResult.ACKNOWLEDGED and push.occurred_at is not None:
        metrics.SYNC.labels(push.shop).observe(max(0.0, (at - push.occurred_at).total_seconds()))
    log.debug(
        "a listing was written",
        listing=f"{push.shop}/{push.item}/{push.location_id}",
        delta=push.delta,
        result=str(push.result),
        intent=push.intent,
        correlation_id=push.correlation_id,
    )


def _age(state: PushState) -> float:
    """For sorting: the listing whose target is the oldest comes first."""
    return state.target.updated_at.timestamp() if state.target.updated_at is not None else 0.0
