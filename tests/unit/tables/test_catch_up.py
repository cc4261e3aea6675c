"""Catch-up: whatever is indexed late, told twice or interrupted, each change is told of, and told once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from app.records import OrderNotice
from tables import catch_up
from tables.catch_up import FIRST, OVERLAP, SETTLE, CaughtUp

NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def order(number: int, seconds: float, made: float = 0.0) -> OrderNotice:
    return OrderNotice(id=number, created_at=at(made), updated_at=at(seconds))


def test_the_first_poll_looks_back_an_hour_and_later_ones_over_the_overlap() -> None:
    assert catch_up.begins(catch_up.first(NOON)) == NOON - FIRST
    assert catch_up.begins(CaughtUp(until=at(-3600))) == at(-3600) - OVERLAP


def test_a_page_tells_its_news_and_never_goes_back() -> None:
    told = {1: order(1, 10), 2: order(2, 20)}
    news, reached = catch_up.take(told.get, CaughtUp(until=at(20)), [order(1, 10), order(2, 21), order(3, 5)])
    assert news == [order(2, 21), order(3, 5)]
    assert reached == CaughtUp(until=at(21))
    assert catch_up.take(told.get, reached, []) == ([], reached)


def test_a_new_order_whose_webhook_may_still_come_waits() -> None:
    page = [order(1, 90), order(2, 90, made=30), order(3, 31, made=31)]
    assert catch_up.settled(page, at(30)) == page[:2], "what changed last hides what changed before"
    assert catch_up.settle_time(180) == SETTLE
    assert catch_up.settle_time(3) == timedelta(seconds=1)


class Poller:
    """One poll after the other over a shop's index, with pages and a crash after any of them."""

    def __init__(self) -> None:
        self.noticed: dict[int, OrderNotice] = {}
        self.reached = catch_up.first(NOON)
        self.told: list[OrderNotice] = []

    def poll(self, index: list[OrderNotice], now: datetime, page: int, crash_after: int) -> None:
        since = catch_up.begins(self.reached)
        found = [one for one in index if one.updated_at >= since]
        for start in range(0, len(found), page):
            if start // page == crash_after:
                return
            taken = catch_up.settled(found[start : start + page], now - SETTLE)
            news, self.reached = catch_up.take(self.noticed.get, self.reached, taken)
            self.noticed.update((one.id, one) for one in news)
            self.told += news
        before = catch_up.begins(self.reached)
        self.noticed = {number: one for number, one in self.noticed.items() if one.updated_at >= before}


changes = st.lists(
    st.tuples(st.integers(1, 5), st.integers(0, 3000), st.integers(0, int(OVERLAP.total_seconds()) - 60)),
    max_size=25,
)


@given(changes, st.lists(st.integers(60, 900), max_size=6), st.integers(1, 3), st.integers(0, 4))
def test_the_last_change_of_every_order_is_told_once(
    updates: list[tuple[int, int, int]], pauses: list[int], page: int, crash_after: int
) -> None:
    """Changes are (order, when, how long until the index has it); each poll but the last may crash."""
    poller, now_s = Poller(), 0

    def index(now: float) -> list[OrderNotice]:
        newest: dict[int, tuple[int, int]] = {}
        for number, when, lag in sorted(updates, key=lambda each: each[1]):
            if when + lag <= now:
                newest[number] = max((when, number), newest.get(number, (0, number)))
        return sorted((order(number, when) for number, (when, _) in newest.items()), key=_age)

    for pause in pauses:
        now_s += pause
        poller.poll(index(now_s), at(now_s), page, crash_after)
    poller.poll(index(now_s := max(now_s, 3600) + 60), at(now_s), page, crash_after=-1)
    final = {one.id: one for one in index(now_s)}
    assert {one.id: one for one in poller.told} | final == {one.id: one for one in poller.told}
    assert len(set(poller.told)) == len(poller.told)


def _age(one: OrderNotice) -> datetime:
    return one.updated_at
