"""A shop's cost bucket as seen from our side: what is in it, and what calls cost and will take.

Shopify fills the bucket at a steady rate and tells its level with every answer (shopify.dev "API limits").
The bucket belongs to the app and the shop, so everything that calls the shop spends from it.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

KEPT_SHARE = 0.1
"""Of the bucket, left by work that can wait: for what cannot, and for the other services of the same shop."""
FIRST_COST, FIRST_COST_EACH = 10.0, 2.0
"""A call's cost before any like it was answered: a mutation's base, and two objects for each entry."""
READ_COSTS = {
    "Order": 156.0,
    "FulfillmentLines": 101.0,
    "RefundLines": 151.0,
    "Returns": 181.0,
    "Dispositions": 126.0,
    "Routing": 58.0,
    "FulfillmentOrders": 151.0,
    "FulfillmentOrderLines": 101.0,
    "OrderOf": 4.0,
    "ChangedOrders": 100.0,
    "Items": 36.0,
    "ItemLevels": 101.0,
    "Levels": 2.0,
}
"""What reads ask for, by document and for each entry, before the first answer tells it: an object is one
point and a connection as many as its page has nodes (shopify.dev "API limits"). A test prices the documents
with the simulator's rules. Each call asks for at most ``KEPT_SHARE`` of a standard shop's 2000 points, or a
writer with a backlog, which leaves no more than that, would keep it out for as long as the backlog lasts."""
UNKNOWN_LOOK_S = 0.05
"""Before the first answer one call is made at a time; the others look again so often."""


class Reservation(Struct, frozen=True, kw_only=True, eq=False):
    """The points that a call under way may cost."""

    kind: str
    size: int  # entries
    points: float
    answers: int  # that were known when it began


class Budget:
    """What we know of a shop's cost bucket, in points."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._level = self._capacity = 0.0
        self._restore = 0.0  # points a second; 0: nothing known yet
        self._at = monotonic()
        self._answers = 0
        self._under_way: set[Reservation] = set()
        self._costs: dict[str, dict[int, float]] = defaultdict(dict)  # by kind: entries to points asked for

    @property
    def capacity(self) -> float:
        """The bucket's size, in points; 0 while nothing is known."""
        return self._capacity

    @property
    def restore_rate(self) -> float:
        """How fast the bucket fills, in points a second; 0 while nothing is known."""
        return self._restore

    @property
    def available(self) -> float:
        """What is in the bucket now, less all that the calls under way may take."""
        return self._modelled() - sum(call.points for call in self._under_way)

    def expected(self, kind: str, size: int) -> float:
        """What a call of so many entries will ask for: as the nearest one that was answered, never less."""
        known = self._costs.get(kind)
        if not known:
            return READ_COSTS[kind] * size if kind in READ_COSTS else FIRST_COST + FIRST_COST_EACH * size
        return min(points * max(1.0, size / entries) for entries, points in known.items())

    def wait_s(self, points: float, *, urgent: bool = False) -> float:
        """How long until a call can be paid; 0 is now. What is not urgent leaves ``KEPT_SHARE``."""
        if not self._restore:
            return UNKNOWN_LOOK_S if self._under_way else 0.0
        kept = 0.0 if urgent else self._capacity * KEPT_SHARE
        # A call that asks for more than there can ever be is left to the shop to refuse.
        missing = min(points + kept, self._capacity) - self.available
        return max(0.0, missing / self._restore)

    def begin(self, kind: str, size: int) -> Reservation:
        """A call begins: its points are spoken for until ``end``."""
        points = self.expected(kind, size)
        call = Reservation(kind=kind, size=max(1, size), points=points, answers=self._answers)
        self._under_way.add(call)
        return call

    def end(self, call: Reservation) -> None:
        """The call was answered or given up; ending it twice does nothing."""
        self._under_way.discard(call)

    def learn(self, cost: Mapping[str, Any], call: Reservation | None = None) -> None:
        """Take the ``extensions.cost`` of an answer to a call."""
        status = cost["throttleStatus"]
        told = float(status["currentlyAvailable"])
        if call is not None:
            self._costs[call.kind][call.size] = float(cost["requestedQueryCost"])
            if call.answers != self._answers:
                # Others were answered meanwhile, and this one may know nothing of them.
                told = min(told, self._modelled())
        self._capacity = float(status["maximumAvailable"])
        self._restore = float(status["restoreRate"])
        self._level, self._at = told, self._monotonic()
        self._answers += 1

    def _modelled(self) -> float:
        return min(self._capacity, self._level + (self._monotonic() - self._at) * self._restore)
