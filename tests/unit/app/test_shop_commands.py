"""`skustream shop …` and `orders …` as an operator runs them, against the simulator."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from support.simulated import MAIN, STORE, Simulated, simulated

from app.cli import main

DOMAIN = "sim.myshopify.com"
PUBLIC = "http://127.0.0.1:9"
SECRETS = {"SIM_TOKEN": "example-token", "SIM_SECRET": "example-secret"}
ADD = ("shop", "add", DOMAIN, "--token-env", "SIM_TOKEN", "--webhook-secret-env", "SIM_SECRET")
DEFAULT = ("--default-location-id", "5")


@pytest.fixture
async def shop() -> AsyncIterator[Simulated]:
    async with simulated(DOMAIN) as running:
        yield running


class Operator:
    """Runs commands with a shops file of their own."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.environment = {**SECRETS, "SKUSTREAM_SHOPS_FILE": str(file), "SKUSTREAM_PUBLIC_URL": PUBLIC}

    async def run(self, *words: str) -> Result:
        done = await asyncio.to_thread(CliRunner().invoke, main, list(words), env=self.environment)
        assert not any(secret in done.output for secret in SECRETS.values())
        return done

    def entry(self) -> dict[str, object]:
        return yaml.safe_load(self.file.read_text())["shops"][DOMAIN]  # type: ignore[no-any-return]  # of any type


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    return Operator(tmp_path / "shops.yaml")


async def test_a_shop_is_added_checked_fixed_and_listed(shop: Simulated, operator: Operator) -> None:
    url = ("--api-url", shop.shop.api_url)
    added = await operator.run(*ADD, *url, "--default-location-id", str(MAIN), "--location", f"{MAIN}=main")
    assert added.exit_code == 0, added.output
    assert operator.entry() == {
        "access_token_env": "SIM_TOKEN",
        "webhook_secret_env": "SIM_SECRET",
        "default_location_id": MAIN,
        "api_url": shop.shop.api_url,
        "locations": {MAIN: "main"},
    }
    checked = await operator.run("shop", "check", DOMAIN)
    assert checked.exit_code == 1
    assert "BROKEN  webhooks   orders/create: goes to" in checked.output
    fixed = await operator.run("shop", "check", "--fix", "--json")
    assert fixed.exit_code == 0, fixed.output
    [told] = json.loads(fixed.output)
    assert told["shop"] == DOMAIN
    assert all(one["ok"] for one in told["findings"])
    listed = await operator.run("shop", "list")
    assert f"{DOMAIN}: access token, hand edits: report" in listed.output


async def test_a_changed_entry_keeps_what_is_not_named(shop: Simulated, operator: Operator) -> None:
    url = ("--api-url", shop.shop.api_url)
    await operator.run(*ADD, *url, "--default-location-id", str(MAIN))
    before = operator.entry()
    changed = await operator.run("shop", "add", DOMAIN.upper(), "--hand-edits", "overrule", "--shadow")
    assert f"{DOMAIN} is changed" in changed.output
    assert operator.entry() == {**before, "hand_edits": "overrule", "shadow": True}


async def test_nothing_is_written_for_a_shop_that_is_broken(shop: Simulated, operator: Operator) -> None:
    url = ("--api-url", shop.shop.api_url)
    await shop.act("behave", shop=DOMAIN, scopes=["read_orders"])
    refused = await operator.run(*ADD, *url, "--default-location-id", str(MAIN))
    assert refused.exit_code == 1
    assert "BROKEN  scopes     write_inventory is not granted: stock cannot be written" in refused.output
    assert "is not written because of its scopes, locations" in refused.output
    assert not operator.file.exists()
    forced = await operator.run(*ADD, *url, "--default-location-id", str(MAIN), "--no-check")
    assert forced.exit_code == 0
    assert operator.entry()["default_location_id"] == MAIN


async def test_the_default_location_is_found_when_there_is_only_one(
    shop: Simulated, operator: Operator
) -> None:
    url = ("--api-url", shop.shop.api_url)
    asked = await operator.run(*ADD, *url)
    assert (
        f"give --default-location-id; its active locations are {MAIN} 'Default', {STORE} 'Store'"
        in asked.output
    )
    closed = {"id": STORE, "name": "Store", "active": False}
    await shop.act("shops", domain=DOMAIN, locations=[closed])
    assert (await operator.run(*ADD, *url)).exit_code == 0
    assert operator.entry()["default_location_id"] == MAIN


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((*ADD, "--no-check"), "--no-check needs --default-location-id"),
        ((*ADD, *DEFAULT, "--location", "main"), "--location main: expected"),
        ((*ADD, "--default-location-id", "-5", "--no-check"), "default_location_id"),
        ((*ADD, "--client-id", "x", "--no-check", *DEFAULT), "both access_token and client_id"),
        (("shop", "add", "no domain", "--token-env", "SIM_TOKEN"), "'no domain' is not a domain"),
        (("shop", "add", DOMAIN, "--token-env", "NOPE", *DEFAULT), "names NOPE, which is not set"),
        (("shop", "add", DOMAIN), "needs access_token"),
        (("shop", "list"), "cannot read"),
        (("shop", "check"), "cannot read"),
        (("orders", "catch-up", "--since", "yesterday"), "Invalid value for '--since'"),
    ],
)  # fmt: skip
async def test_nonsense_is_named_and_writes_nothing(
    operator: Operator, words: tuple[str, ...], told: str
) -> None:
    done = await operator.run(*words)
    assert done.exit_code in (1, 2)
    assert told in done.output
    assert not operator.file.exists()


async def test_fixing_needs_to_know_where_webhooks_go(shop: Simulated, operator: Operator) -> None:
    url = ("--api-url", shop.shop.api_url)
    await operator.run(*ADD, *url, "--default-location-id", str(MAIN))
    del operator.environment["SKUSTREAM_PUBLIC_URL"]
    done = await operator.run("shop", "check", "--fix")
    assert "--fix needs --webhook-url, or the setting SKUSTREAM_PUBLIC_URL" in done.output
    done = await operator.run("shop", "check", "other.myshopify.com")
    assert f"has no shop other.myshopify.com; there are {DOMAIN}" in done.output
