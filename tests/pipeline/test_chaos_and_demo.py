"""The two commands that check everything from outside, as an operator runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.kafka_io import wait_until, without_broker

pytestmark = pytest.mark.kafka


def run(directory: Path, *words: str, limit_s: float) -> dict[str, Any]:
    """Run a command in a directory of its own; its facts, when it ends with 0."""
    done = subprocess.run(
        [sys.executable, "-m", "app", *words, "--json"],
        cwd=directory, env=without_broker(), capture_output=True, text=True, check=False, timeout=limit_s,
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


@pytest.mark.timeout(120)
@pytest.mark.parametrize("words", [["bench", "restore"], ["demo"]], ids=" ".join)
def test_a_run_that_is_ended_leaves_no_process_behind(tmp_path: Path, words: list[str]) -> None:
    run = psutil.Popen(
        [sys.executable, "-m", "app", *words],
        cwd=tmp_path, env=without_broker(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    children: dict[int, psutil.Process] = {}

    def started() -> bool:
        children.update({child.pid: child for child in run.children(recursive=True)})
        return len(children) > 1 and run.poll() is None  # a broker is formatted first

    try:
        wait_until(started, 60, "a broker, and one process more")
        run.terminate()
        said = run.communicate(timeout=50)[0].decode()
        assert "stopped by a signal" in said
        _, alive = psutil.wait_procs(children.values(), timeout=0)
        assert not alive
    finally:
        for process in (run, *children.values()):
            with suppress(psutil.NoSuchProcess):
                process.kill()


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
