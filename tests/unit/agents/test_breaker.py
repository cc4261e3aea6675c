"""The breaker: opens after failures in a row, lets one probe through, and knows a shop that is paused."""

from __future__ import annotations

import asyncio

import pytest

from agents.shopify.breaker import FAILURES, OPEN_LIMIT_S, OPEN_S, PAUSED_S, Breaker, State

pytestmark = pytest.mark.asyncio


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker("north.myshopify.com", clock)


async def probe(breaker: Breaker, clock: Clock) -> None:
    clock.now += breaker.wait_s
    await breaker.enter()
    assert breaker.state is State.HALF_OPEN


async def test_failures_in_a_row_open_it_and_an_answer_between_starts_anew(breaker: Breaker) -> None:
    for _ in range(FAILURES - 1):
        breaker.failed("away")
    breaker.succeeded()
    for _ in range(FAILURES - 1):
        breaker.failed("away")
    assert breaker.state is State.CLOSED
    breaker.failed("away")
    assert breaker.state is State.OPEN
    assert breaker.wait_s == OPEN_S


async def test_a_probe_that_fails_opens_it_for_longer_and_one_that_does_not_closes_it(
    breaker: Breaker, clock: Clock
) -> None:
    for _ in range(FAILURES):
        breaker.failed("away")
    waits = []
    for _ in range(8):
        waits.append(breaker.wait_s)
        await probe(breaker, clock)
        breaker.failed("away")
    assert waits == [OPEN_S * min(2**n, OPEN_LIMIT_S) for n in range(8)]
    await probe(breaker, clock)
    assert breaker.succeeded() is False
    assert breaker.state is State.CLOSED


async def test_one_call_goes_as_the_probe_and_the_others_wait_for_its_end(
    breaker: Breaker, clock: Clock
) -> None:
    breaker.pause("402")
    calls = [asyncio.create_task(breaker.enter()) for _ in range(3)]
    gone, _ = await asyncio.wait(calls, timeout=0)  # each has begun to wait
    assert not gone
    breaker.probe_now()
    gone, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    assert len(gone) == 1
    assert breaker.succeeded() is True
    await asyncio.gather(*calls)


async def test_a_paused_shop_is_tried_every_minute_and_stays_paused_until_it_lets_us_in(
    breaker: Breaker, clock: Clock
) -> None:
    assert breaker.pause("401") is True
    assert breaker.pause("401 again") is False
    assert breaker.wait_s == PAUSED_S
    await probe(breaker, clock)
    breaker.failed("no answer")
    assert (breaker.state, breaker.wait_s) == (State.PAUSED, PAUSED_S)


async def test_a_shop_paused_on_purpose_is_not_opened_by_an_answer_that_was_under_way(
    breaker: Breaker, clock: Clock
) -> None:
    breaker.pause("moving", probe=False)
    assert breaker.succeeded() is False
    breaker.pause("402")
    assert breaker.wait_s == float("inf")
    breaker.probe_now()
    await probe(breaker, clock)
    assert breaker.succeeded() is True


async def test_a_probe_that_was_not_made_leaves_the_place_to_another(breaker: Breaker, clock: Clock) -> None:
    breaker.pause("402")
    await probe(breaker, clock)
    breaker.untried()
    assert (breaker.state, breaker.wait_s) == (State.PAUSED, 0.0)
