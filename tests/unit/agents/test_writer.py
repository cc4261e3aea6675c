"""The writer against the simulator over real HTTP: what it writes, once, whatever the shop answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from gql import gql
from msgspec.structs import replace
from support.one_lane import EVERYTHING, Bench, Memory, bench
from support.simulated import CAP, MAIN, STORE, TEE, Simulated, simulated

from agents.hearing import Heard
from agents.shopify import intents, looks, metrics, pump
from agents.shopify.breaker import FAILURES, PAUSED_S, State
from agents.shopify.plan import Read, Send
from app.records import (
    Control,
    Correction,
    Drift,
    DriftClass,
    Envelope,
    LevelChange,
    LevelRead,
    Movement,
    PushResult,
    Target,
    encode,
)
from app.shops import Shop
from connectors.shopify import documents
from connectors.shopify.client import CallRefused, UserFault
from connectors.shopify.simulator.graphql import load_schema
from tables import pushes
from tables.pushes import Entry, Need, PushState
from tables.reactions import REACTIONS, Reaction
from tables.stock import ADOPTION_LIFE

pytestmark = pytest.mark.asyncio
DOMAIN = "sim.myshopify.com"
GHOST = 999
PLENTY = {
    "requestedQueryCost": 13,
    "throttleStatus": {"maximumAvailable": 2000, "currentlyAvailable": 2000, "restoreRate": 100},
}
SOMEWHERE = Shop(
    domain=DOMAIN,
    api_url="http://127.0.0.1:9",
    access_token="example",
    webhook_secrets=(),
    default_location_id=1,
)


@pytest_asyncio.fixture
async def shop() -> AsyncIterator[Simulated]:
    async with simulated(subscribed="none") as running:
        yield running


def target(item: int, wanted: int, *, version: int = 1, location: int = MAIN, **more: Any) -> Target:
    fields = {"available": wanted, "committed": 0, "physical_total": 0, **more}
    return Target(
        shop=DOMAIN, item=item, location_id=location, sku=f"SKU-{item}", location="main",
        wanted=wanted, version=version, **fields,
    )  # fmt: skip


def level(item: int, available: int | None, *, seconds: int = 0, topic: str = "update") -> Any:
    at = datetime(2026, 11, 2, tzinfo=UTC) + timedelta(seconds=seconds)
    change = LevelChange(inventory_item_id=item, location_id=MAIN, available=available, updated_at=at)
    body = msgspec.Raw(encode(change))
    return Envelope(shop=DOMAIN, topic=f"inventory_levels/{topic}", received_at=at, body=body), change


async def settled(writer: Bench, *items: int) -> None:
    """Until the listings show what they should, as far as the writer knows."""

    def done() -> bool:
        states = [writer.state(item) for item in items]
        return all(not s.intent and s.offset is not None and not pushes.difference(s) for s in states)

    await writer.until(done, f"{items} are written")


async def test_a_listing_is_read_and_then_gets_the_difference(shop: Simulated) -> None:
    async with bench(shop.shop) as writer:
        writer.take(target(TEE, 4))
        writer.take(target(CAP, 9))
        await settled(writer, TEE, CAP)
        assert (await shop.available(TEE), await shop.available(CAP)) == (4, 9)
        assert sorted(push.delta for push in writer.told(PushResult.ACKNOWLEDGED)) == [-6, 4]
        assert writer.intents() == []


async def test_what_ships_between_an_adoption_and_the_writers_start_is_subtracted_once(
    shop: Simulated,
) -> None:
    order = await shop.sell((TEE, 3))  # adopted: 7 available and 3 committed
    await shop.act("fulfil", shop=DOMAIN, order=order["id"])
    async with bench(shop.shop) as writer:
        writer.take(target(TEE, 7, committed=3, adopted=10, updated_at=datetime.now(UTC)))
        writer.take(target(CAP, 9))
        await settled(writer, TEE, CAP)  # when the cap is written, the tee would have been as well
        writer.take(target(TEE, 7, version=2, physical_total=-3))  # the shipment is told
        writer.level(*level(TEE, 7))
        await settled(writer, TEE)
        assert writer.state(TEE).noticed is None
        assert [push.item for push in writer.told()] == [CAP]
    assert await shop.available(TEE) == 7


async def test_a_listing_that_was_adopted_long_ago_is_read(shop: Simulated) -> None:
    async with bench(shop.shop) as writer:
        long_ago = datetime.now(UTC) - ADOPTION_LIFE - timedelta(seconds=1)
        writer.take(target(TEE, 7, adopted=99, updated_at=long_ago))
        writer.take(target(CAP, 7, adopted=99))
        await settled(writer, TEE, CAP)
    assert (await shop.available(TEE), await shop.available(CAP)) == (7, 7)


async def test_the_metric_of_what_waits_follows_without_being_told() -> None:
    def waiting() -> float:
        return metrics.WAITING.labels(DOMAIN).collect()[0].samples[0].value

    writer = Bench(SOMEWHERE)
    writer.lane.open()
    writer.pump.breaker.pause("not now")
    writer.take(target(TEE, 4))
    writer.take(target(CAP, 4))
    assert waiting() == 2
    await writer.lane.close()
    assert waiting() == 0
    await writer.clients.close()


async def test_a_target_comes_under_its_listing_and_stock_key_or_as_before_under_its_listing() -> None:
    writer = Bench(SOMEWHERE)
    writer.take(target(TEE, 4))
    writer.take(target(TEE, 5, version=2), key=f"{DOMAIN}/{TEE}/{MAIN}")
    writer.take(target(TEE, 6, version=3), key=f"{DOMAIN}/{TEE}/{MAIN}/OTHER@main")
    assert writer.state(TEE).target.wanted == 5
    assert [str(error).partition(":")[0] for error in writer.refused] == ["shopify.targets"]
    await writer.clients.close()


@pytest.mark.parametrize(
    "fault",
    [
        "error_before",
        "error_after",
        "drop_connection",
        "internal_before",
        "internal_after",
        "http_429",
        "throttled",
    ],
)
async def test_whatever_a_call_meets_the_write_is_applied_once(
    shop: Simulated, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pump, "_unknown_pause_s", lambda state: 0.01)
    async with bench(shop.shop) as writer:
        writer.take(target(TEE, 10))
        await settled(writer, TEE)
        await shop.act("faults", next={fault: 1})
        writer.take(target(TEE, 7, version=2))
        await settled(writer, TEE)
        assert await shop.available(TEE) == 7
        assert [push["delta"] for push in await shop.pushes()] == [-3]


async def test_a_writer_that_dies_with_a_call_under_way_is_succeeded_under_the_same_key(
    shop: Simulated,
) -> None:
    memory = Memory()
    async with bench(shop.shop, memory) as first:
        first.take(target(TEE, 10))
        await settled(first, TEE)
        await shop.act("faults", next={"error_after": 1})
        first.take(target(TEE, 4, version=2))
        await first.until(lambda: first.pump.breaker._failures, "the answer is lost")
        [intent] = first.intents()
    async with bench(shop.shop, memory) as second:
        await settled(second, TEE)
    assert [(push["delta"], push["key"]) for push in await shop.pushes()] == [(-6, intent.key)]
    assert await shop.available(TEE) == 4


async def test_a_listing_that_the_shop_refuses_goes_alone_and_is_held(
    shop: Simulated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pump, "PUT_OFF_S", (0.01,))
    async with bench(shop.shop) as writer:
        writer.take(target(GHOST, 3))
        writer.take(target(TEE, 3))
        await settled(writer, TEE)
        await writer.until(writer.letters, "the ghost is a dead letter")
        assert writer.state(GHOST).held.startswith("INVALID_INVENTORY_ITEM")
        assert str(GHOST) in writer.letters()[0].message


# --- facts 2.6: each code and its reaction -----------------------------------------------------

AGAIN, REREAD, HELD, COUNTED = "again", "read", "held", "counted"
AFTER = {
    Reaction.NEW_KEY: (AGAIN, PushResult.NOT_EXECUTED),
    Reaction.READ: (REREAD, PushResult.STALE),
    Reaction.DOUBT: (REREAD, PushResult.EXPIRED),
    Reaction.HOLD: (HELD, PushResult.REFUSED),
    Reaction.SPLIT: (COUNTED, PushResult.REFUSED),
    Reaction.ACTIVATE: (COUNTED, PushResult.REFUSED),
}
SENT_AGAIN = {code for code, reaction in REACTIONS.items() if reaction is Reaction.SAME_KEY}


def became(state: PushState) -> str:
    if state.held:
        return HELD
    return REREAD if state.offset is None else COUNTED if state.refusals else AGAIN


@pytest.mark.parametrize("code", [*sorted(set(REACTIONS) - SENT_AGAIN), "A_CODE_OF_TOMORROW"])
async def test_each_code_has_its_reaction(code: str) -> None:
    writer = Bench(SOMEWHERE)
    writer.lane.open()
    [state, other] = [
        pushes.take_read(PushState(target=target(item, 4)), LevelRead(), 0) for item in (TEE, CAP)
    ]
    intent = intents.adjusting(DOMAIN, pushes.entries_of([state, other]), 0)
    for one in (state, other):
        writer.lane.decide(lambda tx, one=one: writer.writer.put(tx, pushes.begin(one, intent)))
    faults = [UserFault(message="no", code=code, field=["input", "changes", "0", "delta"])]
    writer.lane.decide(lambda tx: writer.writer.settle(tx, writer.pump, intent, faults))
    expected, result = AFTER[REACTIONS.get(code, Reaction.SPLIT)]
    assert became(writer.state(TEE)) == expected
    assert writer.told()[0].result is result
    assert writer.state(CAP).refusals == 0, "the other entry is not to blame"
    assert not writer.intents()
    assert len(writer.letters()) == (expected == HELD)
    await writer.lane.close()


async def test_every_code_of_the_api_that_we_call_has_a_reaction() -> None:
    kinds = ("InventoryAdjustQuantitiesUserErrorCode", "InventorySetQuantitiesUserErrorCode")
    codes = {code for kind in kinds for code in load_schema().get_type(kind).values}  # type: ignore[union-attr]
    assert codes <= set(REACTIONS)


async def test_the_same_key_being_executed_is_asked_again_under_it(
    shop: Simulated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pump, "_unknown_pause_s", lambda state: 0.3)
    async with bench(shop.shop) as writer:
        writer.take(target(TEE, 10))
        await settled(writer, TEE)
        await shop.act("faults", latency_ms=200)
        state = replace(writer.state(TEE), target=target(TEE, 8, version=2))
        intent = intents.adjusting(DOMAIN, pushes.entries_of([state]), int(time.time() * 1000))
        writer.lane.decide(lambda tx: tx.put(writer.writer.intents, intents.intent_key(intent), intent))
        writer.lane.decide(lambda tx: writer.writer.put(tx, pushes.begin(state, intent)))
        writer.pump.carry_out(intent)
        other = await writer.clients.of(DOMAIN).write("adjust", intent.variables.encode())
        await settled(writer, TEE)
        assert [push["delta"] for push in await shop.pushes()] == [-2]
        assert other == [] or other[0].code in SENT_AGAIN


# --- shops that do not let us in, or not any more ----------------------------------------------


async def test_a_frozen_shop_is_paused_also_after_a_restart_and_resumed_by_an_operator(
    shop: Simulated,
) -> None:
    memory = Memory()
    await shop.act("faults", next={"shop_frozen": 1}, frozen_s=1.0)
    async with bench(shop.shop, memory) as first:
        first.take(target(TEE, 4))
        await first.until(lambda: list(first.lane.scan(first.writer.paused)), "the shop is paused")
    async with bench(shop.shop, memory) as second:
        assert second.pump.breaker.state is State.PAUSED
        assert "402" in second.pump.breaker.reason

        def resumed() -> bool:
            second.control(Control(shop=DOMAIN, action="resume", requested_at=datetime.now(UTC)))
            return second.pump.breaker.state is State.CLOSED

        await second.until(resumed, "the shop is open again")
        await settled(second, TEE)
        assert not list(second.lane.scan(second.writer.paused))
    assert await shop.available(TEE) == 4


async def test_a_shop_that_was_paused_on_purpose_is_left_alone_until_it_is_resumed(shop: Simulated) -> None:
    async with bench(shop.shop) as writer:
        writer.control(Control(shop=DOMAIN, action="pause", requested_at=datetime.now(UTC), reason="moving"))
        writer.take(target(TEE, 4))
        assert writer.pump.breaker.wait_s == float("inf")
        await asyncio.sleep(0)  # the pump sees that there is nothing to be done
        writer.control(Control(shop=DOMAIN, action="resume", requested_at=datetime.now(UTC)))
        await settled(writer, TEE)
    assert await shop.available(TEE) == 4


def left(*, ago_s: float, topic: str = "app/uninstalled") -> Control:
    """What the receiver asks for when a shop says that it has left."""
    now = datetime.now(UTC)
    at = now - timedelta(seconds=ago_s)
    return Control(shop=DOMAIN, action="pause", requested_at=now, reason=topic, left_at=at)


async def test_a_shop_that_has_answered_since_it_left_is_not_paused(shop: Simulated) -> None:
    async with bench(shop.shop) as writer:
        writer.take(target(TEE, 4))
        await settled(writer, TEE)
        writer.control(left(ago_s=3600))
        assert writer.pump.breaker.state is State.CLOSED
        assert not list(writer.lane.scan(writer.writer.paused))


@pytest.mark.parametrize("topic", ["app/uninstalled", "shop/redact"])
async def test_a_shop_that_lets_us_in_after_it_said_that_it_left_goes_on_by_itself(
    shop: Simulated, topic: str
) -> None:
    async with bench(shop.shop) as writer:
        writer.control(left(ago_s=3600, topic=topic))
        assert writer.pump.breaker.state is State.PAUSED
        [paused] = [one for _, one in writer.lane.scan(writer.writer.paused)]
        assert (paused.reason, paused.asked) == (topic, False)
        writer.take(target(TEE, 4))
        await settled(writer, TEE)
        assert writer.pump.breaker.state is State.CLOSED
        assert not list(writer.lane.scan(writer.writer.paused))
    assert await shop.available(TEE) == 4


async def test_an_idle_shop_that_lets_us_in_after_it_said_that_it_left_is_not_shown_as_paused(
    shop: Simulated,
) -> None:
    async with bench(shop.shop) as writer:
        writer.control(left(ago_s=3600))
        assert list(writer.lane.scan(writer.writer.paused))
        await writer.until(lambda: not list(writer.lane.scan(writer.writer.paused)), "it was asked")
        assert writer.pump.breaker.state is State.CLOSED


async def test_a_shop_that_has_left_stays_paused_and_is_tried_once_a_minute(shop: Simulated) -> None:
    memory = Memory()
    async with bench(replace(shop.shop, access_token="revoked"), memory) as writer:
        writer.control(left(ago_s=0))
        writer.take(target(TEE, 4))
        await writer.until(lambda: "401" in writer.pump.breaker.reason, "the shop was tried")
        assert writer.pump.breaker.state is State.PAUSED
        assert 0 < writer.pump.breaker.wait_s <= PAUSED_S
    async with bench(shop.shop, memory) as after:  # a token that works, given with a restart
        assert after.pump.breaker.state is State.PAUSED
        after.pump.breaker.probe_now()  # a minute later
        after.pump.notice(after.state(TEE))
        await settled(after, TEE)
        assert not list(after.lane.scan(after.writer.paused))


async def test_a_shop_that_was_paused_on_purpose_is_not_tried_because_it_says_that_it_left(
    shop: Simulated,
) -> None:
    async with bench(shop.shop) as writer:
        writer.control(Control(shop=DOMAIN, action="pause", requested_at=datetime.now(UTC), reason="moving"))
        writer.control(left(ago_s=0))
        assert writer.pump.breaker.wait_s == float("inf")
        [paused] = [one for _, one in writer.lane.scan(writer.writer.paused)]
        assert (paused.reason, paused.asked) == ("moving", True)


async def test_calls_that_are_refused_as_a_whole_stop_the_shop(
    shop: Simulated, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench(shop.shop) as writer:
        for item in (TEE, CAP):
            writer.take(target(item, 5))
        await settled(writer, TEE, CAP)
        monkeypatch.setattr(intents, "_place", lambda entry: {"inventoryItemId": None, "locationId": None})
        for item in (TEE, CAP):
            writer.take(target(item, 6, version=2))
        await writer.until(lambda: writer.pump.breaker.state is State.PAUSED, "three defects in a row")
        assert "refused as a whole" in writer.pump.breaker.reason
        assert await shop.pushes() == [entry for entry in await shop.pushes() if entry["delta"] == -5]


async def test_reads_that_are_refused_pause_the_shop_and_end_no_worker(
    shop: Simulated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pump, "PUT_OFF_S", (0.01,))
    with monkeypatch.context() as wrong:
        wrong.setattr(documents, "LEVELS", gql("query Levels { nobodyHasThisField }"))
        async with bench(shop.shop) as writer:
            writer.take(target(TEE, 4))
            await writer.until(lambda: writer.pump.breaker.state is State.PAUSED, "three defects in a row")
            wrong.undo()
            writer.control(Control(shop=DOMAIN, action="resume", requested_at=datetime.now(UTC)))
            await settled(writer, TEE)
    assert await shop.available(TEE) == 4


async def test_a_pump_that_ends_gives_back_the_points_of_what_it_never_sent(shop: Simulated) -> None:
    async with bench(shop.shop) as writer:
        budget = writer.clients.of(DOMAIN).budget
        assert writer.pump.reserve("Levels", 1, writer.pump.waiting.unread) is not None
        assert budget.wait_s(1.0) > 0
        writer.pump.stop()
        assert budget.wait_s(1.0) == 0


async def test_a_write_that_costs_too_much_is_halved() -> None:
    writer = Bench(SOMEWHERE)
    writer.lane.open()
    states = [pushes.take_read(PushState(target=target(item, 4)), LevelRead(), 0) for item in range(100)]
    intent = intents.adjusting(DOMAIN, pushes.entries_of(states), 0)
    fault = await writer.pump._refused(intent, CallRefused("too much", {pump.TOO_COSTLY}))
    assert REACTIONS[fault.code or ""] is Reaction.NEW_KEY
    assert writer.pump.entries_limit == 50
    await writer.lane.close()


async def test_a_shop_that_is_away_is_left_alone_and_tried_again(
    shop: Simulated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pump, "_unknown_pause_s", lambda state: 0.0)
    await shop.act("faults", next={"error_before": FAILURES})
    async with bench(shop.shop) as writer:
        writer.take(target(TEE, 4))
        await writer.until(lambda: writer.pump.breaker.state is State.OPEN, "the breaker is open")
        await settled(writer, TEE)
        assert writer.pump.breaker.state is State.CLOSED


@pytest.mark.parametrize(
    ("executed", "result"), [(True, PushResult.ACKNOWLEDGED), (False, PushResult.NOT_EXECUTED)]
)
async def test_an_intent_that_is_too_old_is_never_sent_and_reading_decides(
    shop: Simulated, executed: bool, result: PushResult
) -> None:
    memory = Memory()
    begun = int((time.time() - pump.INTENT_AGE_S - 60) * 1000)
    state = pushes.take_read(PushState(target=target(TEE, 6)), LevelRead(available=10), 0)
    intent = intents.adjusting(DOMAIN, pushes.entries_of([state]), begun)
    writer = Bench(shop.shop, memory)
    writer.lane.decide(lambda tx: tx.put(writer.writer.intents, intents.intent_key(intent), intent))
    writer.lane.decide(
        lambda tx: tx.put(writer.writer.pushes, state.target.key.encode(), pushes.begin(state, intent))
    )
    if executed:
        assert await writer.clients.of(DOMAIN).write("adjust", intent.variables.encode()) == []
        await writer.clients.close()
    async with bench(shop.shop, memory) as successor:
        await settled(successor, TEE)
        assert [push.result for push in successor.told() if push.intent == intent.key] == [
            PushResult.EXPIRED,
            result,
        ]
    assert await shop.available(TEE) == 6
    assert sum(push["delta"] for push in await shop.pushes()) == -4
    assert (intent.key in {push["key"] for push in await shop.pushes()}) is executed


# --- levels that were never activated ----------------------------------------------------------


async def test_a_level_that_sells_nothing_is_activated_before_it_is_written(shop: Simulated) -> None:
    async with bench(shop.shop) as writer:
        writer.take(target(CAP, 3, location=STORE))
        await settled(writer, CAP)
        rows = (await shop.see("stock"))["levels"]
        [row] = [row for row in rows if (row["item"], row["location"]) == (CAP, STORE)]
        assert (row["active"], row["available"]) == (True, 3)
        kinds = [
            one["kind"]
            for one in (await shop.see("log"))["entries"]
            if one["kind"] in ("activated", "pushed")
        ]
        assert kinds == ["activated", "pushed"]


async def test_an_inactive_level_that_should_show_nothing_is_left_alone(shop: Simulated) -> None:
    async with bench(shop.shop) as writer:
        writer.take(target(CAP, 0, location=STORE))
        await writer.until(lambda: writer.state(CAP).offset is not None, "it is read")
        assert pushes.need_of(writer.state(CAP)) is pushes.Need.NOTHING
        assert writer.state(CAP).inactive


# --- what shops tell of their levels -----------------------------------------------------------


async def test_an_echo_of_our_own_push_is_known_and_costs_nothing(shop: Simulated) -> None:
    async with bench(shop.shop) as writer:
        writer.take(target(TEE, 4))
        await settled(writer, TEE)
        before = dict(writer.lane.stores[writer.writer.pushes])
        writer.level(*level(TEE, 4))
        assert writer.lane.stores[writer.writer.pushes] == before


async def test_a_sale_that_we_hear_of_later_explains_its_level(shop: Simulated) -> None:
    async with bench(shop.shop) as writer:
        writer.take(target(TEE, 10))
        await settled(writer, TEE)
        writer.level(*level(TEE, 7))
        assert writer.state(TEE).noticed is not None
        writer.take(target(TEE, 7, version=2, committed=3))
        assert writer.state(TEE).noticed is None


@pytest.mark.parametrize("told_by", ["webhook", "reconcile"])
@pytest.mark.parametrize("policy", ["import", "overrule", "report"])
async def test_a_hand_edit_is_followed_by_the_shops_policy(
    shop: Simulated, policy: str, told_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tables.edits.FIRST_LOOK_S", 0.05)
    monkeypatch.setattr(looks, "FIRST_LOOK_S", 0.05)
    edited = replace(shop.shop, hand_edits=policy)
    async with bench(edited, hand_edit_s=0.1) as writer:
        writer.take(target(TEE, 10))
        await settled(writer, TEE)
        await shop.act("edit", shop=DOMAIN, item=TEE, location=MAIN, delta=5)
        if told_by == "webhook":
            writer.level(*level(TEE, 15))
        else:
            writer.correct(correction(action="look"))
        assert writer.state(TEE).noticed is not None
        await writer.until(lambda: writer.state(TEE).noticed is None, "the edit is confirmed")
        await settled(writer, TEE)
        imported = writer.emitted("stock.movements", Movement)
        drift = writer.emitted("shopify.drift", Drift)
        assert [one.quantity for one in imported] == ([5] if policy == "import" else [])
        assert [one.units_off for one in drift] == ([5] if policy == "report" else [])
        assert await shop.available(TEE) == (10 if policy == "overrule" else 15)
        if policy == "import":
            more = {"physical_total": 5, "imported_total": 5}
            writer.take(target(TEE, 15, version=2, **more))
        else:
            writer.take(target(TEE, 10, version=2))
        await settled(writer, TEE)
        assert await shop.available(TEE) == (10 if policy == "overrule" else 15)
        assert pushes.expected_units(writer.state(TEE)) == await shop.available(TEE)


@pytest.mark.parametrize("policy", ["import", "overrule", "report"])
async def test_a_level_that_was_deactivated_by_hand_follows_the_shops_policy(
    shop: Simulated, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tables.edits.FIRST_LOOK_S", 0.05)
    monkeypatch.setattr(looks, "FIRST_LOOK_S", 0.05)
    await shop.act("edit", shop=DOMAIN, item=TEE, location=STORE, active=True)
    async with bench(replace(shop.shop, hand_edits=policy)) as writer:
        writer.take(target(TEE, 10))
        await settled(writer, TEE)
        await shop.act("edit", shop=DOMAIN, item=TEE, location=MAIN, active=False)
        writer.level(*level(TEE, None, topic="disconnect"))
        await writer.until(lambda: writer.state(TEE).noticed is None, "the level is read")
        writer.take(target(TEE, 9, version=2))
        left = policy != "overrule"
        if not left:
            await settled(writer, TEE)
        drift = writer.emitted("shopify.drift", Drift)
        assert [one.kind for one in drift] == ([DriftClass.INACTIVE] if left else [])
        assert writer.emitted("stock.movements", Movement) == []
        assert (pushes.need_of(writer.state(TEE)), writer.state(TEE).left) == (Need.NOTHING, left)
        assert await _active(shop) is not left
        if left:
            await shop.act("edit", shop=DOMAIN, item=TEE, location=MAIN, active=True)
            writer.level(*level(TEE, 10, seconds=1, topic="connect"))
            await writer.until(lambda: not writer.state(TEE).left, "it is known to be active again")
            await settled(writer, TEE)
        assert await shop.available(TEE) == 9


async def _active(shop: Simulated) -> bool:
    rows = (await shop.see("stock"))["levels"]
    return any(row["active"] for row in rows if (row["item"], row["location"]) == (TEE, MAIN))


async def test_an_off_target_of_a_shop_that_is_gone_is_nothing_to_the_writer(
    shop: Simulated, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench(shop.shop) as writer:
        with monkeypatch.context() as gone:
            gone.setattr(writer.writer.clients, "shops", {})
            writer.take(target(TEE, 4, off=True))
            assert writer.refused == []
            writer.take(target(TEE, 4))
            assert DOMAIN in str(writer.refused[0])


async def test_an_order_on_its_way_is_not_taken_for_a_hand_edit(
    shop: Simulated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tables.edits.FIRST_LOOK_S", 0.05)
    monkeypatch.setattr(looks, "FIRST_LOOK_S", 0.05)
    imports = replace(shop.shop, hand_edits="import")
    async with bench(imports, hand_edit_s=0.1) as writer:
        writer.take(target(TEE, 10))
        await settled(writer, TEE)
        await shop.sell((TEE, 3))
        writer.level(*level(TEE, 7))
        await writer.until(lambda: writer.state(TEE).noticed is None, "the read finds no unit missing")
        assert writer.emitted("stock.movements", Movement) == []


async def left_alone(shop: Simulated, writer: Bench) -> None:
    """Three of ten units are gone, and what explains it may not have been heard yet."""
    writer.take(target(TEE, 10))
    await settled(writer, TEE)
    writer.heard = Heard(behind="orders has not taken 1 records")
    await shop.act("edit", shop=DOMAIN, item=TEE, location=MAIN, delta=-3)
    writer.level(*level(TEE, 7))
    await writer.until(metrics.UNHEARD.labels(DOMAIN)._value.get, "it is read, and left alone")


@pytest.mark.parametrize("policy", ["import", "overrule"])
async def test_what_may_not_have_been_heard_yet_is_no_hand_edit(
    shop: Simulated, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks, "FIRST_LOOK_S", 0.05)
    monkeypatch.setattr(looks, "HEAR_AGAIN_S", 0.05)
    async with bench(replace(shop.shop, hand_edits=policy), hand_edit_s=0.1) as writer:
        await left_alone(shop, writer)
        assert writer.state(TEE).noticed is not None
        assert writer.emitted("stock.movements", Movement) == []
        writer.take(target(TEE, 7, version=2, physical_total=-3))
        assert writer.state(TEE).noticed is None, "the shipment explains it"
        await writer.until(lambda: not metrics.UNHEARD.labels(DOMAIN)._value.get(), "nothing waits any more")
        await settled(writer, TEE)
        assert writer.emitted("stock.movements", Movement) == []
        assert await shop.available(TEE) == 7


async def test_a_write_while_the_services_are_asked_is_no_part_of_the_edit(
    shop: Simulated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks, "FIRST_LOOK_S", 0.05)
    monkeypatch.setattr(looks, "HEAR_AGAIN_S", 0.05)
    async with bench(replace(shop.shop, hand_edits="import"), hand_edit_s=0.1) as writer:
        await left_alone(shop, writer)
        writer.take(target(TEE, 12, version=2))
        await settled(writer, TEE)
        writer.heard = EVERYTHING
        await writer.until(lambda: writer.state(TEE).noticed is None, "it is read and judged again")
        assert [one.quantity for one in writer.emitted("stock.movements", Movement)] == [-3]
        assert await shop.available(TEE) == 9


async def test_a_target_that_comes_while_its_listing_is_looked_at_is_written(
    shop: Simulated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks, "FIRST_LOOK_S", 0.01)
    async with bench(shop.shop) as writer:
        writer.take(target(TEE, 10))
        await settled(writer, TEE)
        await shop.sell((TEE, 1))
        await shop.act("faults", latency_ms=200)
        writer.level(*level(TEE, 9))
        await writer.until(lambda: metrics.UNDER_WAY.labels(DOMAIN)._value.get(), "the listing is read")
        writer.take(target(TEE, 7, version=2, committed=1))  # it explains the 9, and wants two less
        assert writer.state(TEE).noticed is None
        await settled(writer, TEE)
        assert await shop.available(TEE) == 7


# --- shadow mode -------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{"shadow": True}, {"shadow_locations": frozenset({MAIN})}])
async def test_in_shadow_mode_everything_happens_but_the_call(
    shop: Simulated, fields: dict[str, Any]
) -> None:
    async with bench(replace(shop.shop, **fields)) as writer:
        writer.take(target(TEE, 4))
        await writer.until(lambda: writer.told(PushResult.SHADOW), "it says what it would write")
        writer.take(target(TEE, 6, version=2))
        await writer.until(lambda: len(writer.told(PushResult.SHADOW)) == 2, "and what it would write then")
        assert [(push.delta, push.wanted) for push in writer.told()] == [(-6, 4), (-4, 6)]
    assert await shop.pushes() == []


# --- corrections -------------------------------------------------------------------------------


def correction(**fields: Any) -> Correction:
    base = {"action": "set", "available": 12, "units": 12, "target_version": 1}
    expires_at = datetime.now(UTC) + timedelta(minutes=1)
    return Correction(
        shop=DOMAIN, item=TEE, location_id=MAIN, id="c-1", expires_at=expires_at, **{**base, **fields}
    )


async def test_a_correction_writes_what_is_wanted_if_the_shop_still_has_what_was_read(
    shop: Simulated,
) -> None:
    async with bench(shop.shop) as writer:
        writer.take(target(TEE, 10))
        await settled(writer, TEE)
        await shop.act("edit", shop=DOMAIN, item=TEE, location=MAIN, delta=2)
        writer.correct(correction())
        writer.correct(correction())  # told twice, carried out once
        await settled(writer, TEE)
        assert await shop.available(TEE) == 10
        assert [push["detail"] for push in await shop.pushes()] == ["inventorySetQuantities"]
        assert pushes.expected_units(writer.state(TEE)) == 10


async def test_a_correction_whose_value_was_sold_from_changes_nothing(shop: Simulated) -> None:
    async with bench(shop.shop) as writer:
        writer.take(target(TEE, 10))
        await settled(writer, TEE)
        await shop.act("edit", shop=DOMAIN, item=TEE, location=MAIN, delta=2)
        await shop.sell((TEE, 1))
        writer.correct(correction())
        await writer.until(lambda: writer.told(PushResult.STALE), "the shop has another value")
        writer.take(target(TEE, 9, version=2, committed=1))
        await settled(writer, TEE)
        assert await shop.available(TEE) == 9


@pytest.mark.parametrize(
    "stale",
    [
        {"target_version": 2},
        {"physical_total": 3},
        {"hops": pushes.MAX_HOPS + 1},
        {"expires_at": datetime(2026, 1, 1, tzinfo=UTC)},
        {"item": CAP},
    ],
)
async def test_a_correction_that_was_decided_from_something_else_is_dropped(
    shop: Simulated, stale: dict[str, Any]
) -> None:
    async with bench(shop.shop) as writer:
        writer.take(target(TEE, 10))
        await settled(writer, TEE)
        writer.correct(replace(correction(), **stale))
        assert writer.intents() == []
        assert writer.state(TEE).corrected == ""


async def test_a_listing_can_be_read_again(shop: Simulated) -> None:
    async with bench(shop.shop) as writer:
        writer.take(target(TEE, 10))
        await settled(writer, TEE)
        await shop.act("edit", shop=DOMAIN, item=TEE, location=MAIN, delta=-4)
        writer.correct(correction(action="reread"))
        await settled(writer, TEE)
        assert await shop.available(TEE) == 10


# --- the order of work -------------------------------------------------------------------------


async def test_what_reaches_or_leaves_zero_goes_first_and_then_the_oldest() -> None:
    writer = Bench(SOMEWHERE)
    writer.lane.open()
    for item, (shows, wanted) in enumerate([(5, 4), (5, 6), (0, 3), (7, 0), (8, 9)], 100):
        state = pushes.take_read(PushState(target=target(item, wanted)), LevelRead(available=shows), 0)
        writer.lane.decide(
            lambda tx, state=state: tx.put(writer.writer.pushes, state.target.key.encode(), state)
        )
        writer.pump.notice(state)
    assert [int(key.split("/")[1]) for key in writer.pump.waiting.urgent] == [102, 103]
    assert [int(key.split("/")[1]) for key in writer.pump.waiting.ready] == [100, 101, 104]
    writer.lane.decide(lambda tx: writer.writer.next_work(tx, writer.pump))
    [first] = [intent.entries for intent in writer.intents()]
    assert [entry.listing.split("/")[1] for entry in first] == ["102", "103"]
    await writer.lane.close()


async def test_what_was_read_is_written_before_more_is_read() -> None:
    writer = Bench(SOMEWHERE)
    writer.lane.open()
    writer.clients.of(DOMAIN).budget.learn(PLENTY)
    for item in (100, 101):
        writer.take(target(item, 5))
    known = pushes.take_read(PushState(target=target(102, 5)), LevelRead(available=3), 0)
    writer.lane.decide(lambda tx: writer.writer.put(tx, known))
    work = writer.lane.decide(lambda tx: writer.writer.next_work(tx, writer.pump))
    assert [type(one) for one in work] == [Send, Read]
    await writer.lane.close()


async def test_with_every_place_taken_nothing_more_is_begun() -> None:
    writer = Bench(SOMEWHERE)
    writer.lane.open()
    urgent = writer.pump.waiting.urgent
    assert writer.pump.reserve("Adjust", 1, urgent) is not None
    writer.clients.of(DOMAIN).budget.learn(PLENTY)
    for _ in range(pump.CALLS_AT_ONCE):
        writer.pump.reserve("Adjust", 1, urgent)
    state = pushes.take_read(PushState(target=target(TEE, 0)), LevelRead(available=10), 0)
    writer.lane.decide(lambda tx: writer.writer.put(tx, state))
    assert writer.lane.decide(lambda tx: writer.writer.next_work(tx, writer.pump)) == []
    assert [writer.pump.next_of(queue) for queue in writer.pump.waiting.queues] == [[], [], []]
    assert len(urgent) == 1
    await writer.lane.close()


async def test_a_listing_in_a_write_is_in_no_other() -> None:
    writer = Bench(SOMEWHERE)
    writer.lane.open()
    state = pushes.take_read(PushState(target=target(TEE, 4)), LevelRead(available=10), 0)
    entry = Entry(listing=state.target.key, delta=-6, wanted=4, version=1)
    state = pushes.begin(state, intents.adjusting(DOMAIN, [entry], 0))
    writer.lane.decide(lambda tx: writer.writer.put(tx, pushes.take_target(state, target(TEE, 0, version=2))))
    assert len(writer.pump.waiting) == 0
    await writer.lane.close()


async def test_a_shop_that_is_away_does_not_delay_another(shop: Simulated) -> None:
    away = replace(shop.shop, domain="away.myshopify.com", api_url="http://127.0.0.1:9")
    async with bench(shop.shop) as writer:
        writer.clients.shops = {**writer.clients.shops, away.domain: away}  # type: ignore[misc]
        elsewhere = replace(target(CAP, 1), shop=away.domain)
        writer.lane.decide(lambda tx: writer.writer.put(tx, PushState(target=elsewhere)))
        writer.take(target(TEE, 4))
        await writer.until(lambda: writer.told(PushResult.ACKNOWLEDGED), "the other shop is written")
    assert await shop.available(TEE) == 4
