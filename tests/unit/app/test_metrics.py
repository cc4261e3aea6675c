"""docs/metrics.md and the alert rules name the metrics that the processes expose, and no others."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
import yaml
from prometheus_client import Counter
from prometheus_client.metrics import MetricWrapperBase

import app.services  # noqa: F401  # imports all modules that have metrics, as every process of ours does

ROOT = Path(__file__).parents[3]
RULES = ROOT / "ops" / "prometheus" / "rules.yml"
PROMTOOL = shutil.which("promtool")
_ROW = re.compile(r"^\| `(skustream_\w+)` \|([^|]*)\|", re.MULTILINE)
_NAME = re.compile(r"skustream_\w+")
_SERIES = re.compile(r"_(bucket|sum|count)$")


def exposed() -> dict[str, tuple[str, ...]]:
    """The labels of our metrics by name, as a process of ours has registered them."""
    collectors = set(prometheus_client.REGISTRY._collector_to_names)
    ours = [
        one for one in collectors if isinstance(one, MetricWrapperBase) and one._name.startswith("skustream_")
    ]
    return {
        one._name + ("_total" if isinstance(one, Counter) else ""): tuple(one._labelnames) for one in ours
    }


def documented() -> dict[str, tuple[str, ...]]:
    rows = _ROW.findall((ROOT / "docs" / "metrics.md").read_text())
    assert len(rows) == len({name for name, _ in rows}), "a metric has two rows"
    return {name: tuple(re.findall(r"`(\w+)`", labels)) for name, labels in rows}


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load(RULES.read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def test_every_metric_is_documented_with_its_labels_and_the_other_way_round() -> None:
    assert documented() == exposed(), "each metric needs its row, with its labels, in docs/metrics.md"


def test_metrics_reach_the_exposition() -> None:
    text = prometheus_client.generate_latest().decode()
    missing = [name for name in exposed() if f"# HELP {name} " not in text]
    assert missing == []


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_an_alert_uses_metrics_and_labels_that_exist(rule: dict[str, Any]) -> None:
    expression = rule["expr"]
    [series] = _NAME.findall(expression)
    labels = {*documented()[_SERIES.sub("", series)], "le"}
    grouped = re.search(r"\bby \(([^)]*)\)", expression)
    used = {label.strip() for label in grouped[1].split(",")} if grouped else set()
    told = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    assert used | set(re.findall(r"(\w+)=~?\"", expression)) <= labels
    assert told <= used, "a label that is summed away cannot be told"
    assert rule["labels"]["severity"] in ("warning", "critical")


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
@pytest.mark.parametrize("words", [("check", "rules", "rules.yml"), ("test", "rules", "rules_test.yml")])
def test_promtool_finds_no_fault_with_the_rules(words: tuple[str, ...]) -> None:
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, *words], cwd=RULES.parent, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
