"""Which worker owns which lane: Faust's sticky, co-partitioned assignment, with a repair."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from faust.assignor.partition_assignor import PartitionAssignor


class Assignor(PartitionAssignor):  # type: ignore[misc]  # faust ships no types
    """Keeps all topics of a lane together."""

    @classmethod
    def _group_co_subscribed(
        cls, topics: set[str], subscriptions: Mapping[str, list[str]]
    ) -> Iterable[set[str]]:
        """Topics by the set of members that subscribe to them.

        Faust compares the members in the order in which their set happens to iterate, so that topics of the
        same members can end up in two groups, each assigned on its own.
        """
        groups: dict[frozenset[str], set[str]] = defaultdict(set)
        for topic in topics:
            groups[frozenset(one for one, wanted in subscriptions.items() if topic in wanted)].add(topic)
        return groups.values()
