"""Sorts listings into calls: writes of up to 250 entries, reads by location, activations one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from msgspec import Struct

from connectors.shopify.budget import Reservation
from connectors.shopify.client import LEVELS_A_READ
from tables.pushes import Intent, Need, PushState

ADJUST, SET, LEVELS, ACTIVATE, CLOCK = "Adjust", "Set", "Levels", "Activate", "Clock"
"""The documents' names, by which calls are priced."""
_KINDS = {Need.PUSH: ADJUST, Need.READ: LEVELS, Need.ACTIVATE: ACTIVATE}


class Asked(NamedTuple):
    """A listing to be read, and what we knew when it was asked for."""

    listing: str
    physical_total: int
    version: int


class Send(Struct, frozen=True, kw_only=True, eq=False):
    """A write whose intent is committed."""

    intent: Intent
    reserved: Reservation


class Read(Struct, frozen=True, kw_only=True, eq=False):
    """Listings of one location to be read."""

    location_id: int
    listings: list[Asked]
    reserved: Reservation


class Activate(Struct, frozen=True, kw_only=True, eq=False):
    """A listing whose level has to be activated."""

    listing: str
    reserved: Reservation


Work = Send | Read | Activate


class Batch(Struct, frozen=True, kw_only=True, eq=False):
    """One call's listings."""

    need: Need
    states: list[PushState]

    @property
    def kind(self) -> str:
        """How the call is priced."""
        return _KINDS[self.need]

    @property
    def listings(self) -> list[str]:
        """The listings' keys."""
        return [state.target.key for state in self.states]

    def work(self, reserved: Reservation, begin: Callable[[Sequence[PushState]], Intent]) -> Work:
        """The call; ``begin`` stages the intent of a write."""
        if self.need is Need.PUSH:
            return Send(intent=begin(self.states), reserved=reserved)
        if self.need is Need.ACTIVATE:
            return Activate(listing=self.states[0].target.key, reserved=reserved)
        asked = [
            Asked(state.target.key, state.target.physical_total, state.target.version)
            for state in self.states
        ]
        return Read(location_id=self.states[0].target.location_id, listings=asked, reserved=reserved)


class Plan:
    """Collects listings, in their order, until they are called for."""

    def __init__(self, *, entries: int) -> None:
        """``entries`` is the limit of a write."""
        self._entries = entries
        self._open: dict[tuple[Need, int], Batch] = {}
        self._batches: list[Batch] = []

    def add(self, need: Need, state: PushState) -> None:
        """Add a listing to the next call of its kind. A suspect, and an activation, goes by itself."""
        if need is Need.ACTIVATE or (need is Need.PUSH and state.alone):
            self._batches.append(Batch(need=need, states=[state]))
            return
        place = (need, state.target.location_id if need is Need.READ else 0)
        limit = LEVELS_A_READ if need is Need.READ else self._entries
        batch = self._open.get(place)
        if batch is None or len(batch.states) >= limit:
            batch = self._open[place] = Batch(need=need, states=[])
            self._batches.append(batch)
        batch.states.append(state)

    def batches(self) -> Iterator[Batch]:
        """The calls, by the first listing of each."""
        return iter(self._batches)
