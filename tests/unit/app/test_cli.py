"""The command as a stranger meets it: help everywhere, nonsense named in one line, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from support.ports import own_ports

from app.cli import main

ROOT = Path(__file__).parents[3]


def commands(group: click.Group, *above: str) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name, command in group.commands.items():
        found.append((*above, name))
        if isinstance(command, click.Group):
            found += commands(command, *above, name)
    return found


@pytest.mark.parametrize("words", commands(main), ids=" ".join)
def test_every_command_has_help(words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(main, [*words, "--help"])
    assert done.exit_code == 0
    assert len(done.output.splitlines()) > 4


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app", *words],
        env={**os.environ, **own_ports(), **environment}, cwd=ROOT,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "environment", "message"),
    [
        (("topics", "plan"), {"SKUSTREAM_PARTITION": "8"}, "unknown setting SKUSTREAM_PARTITION"),
        (("topics", "plan"), {"SKUSTREAM_PARTITIONS": "-1"}, "setting SKUSTREAM_PARTITIONS"),
        (("topics", "plan"), {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9"}, "KAFKA_BOOTSTRAP_SERVERS"),
        (
            ("run", "stock"),
            {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9"},
            "no Kafka broker answers at 127.0.0.1:9",
        ),
        (("run", "orders"), {"SKUSTREAM_SHOPS_FILE": "none.yaml"}, "SKUSTREAM_SHOPS_FILE"),
        (("run", "receiver"), {"SKUSTREAM_SHOPS_FILE": "none.yaml"}, "SKUSTREAM_SHOPS_FILE"),
        (("simulator",), {"SKUSTREAM_SHOPS_FILE": "none.yaml"}, "SKUSTREAM_SHOPS_FILE"),
        (("dev", "status", "--directory", "none"), {}, "nothing runs in none"),
        (
            ("movement", "send", "--kind", "sold", "--sku", "A", "--location", "a b", "--quantity", "1"),
            {},
            "not a movement",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_is_wrong_is_named_in_one_line(
    words: tuple[str, ...], environment: dict[str, str], message: str
) -> None:
    done = run(*words, **environment)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_faust_knows_the_workers_tables(tmp_path: Path) -> None:
    faust = Path(sys.executable).with_name("faust")
    done = subprocess.run(
        [str(faust), "-A", "app.faust_apps:stock", "tables"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "seen" in done.stdout
