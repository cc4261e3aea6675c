"""``skustream reconcile``: what is wrong with a call is named before anybody is asked."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from app.cli import main

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["apply", "TEE@main"], "not a listing: 'TEE@main' is not {shop}/{item}/{location id}"),
        (["apply", "--shop", "a.b", "a.b/1/2"], "name shops or listings, not both"),
        (["--shop", "nobody.myshopify.com"], "has no shop nobody.myshopify.com; there are north"),
        (["apply", "nobody.myshopify.com/1/2"], "has no shop nobody.myshopify.com; there are north"),
        (["--dry-run"], "no Kafka broker answers at 127.0.0.1:1"),
    ],
)
def test_what_is_wrong_is_named(monkeypatch: pytest.MonkeyPatch, words: list[str], told: str) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("SKUSTREAM_SHOPS_FILE", str(ROOT / "ops" / "docker" / "shops.yaml"))
    done = CliRunner().invoke(main, ["reconcile", *words])
    assert done.exit_code == 1
    assert told in done.output + done.stderr
