"""The demo: two shops sell the same units for a minute, and everything is checked from outside."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from random import Random
from typing import Any

from msgspec import Struct

from app.dev.facts import Facts, gather, mismatches
from app.dev.shops import DOMAINS, Key, NotPossible, SimulatorAdmin, catalogue, load
from app.dev.supervisor import Ended, Stack
from app.dev.weather import Weather
from app.kafka_tools import levels
from app.lag import lag_of
from app.reconcile import compare
from app.services import WORKERS

SKUS, OPENING = 200, 12
HOT = 40
"""Keys that most orders want, so that the shops fight for the same units."""
ROUNDS_A_SECOND = 12
UP_LIMIT_S = 120.0
LISTED_LIMIT_S = 120.0
TELL_S = 5.0
AGREED_POLL_S = 5.0
EDITED = 300
"""Keys, those that are ordered least, whose levels a merchant changes by hand: a shop that is given units
which are not there sells them.
"""

Tell = Callable[[str], None]


class Sold(Struct, frozen=True, kw_only=True):
    """An accepted order of a shop, as far as the merchant's later acts need it."""

    shop: str
    order: int
    lines: dict[int, int]  # quantity by line


class Traffic:
    """Shoppers and merchants of both shops."""

    def __init__(self, admin: SimulatorAdmin, keys: list[Key], random: Random) -> None:
        self.accepted = self.refused = self.cancelled = self.fulfilled = self.refunded = self.edited = 0
        self._admin = admin
        self._keys = keys
        self._random = random
        self._open: list[Sold] = []
        self._shipped: list[Sold] = []

    async def run(self, seconds: float) -> None:
        """Act for so long, at a steady pace."""
        begin = time.monotonic()
        rounds = 0
        while (spent := time.monotonic() - begin) < seconds:
            await asyncio.gather(self._both_shops(), self._merchant())
            rounds += 1
            await asyncio.sleep(max(0.0, rounds / ROUNDS_A_SECOND - spent))

    async def edit(self, seconds: float, a_second: float) -> None:
        """Change levels by hand for so long."""
        for _ in range(int(seconds * a_second)):
            await asyncio.sleep(1 / a_second)
            listing = self._random.choice(self._random.choice(self._keys[-EDITED:]).listings)
            delta = self._random.choice((-2, -1, 1, 2))
            await self._admin.act(
                "edit", shop=listing.shop, item=listing.item, location=listing.location_id, delta=delta
            )
            self.edited += 1

    async def _both_shops(self) -> None:
        """The same key in both shops at once; sometimes only one of them."""
        keys = self._keys[:HOT] if self._random.random() < 0.7 else self._keys
        key = self._random.choice(keys)
        shops = list(range(len(DOMAINS)))
        if self._random.random() < 0.3:
            shops = [self._random.choice(shops)]
        await asyncio.gather(*(self._sell(key, shop) for shop in shops))

    async def _sell(self, key: Key, shop: int) -> None:
        listing = key.listings[shop]
        wanted = [{"item": listing.item, "quantity": self._random.choice((1, 1, 1, 2, 3))}]
        # A web order is allocated at the shop's default location, a till's where the till is.
        location = None if key.location == "main" else listing.location_id
        answer = await self._admin.act("sell", shop=listing.shop, lines=wanted, location=location)
        if not answer["accepted"]:
            self.refused += 1
            return
        self.accepted += 1
        order = answer["order"]
        lines = {line["id"]: line["quantity"] for line in order["line_items"]}
        self._open.append(Sold(shop=listing.shop, order=order["id"], lines=lines))

    async def _merchant(self) -> None:
        """Now and then: cancel, ship, or refund."""
        dice = self._random.random()
        with suppress(NotPossible):
            if dice < 0.10 and self._open:
                await self._cancel(self._take(self._open))
            elif dice < 0.40 and self._open:
                await self._fulfil(self._take(self._open))
            elif dice < 0.48 and self._shipped:
                await self._refund(self._take(self._shipped), ("return", "no_restock"))
            elif dice < 0.54 and self._open:
                await self._refund(self._take(self._open), ("cancel", "no_restock"))

    def _take(self, orders: list[Sold]) -> Sold:
        return orders.pop(self._random.randrange(len(orders)))

    async def _cancel(self, sold: Sold) -> None:
        restock, refund = self._random.random() < 0.7, self._random.random() < 0.7
        await self._admin.act("cancel", shop=sold.shop, order=sold.order, restock=restock, refund=refund)
        self.cancelled += 1

    async def _fulfil(self, sold: Sold) -> None:
        await self._admin.act("fulfil", shop=sold.shop, order=sold.order)
        self.fulfilled += 1
        self._shipped.append(sold)

    async def _refund(self, sold: Sold, kinds: tuple[str, str]) -> None:
        line, quantity = next(iter(sold.lines.items()))
        await self._admin.act(
            "refund",
            shop=sold.shop,
            order=sold.order,
            lines={str(line): self._random.randint(1, quantity)},
            restock_type=self._random.choice(kinds),
        )
        self.refunded += 1


async def demo(stack: Stack, weather: Weather, seed: int, seconds: float, tell: Tell) -> Facts:
    """Run the demo on a stack that is not started yet, and stop it in any case."""
    keys = catalogue(SKUS, OPENING)
    begin = time.monotonic()
    try:
        tell("starting Kafka, the simulator with two shops, and the services")
        await stack.start()
        await stack.wait_healthy(UP_LIMIT_S)
        async with SimulatorAdmin(stack.simulator_url) as admin:
            await load(stack.settings, admin, keys)
            await _until(lambda: listed(stack, admin, keys), LISTED_LIMIT_S, "every listing shows its stock")
            tell(
                f"after {time.monotonic() - begin:.0f} s: {SKUS} SKUs at 3 locations are listed in two shops"
            )
            await _busy(stack, admin, keys, weather, seed, seconds, tell)
            tell("waiting until everything is quiet")
            end = time.monotonic() + weather.quiet_limit_s
            await quiet(stack, admin, keys, weather.quiet_limit_s)
            await _agreed(stack, end)
            return await gather(stack.settings, admin, keys)
    finally:
        await stack.stop()


async def _busy(
    stack: Stack,
    admin: SimulatorAdmin,
    keys: list[Key],
    weather: Weather,
    seed: int,
    seconds: float,
    tell: Tell,
) -> None:
    await admin.act("faults", seed=seed, **weather.faults)
    traffic = Traffic(admin, keys, Random(seed))
    telling = asyncio.create_task(_progress(traffic, tell))
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(traffic.run(seconds))
            group.create_task(_warehouse(stack, keys, seconds, tell))
            group.create_task(_kill(stack, weather.victims, seconds, tell))
            if weather.edits_a_second:
                group.create_task(traffic.edit(seconds, weather.edits_a_second))
    finally:
        telling.cancel()
        await admin.act("faults")


async def _progress(traffic: Traffic, tell: Tell) -> None:
    while True:
        await asyncio.sleep(TELL_S)
        edited = f", changed by hand {traffic.edited}" if traffic.edited else ""
        tell(
            f"orders {traffic.accepted}, refused as sold out {traffic.refused}, "
            f"cancelled {traffic.cancelled}, shipped {traffic.fulfilled}, refunded {traffic.refunded}{edited}"
        )


async def _kill(stack: Stack, victims: Sequence[str], seconds: float, tell: Tell) -> None:
    for victim in victims:
        await asyncio.sleep(seconds / (len(victims) + 1))
        tell(f"SIGKILL to the service {victim}; the supervisor starts it again")
        stack.signal(victim, signal.SIGKILL)


async def _warehouse(stack: Stack, keys: list[Key], seconds: float, tell: Tell) -> None:
    """A receipt and a count, through the command as an operator would."""
    await asyncio.sleep(seconds / 4)
    received, counted = keys[0], keys[-1]
    await _send_movement(stack, received, "received", 25, "receipt-1")
    await _send_movement(stack, received, "received", 25, "receipt-1")
    tell(f"the warehouse received 25 of {received.name} (and told it twice)")
    await asyncio.sleep(seconds / 4)
    level = (await levels(stack.settings))[counted.name].level
    await _send_movement(stack, counted, "counted", level.on_hand + 3, "count-1")
    tell(f"a count found 3 more of {counted.name}")


async def _send_movement(stack: Stack, key: Key, kind: str, quantity: int, movement_id: str) -> None:
    words = ["--kind", kind, "--sku", key.sku, "--location", key.location, "--quantity", str(quantity)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app", "movement", "send", *words, "--id", movement_id, "--source", "wms:demo",
        env=stack.environment(), stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    if await process.wait():
        raise Ended(f"'skustream movement send' ended with status {process.returncode}")


async def listed(stack: Stack, admin: SimulatorAdmin, keys: list[Key]) -> bool:
    """Whether every key is open and every listing shows what it should."""
    known = await levels(stack.settings)
    shown = (await admin.see("stock"))["levels"]
    opened = sum(1 for record in known.values() if record.opened_at is not None)
    return opened >= len(keys) and not mismatches(known, keys, shown)


async def quiet(stack: Stack, admin: SimulatorAdmin, keys: list[Key], limit_s: float) -> None:
    """Wait until nothing is under way; listings that stay wrong after the limit are left to the facts."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if await _still(stack, admin) and await listed(stack, admin, keys) and await _still(stack, admin):
            return
        await asyncio.sleep(0.5)


async def _agreed(stack: Stack, end: float) -> None:
    """Wait until nothing differs: a shipment that nobody has told us of changes nothing for sale."""
    while time.monotonic() < end:
        reports = await compare(stack.settings, (), dry_run=True)
        if not any(report.found for report in reports):
            return
        await asyncio.sleep(AGREED_POLL_S)


async def _still(stack: Stack, admin: SimulatorAdmin) -> bool:
    if (await admin.see("pending"))["pending"]:
        return False
    settings = stack.settings
    lags = [
        await lag_of(settings, service, make(settings).source_topics) for service, make in WORKERS.items()
    ]
    return not any(lags)


async def _until(condition: Callable[[], Any], limit_s: float, what: str) -> None:
    end = time.monotonic() + limit_s
    while not await condition():
        if time.monotonic() > end:
            raise Ended(f"not within {limit_s:.0f} s: {what}")
        await asyncio.sleep(0.5)
