"""How many rows of the tables were tried in this run, for its summary."""

from __future__ import annotations

from collections import Counter, defaultdict

TRIED: defaultdict[str, Counter[str]] = defaultdict(Counter)
"""By table and row: how often. Each process of pytest-xdist has its own, until it ends."""


def tried(table: str, row: str) -> None:
    """Say that a row of a table was tried and did what it should."""
    TRIED[table][row] += 1


def take_over(counts: dict[str, dict[str, int]]) -> None:
    """Add what another process has counted."""
    for table, rows in counts.items():
        TRIED[table].update(rows)


def told() -> list[str]:
    """The lines of the summary."""
    lines = []
    shapes = TRIED.get("order shapes")
    if shapes:
        lines.append(
            f"order shapes: {len(shapes)} shapes, {shapes.total()} arrival orders of their webhooks, "
            "each webhook twice, reads answered at once and at the end, minutes apart and in one second"
        )
    bad = [f"{len(rows)} {table}" for table, rows in sorted(TRIED.items()) if table.startswith("bad ")]
    if bad:
        lines.append(f"bad input: {', '.join(bad)}, each with its fate")
    return lines
