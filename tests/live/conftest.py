"""Which stores the contract is tried on, and the report of what no document tells."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest
from support.contract import Store, live_store, simulated_store

_FINDINGS = pytest.StashKey[dict[tuple[str, str], str]]()
STORES = ("simulator", "live") if os.environ.get("LIVE_TEST") else ("simulator",)
"""`make live-test` sets LIVE_TEST; `make test` asks nobody outside, whatever the environment has."""


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_FINDINGS] = {}


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    opened = {"simulator": simulated_store, "live": live_store}[request.param]
    async with opened(request.config.stash.setdefault(_FINDINGS, {})) as store:
        yield store


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """After a live test: what each store does where the documentation is silent."""
    findings = config.stash.get(_FINDINGS, {})
    if "live" in STORES and findings:
        terminalreporter.section("open points (docs/live-test.md)")
        for (point, kind), finding in sorted(findings.items()):
            terminalreporter.write_line(f"{point} [{kind}] {finding}")
