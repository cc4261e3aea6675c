"""The two commands that check everything from outside, as an operator runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.kafka


def run(directory: Path, *words: str, limit_s: float) -> dict[str, Any]:
    """Run a command in a directory of its own; its facts, when it ends with 0."""
    # Without KAFKA_BOOTSTRAP_SERVERS: its own broker, which it may kill.
    own = {name: value for name, value in os.environ.items() if name != "KAFKA_BOOTSTRAP_SERVERS"}
    done = subprocess.run(
        [sys.executable, "-m", "app", *words, "--json"],
        cwd=directory, env=own, capture_output=True, text=True, check=False, timeout=limit_s,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-3000:]}"
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


@pytest.mark.timeout(400)
def test_a_minute_of_chaos_loses_and_doubles_nothing(tmp_path: Path) -> None:
    facts = run(tmp_path, "chaos", "--seconds", "60", limit_s=380)
    assert facts["kills"] >= 3
    assert facts["pauses"] >= 1
    assert facts["brokers_killed"] >= 1
    assert facts["events"] > 20_000
    assert (facts["lost"], facts["doubled"], facts["total_error"]) == (0, 0, 0)
    assert (facts["stores_equal"], facts["verify_equal"]) == (True, True)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_three_minutes_of_chaos_with_three_brokers_and_standbys(tmp_path: Path) -> None:
    facts = run(tmp_path, "chaos", "--seconds", "180", "--brokers", "3", "--standbys", "1", limit_s=880)
    assert facts["kills"] >= 8
    assert facts["pauses"] >= 2
    assert facts["brokers_killed"] >= 4
    assert facts["events"] >= 100_000


WRONG = (
    "mismatched",
    "lost",
    "doubled",
    "oversold_otherwise",
    "oversold_unnamed",
    "differences",
    "writes_not_once",
    "sales_overwritten",
)


@pytest.mark.timeout(400)
def test_a_short_demo_adds_up(tmp_path: Path) -> None:
    facts = run(tmp_path, "demo", "--seconds", "15", limit_s=380)
    assert facts["orders"] > 50
    assert facts["duplicates_refused"] > 0
    assert facts["writes"] > 50
    assert {name: facts[name] for name in WRONG} == dict.fromkeys(WRONG, 0)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_demo_with_everything_that_can_go_wrong_adds_up(tmp_path: Path) -> None:
    facts = run(tmp_path, "demo", "--faults", "heavy", "--seed", "3", limit_s=580)
    assert facts["hand_edits"] > 30
    assert {name: facts[name] for name in WRONG} == dict.fromkeys(WRONG, 0)
