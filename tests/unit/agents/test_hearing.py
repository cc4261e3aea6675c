"""What has been heard of a shop, and the differences that nothing still to be heard can explain."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from agents.hearing import Heard, explained_by_none
from app.records import Drift, DriftClass

FOUND = datetime(2026, 11, 2, 9, 15, tzinfo=UTC)
SHOP = "north.myshopify.com"


@pytest.mark.parametrize(
    ("heard", "why"),
    [
        (Heard(looked_until=FOUND), ""),
        (Heard(looked_until=FOUND, behind="orders is behind"), "orders is behind"),
        (Heard(), "have not been looked for"),
        (Heard(looked_until=FOUND - timedelta(seconds=1)), "only been looked for up to 2026-11-02 09:14:59"),
    ],
)
def test_what_is_unheard_is_told(heard: Heard, why: str) -> None:
    told = heard.unheard(FOUND)
    assert why in told
    assert bool(told) == bool(why)


async def test_only_what_was_found_before_all_was_heard_is_left() -> None:
    def found(item: int, minutes: int) -> Drift:
        since = FOUND + timedelta(minutes=minutes)
        return Drift(
            shop=SHOP, item=item, location_id=1, kind=DriftClass.UNEXPLAINED, found_at=since, since=since,
            by="sample",
        )  # fmt: skip

    async def hearing(shop: str) -> Heard:
        assert shop == SHOP
        return Heard(looked_until=FOUND)

    assert [one.item for one in await explained_by_none([found(1, 0), found(2, 1)], hearing)] == [1]
    assert await explained_by_none([], hearing) == []
