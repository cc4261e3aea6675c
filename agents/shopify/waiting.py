"""The order of work: what waits for a call to a shop, each listing once, the longest waiting first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from connectors.shopify.budget import FIRST_COST

READ_TURN = 10
"""Full calls: what is read then is less than a tenth of what a standard shop's bucket is spent on."""


class Queue:
    """Listings that wait for the same kind of attention."""

    def __init__(self, *, urgent: bool = False) -> None:
        self.urgent = urgent  # it may spend what others leave in the bucket
        self.points = FIRST_COST  # what its next call is known to need
        self._listings: dict[str, None] = {}

    def first(self, count: int) -> list[str]:
        """The longest waiting."""
        return list(islice(self._listings, count))

    def put(self, listing: str) -> None:
        """Let a listing wait; one that does already keeps its place."""
        self._listings.setdefault(listing)

    def drop(self, listing: str) -> None:
        """It does not wait any more."""
        self._listings.pop(listing, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._listings)

    def __contains__(self, listing: str) -> bool:
        return listing in self._listings

    def __len__(self) -> int:
        return len(self._listings)


class Waiting:
    """The queues of a shop, in the order in which they are served.

    Reading goes last: it costs twenty times as much of the bucket as writing as many listings does, and a
    listing that was read is then written at once, not after all others were read. But a backlog may last, so
    after ``READ_TURN`` calls that went before it nothing but what is urgent does, until a read was begun.
    """

    def __init__(self) -> None:
        self.urgent = Queue(urgent=True)  # what reaches or leaves zero
        self.ready = Queue()  # what differs otherwise
        self.unread = Queue()  # what has to be read first
        self._all = (self.urgent, self.ready, self.unread)
        self._passed = 0  # calls that went before what has to be read
        self._where: dict[str, Queue] = {}  # a backlog is noticed by the ten thousand: one look-up each

    @property
    def queues(self) -> tuple[Queue, ...]:
        """The queues whose turn it is."""
        return (self.urgent, self.unread) if self.unread and self._passed >= READ_TURN else self._all

    def served(self, queue: Queue) -> None:
        """A call was begun for a queue."""
        if queue is self.unread:
            self._passed = 0
        elif queue is self.ready:
            self._passed = self._passed + 1 if self.unread else 0

    def put(self, listing: str, queue: Queue) -> None:
        """Let a listing wait in this queue, and in no other."""
        known = self._where.get(listing)
        if known is queue:
            return
        if known is not None:
            known.drop(listing)
        self._where[listing] = queue
        queue.put(listing)

    def drop(self, listings: Iterable[str]) -> None:
        """These do not wait any more."""
        for listing in listings:
            queue = self._where.pop(listing, None)
            if queue is not None:
                queue.drop(listing)

    def __contains__(self, listing: str) -> bool:
        return listing in self._where

    def __len__(self) -> int:
        return len(self._where)
