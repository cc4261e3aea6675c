"""All services, real Kafka and the simulator: what a shopper does in one shop, the other one shows, once."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import aiohttp
import msgspec
import pytest
import pytest_asyncio
from gql import gql

from app.dev.demo import listed, quiet
from app.dev.facts import gather
from app.dev.shops import DOMAINS, Key, SimulatorAdmin, catalogue, load
from app.dev.status import status_of
from app.dev.supervisor import Stack, running_stack
from app.errors import Misconfigured
from app.exactly_once.set_positions import Start, set_positions
from app.explain import explain
from app.kafka_tools import (
    levels,
    read_topic,
    send_drift,
    send_listings,
    send_movements,
    send_redactions,
)
from app.reconcile import Report
from app.records import (
    Correction,
    DeadLetter,
    Drift,
    DriftClass,
    Envelope,
    Level,
    Listing,
    Listings,
    Movement,
    MovementKind,
    Outcome,
    correlation_of,
)
from app.redact import look, redact, redactions
from app.services import WORKERS
from app.settings import Settings, load_settings
from app.shops import load_shops
from connectors.shopify.client import ShopClient
from tables.chain import Kind

pytestmark = [pytest.mark.kafka, pytest.mark.asyncio(loop_scope="module")]
LIMIT_S = 60.0
BROKER_AWAY_S = float(os.environ.get("TEST_BROKER_AWAY_S", "8"))
SKUS, OPENING = 15, 50
WEBHOOK_HELD_S = 8.0
NEW_ITEM, GHOST_ITEM = 7_777, 4_040_404
NORTH, SOUTH = DOMAINS


class Running:
    """The stack with its simulator, and the keys of its catalogue, each used by one test."""

    def __init__(self, stack: Stack, admin: SimulatorAdmin, keys: list[Key]) -> None:
        self.stack = stack
        self.admin = admin
        self.keys = keys
        self._unused = iter([key for key in keys if key.location == "main"])

    def key(self) -> Key:
        return next(self._unused)

    async def sell(self, key: Key, quantity: int, shop: int = 0) -> dict[str, Any]:
        """A web order; as its webhook has it."""
        lines = [{"item": key.listings[shop].item, "quantity": quantity}]
        answer = await self.admin.act("sell", shop=DOMAINS[shop], lines=lines)
        assert answer["accepted"]
        order: dict[str, Any] = answer["order"]
        return order

    async def edit(self, listing: Listing, units: int) -> None:
        """Change a level in the shop's admin."""
        place = {"shop": listing.shop, "item": listing.item, "location": listing.location_id}
        await self.admin.act("edit", **place, delta=units)

    async def shows(self, listing: Listing) -> int:
        """What the shop shows."""
        rows = (await self.admin.see("stock"))["levels"]
        place = (listing.shop, listing.item, listing.location_id)
        return next(row["available"] for row in rows if (row["shop"], row["item"], row["location"]) == place)

    async def level(self, key: Key) -> Level:
        return (await levels(self.stack.settings))[key.name].level

    async def log(self, kind: str, **fields: Any) -> list[dict[str, Any]]:
        """The simulator's log entries of a kind."""
        entries = (await self.admin.see("log"))["entries"]
        return [one for one in entries if one["kind"] == kind and fields.items() <= one.items()]

    async def reconcile(self, *words: str) -> tuple[int, str]:
        """Run the command; its status and what it prints."""
        hasty = {"SKUSTREAM_RECONCILE_QUIET_S": "0", "SKUSTREAM_RECONCILE_SETTLE_S": "0"}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "app", "reconcile", *words,
            env={**self.stack.environment(), **hasty}, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        told, _ = await process.communicate()
        return process.returncode or 0, told.decode()

    async def unexplained(self) -> tuple[int, dict[str, int]]:
        """What nothing explains in the north shop: the command's status, and units by listing."""
        status, reports = await self.reconcile("--dry-run", "--shop", NORTH, "--json")
        [report] = msgspec.json.decode(reports, type=list[Report])
        return status, {one.key: one.units_off for one in report.found if one.kind is DriftClass.UNEXPLAINED}

    async def outcomes(self, key: Key) -> Counter[str]:
        """How often each movement of a key was applied."""
        found: Counter[str] = Counter()
        async for records in read_topic(self.stack.settings, "stock.ledger"):
            for record in records:
                outcome = msgspec.json.decode(record.value, type=Outcome)
                if record.key == key.name.encode() and outcome.result == "applied":
                    found[outcome.movement.id] += 1
        return found

    async def quiet(self) -> None:
        await quiet(self.stack, self.admin, self.keys, LIMIT_S)
        assert await listed(self.stack, self.admin, self.keys)

    async def webhook(self, session: aiohttp.ClientSession, topic: str, body: dict[str, Any]) -> int:
        """Send a webhook as the north shop would; the status of the answer."""
        data = msgspec.json.encode(body)
        secret = f"example-secret-{NORTH.partition('.')[0]}".encode()
        signature = base64.b64encode(hmac.new(secret, data, hashlib.sha256).digest()).decode()
        headers = {
            "X-Shopify-Topic": topic,
            "X-Shopify-Shop-Domain": NORTH,
            "X-Shopify-Hmac-Sha256": signature,
            "X-Shopify-Webhook-Id": f"test-{body['id']}",
        }
        url = f"{self.stack.processes['receiver'].state.url}/webhooks/shopify"
        async with session.post(url, data=data, headers=headers) as answer:
            return answer.status


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    # A test looks for correlation ids, another one waits for the catch-up. And what is not heard yet must
    # never pass for a hand edit, however little time it is given.
    loud = {"SKUSTREAM_LOG_LEVEL": "debug", "SKUSTREAM_CATCH_UP_S": "3", "SKUSTREAM_HAND_EDIT_S": "1"}
    policies = ("report", "import")
    stack = Stack(tmp_path_factory.mktemp("stack"), load_settings(), environment=loud, hand_edits=policies)
    keys = catalogue(SKUS, OPENING)
    try:
        await stack.start()
        await stack.wait_healthy(LIMIT_S)
        async with SimulatorAdmin(stack.simulator_url) as admin:
            await load(stack.settings, admin, keys)
            await until(lambda: listed(stack, admin, keys), "every listing shows its opening stock")
            yield Running(stack, admin, keys)
    finally:
        await stack.stop()


async def until(condition: Callable[[], Awaitable[object]], what: str) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not await condition():  # each look is a request, which gives way to everything else
            pass


async def test_what_one_shop_sells_the_other_shows_less(running: Running) -> None:
    key = running.key()
    north, south = key.listings
    order = await running.sell(key, 3)
    await until(lambda: _is(running.shows(south), OPENING - 3), "the other shop shows less")
    await running.quiet()
    came = await _correlations(running, "shopify.orders", f"{NORTH}/{order['id']}")
    assert came & await _correlations(running, "shopify.pushes", south.key)
    assert await running.shows(north) == OPENING - 3
    pushed = await running.log("pushed", item=south.item, delta=-3)
    assert len(pushed) == 1
    await running.sell(key, 2, shop=1)
    await until(lambda: _is(running.shows(north), OPENING - 5), "and the other way round")
    # An order is never written back to the shop that it came from.
    assert not await running.log("pushed", item=north.item, delta=-3)
    assert not await running.log("pushed", item=south.item, delta=-2)


async def test_an_order_is_where_its_fulfilment_orders_say_and_its_return_where_it_was_put(
    running: Running,
) -> None:
    key = running.key()
    elsewhere = next(one for one in running.keys if one.sku == key.sku and one.location == "store")
    here, there = key.listings[0].location_id, elsewhere.listings[0].location_id
    item = key.listings[0].item

    async def committed() -> tuple[int, int]:
        return (await running.level(key)).committed, (await running.level(elsewhere)).committed

    line = {"item": item, "quantity": 3, "places": {str(here): 1, str(there): 2}}
    order = (await running.admin.act("sell", shop=NORTH, lines=[line]))["order"]
    await until(lambda: _is(committed(), (1, 2)), "the promise is kept at both locations")
    about = {"shop": NORTH, "order": order["id"]}
    await running.admin.act("move", **about, destination=there)
    await until(lambda: _is(committed(), (0, 3)), "the moved promise follows")
    await running.admin.act("fulfil", **about)
    lines = {str(order["line_items"][0]["id"]): 1}
    given = await running.admin.act("return", **about, lines=lines)
    decided = {"return_id": given["return"], "location": here}
    await running.admin.act("return/decide", **about, **decided, act="dispose")
    await until(lambda: _is(running.shows(key.listings[1]), OPENING + 1), "the return is on the shelf")
    await running.quiet()
    assert (await running.level(elsewhere)).on_hand == OPENING - 3


async def test_orders_whose_webhooks_are_lost_are_caught_up_with(running: Running) -> None:
    key = running.key()
    north, south = key.listings
    await running.sell(key, 2)
    await until(lambda: _is(running.shows(south), OPENING - 2), "the other shop shows less")
    await running.admin.act("faults", lose_probability=1.0, shops=[NORTH])
    first, second = await running.sell(key, 3), await running.sell(key, 4)
    await running.admin.act("cancel", shop=NORTH, order=first["id"], restock=True)
    await running.admin.act("faults")
    await until(lambda: _is(running.shows(south), OPENING - 6), "the other shop shows what is left")
    await running.quiet()
    assert (await running.level(key)).committed == 6
    assert await running.shows(north) == OPENING - 6
    assert await _topics(running, f"{NORTH}/{second['id']}") == ["orders/seen"]
    assert await running.log("webhook_lost")


async def test_a_subscription_that_shopify_removed_is_made_again_and_told_of(running: Running) -> None:
    async def made() -> list[str]:
        rows = (await running.admin.see("subscriptions"))["subscriptions"]
        return [row["id"] for row in rows if (row["shop"], row["topic"]) == (NORTH, "refunds/create")]

    async def cut_down() -> bool:
        rows = (await running.admin.see("subscriptions"))["subscriptions"]
        return all(
            row["include_fields"] for row in rows if row["topic"] in ("orders/create", "refunds/create")
        )

    await until(cut_down, "the keeper has cut the bodies down to what is kept")
    client = ShopClient(load_shops(running.stack.settings.shops_file)[NORTH])
    [before] = await made()
    delete = gql(
        "mutation Delete($id: ID!) { webhookSubscriptionDelete(id: $id) { userErrors { message } } }"
    )
    await client.call(delete, {"id": f"gid://shopify/WebhookSubscription/{before}"})
    await client.close()
    assert await made() == []
    running.stack.signal("reconcile", signal.SIGTERM)  # it looks at its start
    await until(made, "the subscription is there again")
    log = running.stack.directory / "logs" / "reconcile.log"

    async def told() -> bool:
        return "Shopify removed a webhook subscription" in await asyncio.to_thread(log.read_text)

    await until(told, "the removal is an error in the log")


async def test_a_sale_is_explained_from_its_webhook_to_the_write_in_the_other_shop(running: Running) -> None:
    key = running.key()
    south = key.listings[1]
    order = await running.sell(key, 2)
    await until(lambda: _is(running.shows(south), OPENING - 2), "the other shop shows less")
    await running.quiet()
    found = await explain(running.stack.settings, key.sku, key.location, webhooks=True)
    assert found is not None
    assert [check for check in found.checks if not check.ok] == []
    assert (found.available, [one.unwritten for one in found.listings]) == (OPENING - 2, ["", ""])
    [sale] = [one for one in found.events if one.kind is Kind.MOVEMENT and one.record.movement.cause.order]
    assert (sale.available, sale.record.movement.cause.order) == (OPENING - 2, order["id"])
    chain = [one for one in found.events if one.correlation_id == sale.correlation_id]
    assert {one.kind for one in chain} == {Kind.WEBHOOK, Kind.MOVEMENT, Kind.TARGET, Kind.PUSH}
    [push] = [one for one in chain if one.kind is Kind.PUSH]
    assert (push.listing, push.record.delta, push.record.result) == (south.key, -2, "acknowledged")
    assert push.record.occurred_at == sale.record.movement.occurred_at
    for name in ("receiver", "orders", "stock", "shopify"):
        assert sale.correlation_id in running.stack.processes[name].log.read_text(), name


async def test_explain_reads_a_part_and_names_what_it_does_not_know(running: Running) -> None:
    key, settings = running.key(), running.stack.settings
    await running.sell(key, 1)
    await until(lambda: _is(running.shows(key.listings[1]), OPENING - 1), "the other shop shows less")
    await running.quiet()
    whole = await explain(settings, key.sku, key.location)
    assert whole is not None
    later = await explain(settings, key.sku, key.location, since=whole.events[-1].at)
    assert later is not None
    assert 0 < len(later.events) < len(whole.events)
    assert later.adds_up
    assert await explain(settings, "NOBODY", "main") is None


async def test_a_webhook_sent_100_times_moves_stock_once_also_after_a_restart(running: Running) -> None:
    key = running.key()
    order = await running.sell(key, 4)
    async with aiohttp.ClientSession() as session:
        answers = await asyncio.gather(
            *(running.webhook(session, "orders/create", order) for _ in range(100))
        )
        assert set(answers) == {200}
        await until(lambda: _is(running.shows(key.listings[1]), OPENING - 4), "the sale")
        for name in ("orders", "stock"):
            running.stack.signal(name, signal.SIGKILL)
        assert await running.webhook(session, "orders/create", order) == 200
        await running.stack.wait_healthy(LIMIT_S)
        await running.quiet()
    assert (await running.level(key)).committed == 4
    assert set((await running.outcomes(key)).values()) == {1}


async def test_a_writer_killed_before_it_hears_the_answer_writes_once(running: Running) -> None:
    key = running.key()
    south = key.listings[1]
    await running.quiet()
    # Every answer is lost: the next request alone may be somebody else's.
    await running.admin.act("faults", shops=[south.shop], probability={"error_after": 1.0})
    await running.sell(key, 5)
    await until(lambda: running.log("pushed", item=south.item, delta=-5), "the shop has applied the write")
    running.stack.signal("shopify", signal.SIGKILL)
    await running.admin.act("faults")
    [pushed] = await running.log("pushed", item=south.item, delta=-5)
    await until(lambda: running.log("replayed", key=pushed["key"]), "the same key is sent again")
    await running.quiet()
    assert len(await running.log("pushed", item=south.item, delta=-5)) == 1
    assert await running.shows(south) == OPENING - 5


async def test_what_was_sold_and_not_heard_of_yet_is_not_overwritten(running: Running) -> None:
    """10 in stock, 3 sold with the webhook still on its way, 5 received: 12, and 12 when it has come."""
    key = running.key()
    north, south = key.listings
    await send_movements(running.stack.settings, [counted(key, 10)])
    await until(lambda: _is(running.shows(north), 10), "10 in stock")
    await running.quiet()
    await running.admin.act("faults", late_probability=1.0, late_s=WEBHOOK_HELD_S)
    await running.stack.hold("orders")  # the catch-up does not find the sale either
    try:
        await running.sell(key, 3)
        await send_movements(running.stack.settings, [received(key, 5)])
        await until(lambda: _is(running.shows(north), 12), "the receipt is added to what is left")
        await until(lambda: _is(running.shows(south), 15), "and to what the other shop shows")
        assert (await running.level(key)).committed == 0, "nobody has told us of the sale"
    finally:
        await running.admin.act("faults")
        running.stack.resume("orders")
    await running.stack.wait_healthy(LIMIT_S)
    await until(lambda: _is(running.shows(south), 12), "the sale is heard of")
    await running.quiet()
    assert await running.shows(north) == 12
    assert [push["delta"] for push in await running.log("pushed", item=north.item)][-1] == 5


async def test_a_cancelled_order_without_refund_lines_is_read(running: Running) -> None:
    key = running.key()
    order = await running.sell(key, 6)
    await running.admin.act("cancel", shop=NORTH, order=order["id"], restock=False, refund=False)
    await until(lambda: _is(_on_hand(running, key), OPENING - 6), "written off after a read")
    assert (await running.level(key)).committed == 0


async def test_an_order_waits_for_its_listing(running: Running) -> None:
    item, variant, location = NEW_ITEM, 8_888, 1001
    items = [{"sku": "NEW", "item": item, "variant": variant, "available": {str(location): 9}}]
    await running.admin.act("items", shop=NORTH, items=items)
    answer = await running.admin.act("sell", shop=NORTH, lines=[{"item": item, "quantity": 2}])
    await until(lambda: _dead_letter(running, f"/{answer['order']['id']}"), "a dead letter names the line")
    listing = Listing(shop=NORTH, item=item, variant=variant, location_id=location)
    await send_listings(
        running.stack.settings,
        [Listings(sku="NEW", location="main", listings=[listing], updated_at=datetime.now(UTC))],
    )
    new = Key(sku="NEW", location="main", listings=(listing,), opening=0)
    await until(lambda: _is(_committed(running, new), 2), "the order counts when its line is listed")


async def test_a_listing_that_the_shop_refuses_is_held_and_the_others_go_on(running: Running) -> None:
    key, settings = running.key(), running.stack.settings
    ghost = msgspec.structs.replace(key.listings[1], item=GHOST_ITEM)
    both = Listings(sku=key.sku, location=key.location, listings=[*key.listings, ghost])
    await send_listings(settings, [both])
    await running.sell(key, 1)
    await until(lambda: _is(running.shows(key.listings[1]), OPENING - 1), "the good listing is written")
    await until(lambda: _dead_letter(running, ghost.key, "shopify"), "the refused listing is a dead letter")
    await send_listings(settings, [msgspec.structs.replace(both, listings=list(key.listings))])


async def test_orders_read_again_from_the_start_move_nothing_twice(running: Running) -> None:
    await running.quiet()
    before = await levels(running.stack.settings)
    settings = running.stack.settings
    await running.stack.hold("orders")
    sources = WORKERS["orders"](settings).source_topics
    await until(lambda: _set_to_start(settings, sources), "its group is empty, and its positions are set")
    running.stack.resume("orders")
    await running.stack.wait_healthy(LIMIT_S)
    await running.quiet()
    after = await levels(settings)
    assert {key: record.level for key, record in after.items()} == {
        key: record.level for key, record in before.items()
    }


async def test_each_service_alone_may_be_away_and_status_says_so(running: Running) -> None:
    key, settings = running.key(), running.stack.settings
    for name in ("receiver", "orders", "stock", "shopify"):
        await running.stack.hold(name)
        state = running_stack(running.stack.directory)
        assert state is not None
        rows = {row.name: row.health for row in await status_of(settings, state)}
        assert {one for one, known in rows.items() if known != "ok"} == {name}
        await running.sell(key, 1)
        running.stack.resume(name)
        await running.stack.wait_healthy(LIMIT_S)
    await until(lambda: _is(running.shows(key.listings[1]), OPENING - 4), "nothing was lost")


async def test_a_broker_away_under_load(running: Running) -> None:
    key = running.key()
    order = await running.sell(key, 1)
    sold = 1
    away = asyncio.create_task(running.stack.restart_brokers([1], pause_s=BROKER_AWAY_S))
    answers: Counter[int] = Counter()
    async with aiohttp.ClientSession() as session:
        while not away.done():
            if sold < OPENING:
                await running.sell(key, 1)
                sold += 1
            answers[await running.webhook(session, "orders/create", order)] += 1
    await away
    assert answers[503] > 0
    assert set(answers) <= {200, 503}
    await running.stack.wait_healthy(2 * LIMIT_S)
    await until(lambda: _is(running.shows(key.listings[1]), OPENING - sold), "every sale has arrived")
    assert (await running.level(key)).committed == sold


async def test_what_nothing_explains_is_corrected_when_it_is_small_and_on_demand_when_it_is_large(
    running: Running,
) -> None:
    small, large = running.key(), running.key()
    await running.quiet()
    # The shop changes unseen, and then we change: nothing tells any more that it was not us.
    await running.admin.act("faults", lose_probability=1.0)
    few, many, merchants = small.listings[0], large.listings[0], small.listings[1]
    for listing, units in ((few, 3), (many, 40), (merchants, 3)):
        await running.edit(listing, units)
    await send_movements(running.stack.settings, [received(small), received(large)])
    await until(lambda: _is(running.shows(few), OPENING + 4), "our change is written")
    await until(lambda: _is(running.shows(many), OPENING + 41), "our change is written")
    await until(lambda: _is(running.shows(merchants), OPENING + 4), "our change is written")
    await running.admin.act("faults")

    status, found = await running.unexplained()
    assert (status, found) == (1, {few.key: 3, many.key: 40})

    await running.stack.hold("reconcile")
    hasty = {"SETTLE_S": "0", "QUIET_S": "0", "SAMPLE_S": "1"}
    running.stack.change("reconcile", {f"SKUSTREAM_RECONCILE_{name}": value for name, value in hasty.items()})
    running.stack.resume("reconcile")
    await until(lambda: _is(running.shows(few), OPENING + 1), "the small one is corrected")
    assert await running.shows(many) == OPENING + 41
    await until(lambda: _asked(running, merchants, "look"), "south imports edits: the writer shall look")

    status, told = await running.reconcile("apply", "--yes", many.key)
    assert status == 0, told
    await until(lambda: _is(running.shows(many), OPENING + 1), "the large one is corrected")
    assert await running.unexplained() == (0, {})
    assert not await _asked(running, merchants, "set")
    assert await running.shows(merchants) == OPENING + 4
    await running.edit(merchants, -3)


async def test_a_shipment_that_a_service_has_not_heard_of_is_no_hand_edit(running: Running) -> None:
    key = running.key()
    await running.quiet()
    await running.stack.hold("orders")
    order = await running.sell(key, 3, shop=1)  # south imports edits
    await running.admin.act("fulfil", shop=SOUTH, order=order["id"])
    await until(lambda: _unheard(running, SOUTH), "the level looks changed by hand, and is left alone")
    running.stack.resume("orders")
    await until(lambda: _is(running.shows(key.listings[0]), OPENING - 3), "the other shop shows less")
    await running.quiet()
    assert (await running.level(key)).on_hand == OPENING - 3
    assert not [one for one in await running.outcomes(key) if one.startswith("hand-edit:")]


async def _unheard(running: Running, shop: str) -> bool:
    url = f"{running.stack.processes['shopify'].state.url}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return f'skustream_levels_unheard{{shop="{shop}"}} 1.0' in await answer.text()


async def test_a_shop_that_is_gone_is_forgotten_and_no_other(running: Running) -> None:
    gone, settings = "gone.myshopify.com", running.stack.settings
    listing = Listing(shop=gone, item=77, variant=78, location_id=79)
    key = Key(sku="GONE", location="main", listings=(listing,), opening=3)
    await load_listing_and_count(settings, key)
    now = datetime.now(UTC)
    found = Drift(
        shop=gone, item=77, location_id=79, kind=DriftClass.UNEXPLAINED, found_at=now, since=now, by="test"
    )
    await send_drift(settings, [found])
    await until(lambda: _held(settings, gone, "shopify.targets"), "its target is there")
    await until(lambda: _held(settings, gone, "skustream.reconcile.drift"), "its difference is kept")
    other = (await look(settings, NORTH)).counts
    await send_redactions(settings, redactions(NORTH, settings.partitions))
    assert (await redact(settings, gone)).counts == {}
    assert (await look(settings, gone)).counts == {}
    assert (await levels(settings))[key.name].level.available == 3
    await until(lambda: _dead_letter(running, f"shop {NORTH} is in the shops file"), "north is refused")
    assert (await look(settings, NORTH)).counts.items() >= {
        "stock.listings": other["stock.listings"], "skustream.orders.orders": other["skustream.orders.orders"]
    }.items()  # fmt: skip


async def test_everything_adds_up_in_the_end(running: Running) -> None:
    await running.quiet()
    facts = await gather(running.stack.settings, running.admin, running.keys)
    # Two listings are rightly told to differ: one that no count has opened, and one that the shop refuses.
    known = (f"{NORTH}/{NEW_ITEM}/", f"{SOUTH}/{GHOST_ITEM}/")
    assert [problem for problem in facts.problems if not problem.startswith(known)] == []
    assert (facts.lost, facts.doubled, facts.mismatched, facts.oversold_otherwise) == (0, 0, 0, 0)
    assert facts.duplicates_refused >= 100


def received(key: Key, quantity: int = 1) -> Movement:
    """A receipt."""
    return _movement(key, MovementKind.RECEIVED, quantity)


def counted(key: Key, quantity: int) -> Movement:
    """A count as of now."""
    return _movement(key, MovementKind.COUNTED, quantity, as_of=datetime.now(UTC))


def _movement(key: Key, kind: MovementKind, quantity: int, **fields: datetime) -> Movement:
    return Movement(
        id=f"{kind}-of-{key.name}",
        kind=kind,
        sku=key.sku,
        location=key.location,
        quantity=quantity,
        source="test",
        occurred_at=datetime.now(UTC),
        **fields,  # type: ignore[arg-type]  # an instant
    )


async def _correlations(running: Running, topic: str, key: str) -> set[str]:
    """The correlation ids in the headers of a key's records."""
    found: set[str] = set()
    async for records in read_topic(running.stack.settings, topic):
        found |= {correlation_of(record.headers) for record in records if record.key == key.encode()}
    return found - {""}


async def _topics(running: Running, key: str) -> list[str]:
    """The topics of all that came in about an order."""
    return [
        msgspec.json.decode(record.value, type=Envelope).topic
        async for records in read_topic(running.stack.settings, "shopify.orders")
        for record in records
        if record.key == key.encode()
    ]


async def _asked(running: Running, listing: Listing, action: str) -> bool:
    """Whether the writer was asked to do this about a listing."""
    async for records in read_topic(running.stack.settings, "shopify.corrections"):
        asked = [msgspec.json.decode(one.value, type=Correction) for one in records]
        if any((one.key, one.action) == (listing.key, action) for one in asked):
            return True
    return False


async def _held(settings: Settings, shop: str, topic: str) -> bool:
    return topic in (await look(settings, shop)).counts


async def load_listing_and_count(settings: Settings, key: Key) -> None:
    """List a key and count its opening stock."""
    at = datetime.now(UTC)
    await send_listings(settings, [Listings(sku=key.sku, location=key.location, listings=[*key.listings])])
    counted = Movement(
        id="count-gone", kind=MovementKind.COUNTED, sku=key.sku, location=key.location, quantity=key.opening,
        source="test", occurred_at=at, as_of=at,
    )  # fmt: skip
    await send_movements(settings, [counted])


async def _is(value: Awaitable[int], wanted: int) -> bool:
    return await value == wanted


async def _on_hand(running: Running, key: Key) -> int:
    return (await running.level(key)).on_hand


async def _committed(running: Running, key: Key) -> int:
    known = await levels(running.stack.settings)
    return known[key.name].level.committed if key.name in known else 0


async def _dead_letter(running: Running, text: str, service: str = "orders") -> bool:
    async for records in read_topic(running.stack.settings, f"dead-letters.{service}"):
        if any(text in msgspec.json.decode(one.value, type=DeadLetter).message for one in records):
            return True
    return False


async def _set_to_start(settings: Any, sources: list[str]) -> bool:
    try:
        await set_positions("orders", settings.kafka_options(), settings.partitions, sources, Start.EARLIEST)
    except Misconfigured:
        return False
    return True
