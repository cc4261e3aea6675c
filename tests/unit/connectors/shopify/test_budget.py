"""The budget: what is in a shop's bucket, less what calls under way will take."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.shopify.budget import UNKNOWN_LOOK_S, Budget
from connectors.shopify.simulator.cost import Bucket


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def cost(
    available: float, requested: float = 13, capacity: float = 2000, rate: float = 100
) -> dict[str, Any]:
    status = {"maximumAvailable": capacity, "currentlyAvailable": available, "restoreRate": rate}
    return {"requestedQueryCost": requested, "actualQueryCost": requested, "throttleStatus": status}


def test_before_the_first_answer_one_call_is_made_at_a_time() -> None:
    budget = Budget(Clock())
    assert budget.wait_s(13) == 0
    call = budget.begin("Adjust", 1)
    assert budget.wait_s(13) == UNKNOWN_LOOK_S
    budget.learn(cost(1987), call)
    budget.end(call)
    assert budget.wait_s(13) == 0


def test_calls_under_way_are_spoken_for_and_what_can_wait_leaves_a_tenth() -> None:
    clock = Clock()
    budget = Budget(clock)
    budget.learn(cost(500))
    for _ in range(10):
        budget.begin("Adjust", 10)  # 30 points each, as long as nothing is known
    assert budget.available == 200
    assert budget.wait_s(20) == pytest.approx(0.2)
    assert budget.wait_s(20, urgent=True) == 0
    clock.now = 0.2
    assert budget.wait_s(20) == pytest.approx(0.0)


def test_a_call_that_can_never_be_paid_is_left_to_the_shop() -> None:
    budget = Budget(Clock())
    budget.learn(cost(2000))
    assert budget.wait_s(5_000) == 0


def test_costs_are_learned_by_size_and_never_guessed_too_low() -> None:
    budget = Budget(Clock())
    for size, points in ((10, 30), (100, 200)):
        call = budget.begin("Levels", size)
        budget.learn(cost(1500, points), call)
        budget.end(call)
    assert [budget.expected("Levels", size) for size in (1, 10, 50, 100, 200)] == [30, 30, 150, 200, 400]


def test_an_answer_that_others_overtook_does_not_bring_their_points_back() -> None:
    budget = Budget(Clock())
    budget.learn(cost(1000))
    first, second = budget.begin("Adjust", 1), budget.begin("Adjust", 1)
    budget.learn(cost(700), second)
    budget.end(second)
    budget.learn(cost(900), first)
    budget.end(first)
    assert budget.available == 700


@given(st.lists(st.tuples(st.integers(1, 250), st.floats(0.0, 0.5), st.floats(0.0, 1.0)), max_size=80))
def test_who_waits_is_never_throttled_however_the_answers_overlap(
    steps: list[tuple[int, float, float]],
) -> None:
    clock = Clock()
    bucket, budget = Bucket(clock, capacity=2000, restore_rate=100), Budget(clock)
    under_way = []
    for size, pause_s, share in steps:
        clock.now += pause_s
        points = 10 + size
        if budget.wait_s(budget.expected("Adjust", size)) == 0:
            call = budget.begin("Adjust", size)
            requested = min(points, int(call.points)) if not budget.capacity else points
            assert bucket.available >= requested
            bucket.take(requested)
            under_way.append((call, bucket.extension(requested, requested)))
        if under_way and share > 0.3:
            call, told = under_way.pop(int(share * len(under_way)) % len(under_way))
            budget.learn(told, call)
            budget.end(call)
