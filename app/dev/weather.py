"""What the demo does to the pipeline and to the shops: mild, or everything that can go wrong."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from connectors.shopify.simulator.faults import FaultKind


class Weather(Struct, frozen=True, kw_only=True):
    """Faults of the shops, kills of services, edits by hand, and how long all of it may take to heal."""

    faults: dict[str, Any]  # of the simulator, while there is traffic
    victims: tuple[str, ...]  # services that get a SIGKILL, at even distances
    edits_a_second: float = 0.0  # a merchant changes a level in a shop's admin
    settings: dict[str, Any] = {}  # of the services
    hand_edits: tuple[str, ...] = ("report", "report")  # the shops' policies
    quiet_limit_s: float = 90.0
    """For everything to be right after the traffic; what is not by then counts as wrong."""


LIGHT = Weather(
    faults={
        "duplicate_every": 10,
        "late_probability": 0.03,
        "late_s": 2.0,
        "reorder_ms": 50,
        "latency_ms": 20,
        "probability": {
            FaultKind.ERROR_BEFORE: 0.01,
            FaultKind.ERROR_AFTER: 0.02,
            FaultKind.DROP_CONNECTION: 0.01,
            FaultKind.HTTP_429: 0.01,
        },
    },
    victims=("stock",),
)

HEAVY = Weather(
    faults={
        "duplicate_probability": 0.1,
        "late_probability": 0.05,
        "late_s": 4.0,
        "reorder_ms": 300,
        "lose_probability": 0.05,
        "latency_ms": 20,
        "bulk_failure_probability": 0.2,
        "probability": {
            FaultKind.ERROR_BEFORE: 0.03,
            FaultKind.ERROR_AFTER: 0.05,
            FaultKind.DROP_CONNECTION: 0.03,
            FaultKind.INTERNAL_BEFORE: 0.01,
            FaultKind.INTERNAL_AFTER: 0.01,
            FaultKind.TIMEOUT_BEFORE: 0.002,
            FaultKind.TIMEOUT_AFTER: 0.003,
            FaultKind.HTTP_429: 0.03,
            FaultKind.THROTTLED: 0.03,
        },
    },
    victims=("shopify", "orders", "stock", "shopify"),
    edits_a_second=1.0,
    # Late webhooks take seconds here, where they may take a day: what waits for them waits less.
    settings={
        "catch_up_s": 5.0,
        "hand_edit_s": 25.0,
        "reconcile_sweep_s": 60.0,
        "reconcile_settle_s": 25.0,
    },
    hand_edits=("overrule", "import"),
    quiet_limit_s=300.0,
)

WEATHERS = {"light": LIGHT, "heavy": HEAVY}
"""By the name that ``skustream demo --faults`` takes."""
