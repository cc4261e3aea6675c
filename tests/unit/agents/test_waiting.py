"""The order of work of a shop: a lasting backlog of writes does not keep reading out."""

from __future__ import annotations

from agents.shopify.waiting import READ_TURN, Queue, Waiting


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
