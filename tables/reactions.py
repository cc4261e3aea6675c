"""What the writer does about each way in which a shop refuses a write (a ``userErrors`` entry's code)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

EXPIRED, REFUSED, TOO_COSTLY = "INTENT_EXPIRED", "CALL_REFUSED", "MAX_COST_EXCEEDED"
"""Codes of what is no entry of ``userErrors``: the intent was too old to be sent (again), the call was
refused as a whole, or it asks for more points than a call may cost (this one is Shopify's own).
"""


class Reaction(StrEnum):
    """What follows from a code; of several in one answer, the first in this order."""

    DOUBT = "doubt"  # the key stood for another body, a bug of ours: alert, and look what really happened
    SAME_KEY = "same_key"  # it is being carried out just now: wait, and ask under the same key
    NEW_KEY = "new_key"  # nothing was carried out and nobody is to blame: again, under a new key
    READ = "read"  # the shop has another value than we compared with: read, and decide anew
    HOLD = "hold"  # our data is wrong and will stay so: a dead letter at once
    ACTIVATE = "activate"  # the item is not stocked there: activate it, then write
    SPLIT = "split"  # the entry named is refused, counted and tried later; the others go on without it


REACTIONS = {
    "IDEMPOTENCY_KEY_PARAMETER_MISMATCH": Reaction.DOUBT,
    "IDEMPOTENCY_CONCURRENT_REQUEST": Reaction.SAME_KEY,
    "IDEMPOTENCY_PREVIOUS_ATTEMPT_FAILED": Reaction.NEW_KEY,
    "SERVICE_UNAVAILABLE": Reaction.NEW_KEY,
    "ADJUST_QUANTITIES_FAILED": Reaction.NEW_KEY,
    "MOVE_QUANTITIES_FAILED": Reaction.NEW_KEY,
    "SET_ON_HAND_QUANTITIES_FAILED": Reaction.NEW_KEY,
    "CHANGE_FROM_QUANTITY_STALE": Reaction.READ,
    "COMPARE_QUANTITY_STALE": Reaction.READ,
    "COMPARE_QUANTITY_REQUIRED": Reaction.READ,
    "INVALID_QUANTITY_NEGATIVE": Reaction.HOLD,
    "INVALID_QUANTITY_TOO_HIGH": Reaction.HOLD,
    "INVALID_QUANTITY_TOO_LOW": Reaction.HOLD,
    "INVALID_QUANTITY_DOCUMENT": Reaction.HOLD,
    "INVALID_LEDGER_DOCUMENT": Reaction.HOLD,
    "INVALID_AVAILABLE_DOCUMENT": Reaction.HOLD,
    "INVALID_REFERENCE_DOCUMENT": Reaction.HOLD,
    "INTERNAL_LEDGER_DOCUMENT": Reaction.HOLD,
    "MAX_ONE_LEDGER_DOCUMENT": Reaction.HOLD,
    "NO_DUPLICATE_INVENTORY_ITEM_ID_GROUP_ID_PAIR": Reaction.HOLD,
    "INVALID_REASON": Reaction.HOLD,
    "INVALID_NAME": Reaction.HOLD,
    "INVALID_QUANTITY_NAME": Reaction.HOLD,
    "ITEM_NOT_STOCKED_AT_LOCATION": Reaction.ACTIVATE,
    "INVALID_INVENTORY_ITEM": Reaction.SPLIT,
    "INVALID_LOCATION": Reaction.SPLIT,
    "NON_MUTABLE_INVENTORY_ITEM": Reaction.SPLIT,
    EXPIRED: Reaction.DOUBT,
    REFUSED: Reaction.HOLD,
    TOO_COSTLY: Reaction.NEW_KEY,
}
"""Shopify's codes (facts 2.6 and its appendix). One that is not here is SPLIT."""

_ORDER = list(Reaction)
_BLAMING = frozenset({Reaction.HOLD, Reaction.ACTIVATE, Reaction.SPLIT})
"""Those that are about single entries."""


class Fault(NamedTuple):
    """One thing that is wrong with a call, and the entry that it names."""

    entry: int | None
    code: str | None
    message: str


class Verdict(NamedTuple):
    """What follows for one entry of a call that was not carried out."""

    reaction: Reaction | None  # None: it is not to blame, and goes again
    error: str = ""
    alone: bool = False  # nobody knows who is to blame: it goes by itself


def reaction_to(codes: Iterable[str | None]) -> Reaction:
    """The reaction to an answer with these codes."""
    found = {REACTIONS.get(code or "", Reaction.SPLIT) for code in codes}
    return min(found, key=_ORDER.index)


def verdicts(faults: Sequence[Fault], entries: int) -> list[Verdict]:
    """What follows for each of a call's entries; the only entry of a call is always to blame."""
    reaction = reaction_to(fault.code for fault in faults)
    error = "; ".join(f"{fault.code}: {fault.message}" for fault in faults)
    if reaction not in _BLAMING or entries == 1:
        return [Verdict(reaction, error)] * entries
    named = {fault.entry for fault in faults if fault.entry is not None and fault.entry < entries}
    if not named:
        return [Verdict(None, alone=True)] * entries
    return [
        verdicts([fault for fault in faults if fault.entry == index], 1)[0]
        if index in named
        else Verdict(None)
        for index in range(entries)
    ]
