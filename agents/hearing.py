"""How much of what a shop did has been heard, down to the writer's tables.

A difference is only anybody's doing when nothing that explains it is still under way. Waiting long enough
does not show that: a service can be down for longer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

import structlog
from msgspec import Struct

from app.records import Drift

log = structlog.get_logger(__name__)


class Heard(Struct, frozen=True, kw_only=True):
    """What is known of one shop, by one look at the services."""

    behind: str = ""  # what the services had not taken of all that was there when the look began
    looked_until: datetime | None = None  # missed webhooks were looked for up to this instant

    def unheard(self, before: datetime) -> str:
        """Why something that the shop did up to ``before`` may still be on its way; empty when nothing is."""
        if self.behind:
            return self.behind
        if self.looked_until is None:
            return "orders whose webhooks were lost have not been looked for yet"
        if self.looked_until < before:
            return f"orders whose webhooks were lost have only been looked for up to {self.looked_until}"
        return ""


Hearing = Callable[[str], Awaitable[Heard]]
"""Looks at the services, for a shop (its domain). Never raises: what cannot be told has not been heard."""


async def explained_by_none(few: Sequence[Drift], hearing: Hearing) -> list[Drift]:
    """Those of a shop's differences that nothing the shop did before they were found can explain any more.

    What is heard by now was not when they were judged: they have to be compared once more.
    """
    if not few:
        return []
    heard = await hearing(few[0].shop)
    unheard = {one.key: why for one in few if (why := heard.unheard(one.since))}
    if unheard:
        why = next(iter(unheard.values()))
        log.info("listings are not corrected now", shop=few[0].shop, listings=len(unheard), why=why)
    return [one for one in few if one.key not in unheard]
