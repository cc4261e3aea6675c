"""Who is to blame for a call that was not carried out, and what follows for each entry."""

from __future__ import annotations

import pytest

from tables.reactions import Fault, Reaction, Verdict, verdicts

GHOST, HIGH = "INVALID_INVENTORY_ITEM", "INVALID_QUANTITY_TOO_HIGH"


def faults(*told: tuple[int | None, str]) -> list[Fault]:
    return [Fault(index, code, "no") for index, code in told]


@pytest.mark.parametrize(
    ("told", "entries", "follows"),
    [
        (faults((None, GHOST)), 1, [Reaction.SPLIT]),  # the only entry is always to blame
        (faults((1, GHOST)), 3, [None, Reaction.SPLIT, None]),
        (faults((0, GHOST), (2, HIGH)), 3, [Reaction.SPLIT, None, Reaction.HOLD]),  # each its own
        (faults((7, GHOST)), 2, [None, None]),  # it names an entry that there is not
        (faults((0, "SERVICE_UNAVAILABLE")), 2, [Reaction.NEW_KEY] * 2),  # nobody is to blame
        (faults((0, GHOST), (1, "IDEMPOTENCY_KEY_PARAMETER_MISMATCH")), 2, [Reaction.DOUBT] * 2),
    ],
)
def test_what_follows_for_each_entry(told: list[Fault], entries: int, follows: list[Reaction | None]) -> None:
    assert [verdict.reaction for verdict in verdicts(told, entries)] == follows


def test_when_nobody_is_named_each_goes_by_itself() -> None:
    assert verdicts(faults((None, "INVALID_REASON")), 2) == [Verdict(None, alone=True)] * 2


def test_the_error_names_what_is_wrong_with_the_entry() -> None:
    assert verdicts(faults((0, GHOST), (1, HIGH)), 2)[1].error == f"{HIGH}: no"
