"""Reconcile: what we believe of each listing, what it should show, and what its shop really has.

The differences found, and their classes, are records of ``shopify.drift``; the newest of each listing is
kept, so that a difference has an age and a known edit stays known. Only what nothing explains is corrected,
through the writer, only while it is small, and not in shops that import hand edits: it may be one. There
the writer is asked to look, as it is about every edit.
"""

from __future__ import annotations

import asyncio
from collections import Counter as Tally
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import msgspec
import structlog
from prometheus_client import Counter, Gauge

from agents.beliefs import Beliefs
from agents.comparison import Compared, Comparison, Correctable, Limits, small
from agents.hearing import Hearing, explained_by_none
from agents.schedule import Schedule
from agents.source import own_key, payload_of
from app.exactly_once import App, Lane, SourceRecord, Table, Transaction
from app.records import Correction, Drift, DriftClass, encode, headers, shop_of
from connectors.shopify.client import ShopClients
from tables import drift

SAMPLE_LISTINGS = 50
"""Some 200 points of the 6 000 that the smallest shop has in a minute."""
SUSPECTS = 25
"""Of the sample, at most so many that differ for no known reason; the rest goes round all listings."""
LOOK_LIFE_S = 600.0
"""After that the writer need not look for a hand edit any more: the next sweep asks again."""
RECORDS_AT_ONCE = 1_000
"""Differences told in one piece of the lane's work."""

MISMATCH = Gauge(
    "skustream_inventory_mismatch_ratio",
    "Listings with a difference, of those that the last sweep checked",
    ["shop", "drift_class"],
)
CHECKED = Counter("skustream_listings_checked_total", "Listings compared with their shop", ["shop", "by"])
CORRECTIONS = Counter("skustream_corrections_asked_total", "Corrections asked of the writer", ["shop"])

log = structlog.get_logger(__name__)
decode_drift = msgspec.json.Decoder(Drift).decode


class Rhythm(NamedTuple):
    """How often, in seconds."""

    sweep_s: float
    sample_s: float


def register(app: App, clients: ShopClients, limits: Limits, rhythm: Rhythm, hearing: Hearing) -> Schedule:
    """Declare the tables, topics and agents on a service; returns the schedule, for what else shops need."""
    memory = Memory(app)
    topic = app.batch_topic("shopify.drift", route=shop_of)

    @app.agent(topic, name="remember")  # type: ignore[untyped-decorator]  # faust ships no types
    async def remember(batches: Any) -> None:
        async for batch in batches:
            await app.process(batch, memory.take)

    reconciler = Reconciler(app, memory, clients, limits, hearing)
    schedule = Schedule(app, clients.shops)
    schedule.every(rhythm.sweep_s, "sweep", reconciler.sweep)
    schedule.every(rhythm.sample_s, "sample", reconciler.sample)
    app.on_lane_closed(reconciler.close)
    app.on_stopped(clients.close)
    return schedule


class Memory:
    """The newest difference of each listing, whoever found it (table ``drift``)."""

    def __init__(self, app: App) -> None:
        self.drift: Table[Drift] = app.state_table("drift", Drift)

    def take(self, transaction: Transaction, source: SourceRecord) -> None:
        """Take what was found about a listing, by anybody."""
        found = decode_drift(payload_of(source, Drift))
        own_key(source, found.key)
        self._keep(transaction, found)

    def tell(self, transaction: Transaction, found: Iterable[Drift]) -> None:
        """Keep and publish what the service itself has found, as far as it was not known."""
        for one in found:
            if drift.news(transaction.get(self.drift, one.key.encode()), one):
                self._keep(transaction, one)
                emit(transaction, "shopify.drift", one)

    def known(self, lane: Lane, shop: str) -> dict[str, Drift]:
        """What is known to differ in a shop, by listing."""
        return {one.key: one for _, one in lane.scan(self.drift) if one.shop == shop}

    def _keep(self, transaction: Transaction, found: Drift) -> None:
        key = found.key.encode()
        known = transaction.get(self.drift, key)
        if known is not None and found.found_at < known.found_at:
            return  # our own record of before, come round
        if found.kind is not DriftClass.NONE or found.hops:
            transaction.put(self.drift, key, found)
        elif known is not None:
            transaction.delete(self.drift, key)


class Reconciler:
    """Sweeps and samples the shops of the lanes, and asks for what may be corrected."""

    def __init__(
        self, app: App, memory: Memory, clients: ShopClients, limits: Limits, hearing: Hearing
    ) -> None:
        self._app = app
        self._hearing = hearing
        self._memory = memory
        self._clients = clients
        self._limits = limits
        self._shops: dict[tuple[Lane, str], Watched] = {}

    def close(self, lane: Lane) -> None:
        """Forget what the lane's shops were believed to have."""
        self._shops = {key: shop for key, shop in self._shops.items() if key[0] is not lane}

    async def sweep(self, lane: Lane, shop: str) -> None:
        """Compare every listing of the shop."""
        own = self._shop(lane, shop)
        async with own.lock:
            compared = await own.comparison.sweep(partial(self._memory.known, lane, shop))
            await self._tell(lane, own.comparison, compared)
        counts = Tally(str(one.kind) for one in compared.found)
        for kind in drift.CLASSES:
            MISMATCH.labels(shop, str(kind)).set(counts[kind] / max(1, compared.checked))
        log.info(
            "listings are compared", shop=shop, checked=compared.checked, moving=compared.moving, **counts
        )

    async def sample(self, lane: Lane, shop: str) -> None:
        """Compare some listings, those first that are known to differ; ask for what may be corrected."""
        own = self._shop(lane, shop)
        async with own.lock:
            known = self._memory.known(lane, shop)
            wanted = own.next_sample(known)
            if not wanted:
                await own.comparison.beliefs.catch_up()
                return
            compared = await own.comparison.sample(wanted, lambda: known)
            await self._tell(lane, own.comparison, compared)
            await self._correct(lane, own.comparison, compared)

    async def _correct(self, lane: Lane, comparison: Comparison, compared: Compared) -> None:
        few = small(compared.found, self._limits, comparison.beliefs.listings, comparison.policy)
        asked = await comparison.correctable(await explained_by_none(few, self._hearing))
        if asked:
            await lane.submit(partial(self._ask, asked=asked))

    def _ask(self, transaction: Transaction, asked: Sequence[Correctable]) -> None:
        for found, correction in asked:
            emit(transaction, "shopify.corrections", correction)
            transaction.after_commit(CORRECTIONS.labels(found.shop).inc)
            log.warning(
                "a listing is corrected", listing=found.key, reason=correction.reason, hops=found.hops
            )
        self._memory.tell(transaction, [found for found, _ in asked])

    async def _tell(self, lane: Lane, comparison: Comparison, compared: Compared) -> None:
        CHECKED.labels(compared.shop, compared.by).inc(compared.checked)
        news = iter([*compared.gone, *compared.found])
        while part := list(islice(news, RECORDS_AT_ONCE)):
            await lane.submit(partial(self._memory.tell, found=part))
        policy, limits = comparison.policy, self._limits
        seen = (
            one
            for one in compared.found
            if drift.may_look(one, policy=policy, limit=limits.units, settle_ms=limits.settle_ms)
        )
        while part := list(islice(seen, RECORDS_AT_ONCE)):
            await lane.submit(partial(self._let_look, seen=part))

    def _let_look(self, transaction: Transaction, seen: Sequence[Drift]) -> None:
        """The writer reads twice and follows the shop's policy, as if a webhook had told it of an edit."""
        expires_at = datetime.fromtimestamp(transaction.now_ms / 1000, UTC) + timedelta(seconds=LOOK_LIFE_S)
        for one in seen:
            emit(transaction, "shopify.corrections", drift.look_of(one, expires_at=expires_at))

    def _shop(self, lane: Lane, shop: str) -> Watched:
        key = lane, shop
        if key not in self._shops:
            beliefs = Beliefs(self._app.reader, shop, lane.partition)
            client = self._clients.of(shop)
            self._shops[key] = Watched(Comparison(client, beliefs, self._limits))
        return self._shops[key]


class Watched:
    """A shop of a lane: one comparison at a time, and where the rolling sample has got to."""

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        self.lock = asyncio.Lock()
        self._suspects: Iterator[str] = iter(())
        self._round: Iterator[str] = iter(())

    def next_sample(self, known: Mapping[str, Drift]) -> list[str]:
        """The listings to look at now: of those that nothing explains the next in turn, then of all."""
        suspects = [one.key for one in known.values() if one.kind is DriftClass.UNEXPLAINED]
        self._suspects, first = _turn(self._suspects, suspects, SUSPECTS)
        listings = self.comparison.beliefs.listings
        self._round, others = _turn(self._round, listings, SAMPLE_LISTINGS - len(first))
        return list(dict.fromkeys([*first, *others]))


def _turn(under_way: Iterator[str], every: Iterable[str], count: int) -> tuple[Iterator[str], list[str]]:
    """The next ``count`` of a round; when it ends, a new one begins with ``every``."""
    taken = list(islice(under_way, count))
    if len(taken) < count:
        under_way = iter(list(every))
        taken += islice(under_way, count - len(taken))
    return under_way, taken


def emit(transaction: Transaction, topic: str, record: Drift | Correction) -> None:
    """Stage a record about a listing, in the lane of its shop."""
    head = headers(record, "")
    transaction.emit(topic, record.key.encode(), encode(record), head, record.shop.encode())
