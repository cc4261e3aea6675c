"""The order of work of a shop: each listing waits once, and no backlog of writes keeps reading out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agents.shopify.waiting import READ_TURN, Queue, Waiting

LISTINGS = [f"a.myshopify.com/{item}/1" for item in range(4)]
steps = st.lists(st.tuples(st.sampled_from(LISTINGS), st.sampled_from([0, 1, 2, None])))


def served(waiting: Waiting, affords: int, calls: int) -> list[Queue]:
    """What is served in so many calls when a write costs one and a read ``affords + 1`` of what there is."""
    begun: list[Queue] = []
    level = 0
    while len(begun) < calls:
        level += affords
        for queue in waiting.queues:
            cost = affords + 1 if queue is waiting.unread else 1
            if queue and level >= cost:
                level -= cost
                waiting.served(queue)
                begun.append(queue)
    return begun


def test_what_has_to_be_read_has_its_turn_under_a_backlog_that_takes_all_there_is() -> None:
    waiting = Waiting()
    waiting.put("demo/1/71", waiting.ready)
    waiting.put("demo/2/71", waiting.unread)
    begun = served(waiting, 1, 3 * (READ_TURN + 1))
    assert begun == [*[waiting.ready] * READ_TURN, waiting.unread] * 3


def test_what_is_urgent_never_waits_for_a_read() -> None:
    waiting = Waiting()
    for listing, queue in (("1", waiting.urgent), ("2", waiting.ready), ("3", waiting.unread)):
        waiting.put(f"demo/{listing}/71", queue)
    for _ in range(READ_TURN):
        waiting.served(waiting.ready)
    assert waiting.queues == (waiting.urgent, waiting.unread)
    waiting.drop(["demo/3/71"])
    assert waiting.queues == (waiting.urgent, waiting.ready, waiting.unread)


def test_a_listing_that_waits_already_keeps_its_place_and_one_that_changes_queue_goes_last() -> None:
    waiting = Waiting()
    for listing in LISTINGS[:3]:
        waiting.put(listing, waiting.ready)
    waiting.put(LISTINGS[0], waiting.ready)
    assert waiting.ready.first(2) == LISTINGS[:2]
    waiting.put(LISTINGS[0], waiting.urgent)
    waiting.put(LISTINGS[0], waiting.ready)
    assert list(waiting.ready) == [LISTINGS[1], LISTINGS[2], LISTINGS[0]]


@given(steps)
def test_whatever_is_put_and_dropped_each_listing_waits_in_its_last_queue_alone(
    told: list[tuple[str, int | None]],
) -> None:
    waiting, last = Waiting(), dict[str, int]()
    queues = (waiting.urgent, waiting.ready, waiting.unread)
    for listing, queue in told:
        if queue is None:
            waiting.drop([listing])
            last.pop(listing, None)
        else:
            waiting.put(listing, queues[queue])
            last[listing] = queue
    assert len(waiting) == len(last)
    for number, queue_of in enumerate(queues):
        assert set(queue_of) == {listing for listing, where in last.items() if where == number}
    assert all((listing in waiting) == (listing in last) for listing in LISTINGS)
