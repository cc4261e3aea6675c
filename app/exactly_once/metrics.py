"""The engine's Prometheus metrics, by service."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

RECORDS = Counter("skustream_records_total", "Source records committed", ["service", "topic"])
TRANSACTION_SECONDS = Histogram(
    "skustream_transaction_seconds", "Decide and commit of one batch", ["service"]
)
DEAD_LETTERS = Counter("skustream_dead_letters_total", "Poison records", ["service", "topic", "error"])
MISROUTED = Counter(
    "skustream_misrouted_total", "Records forwarded to the partition of their key", ["service", "topic"]
)
LANE_FAILURES = Counter("skustream_lane_failures_total", "Lanes given up and reopened", ["service", "error"])
FENCES = Counter("skustream_fences_total", "Producers started: each fences an older owner", ["service"])
RESTORED = Counter("skustream_restored_records_total", "Changelog records read back", ["service", "table"])
RESTORE_REMAINING = Gauge(
    "skustream_restore_remaining_records", "Changelog offsets that a restore has still to read", ["service"]
)
RESTORE_SECONDS = Gauge("skustream_restore_seconds", "How long the last restore took", ["service"])
STANDBY_LAG = Gauge(
    "skustream_standby_lag_records", "Changelog offsets that a standby is behind", ["service", "lane"]
)
LAG = Gauge(
    "skustream_lag_records",
    "Offsets of a source topic that the lanes of this worker have not taken, as of the last five seconds",
    ["service", "topic"],
)
LANES = Gauge("skustream_lanes", "Lanes that this worker owns and that are open", ["service"])
