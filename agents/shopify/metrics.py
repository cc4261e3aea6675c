"""The writer's Prometheus metrics, by shop."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

SYNC_BUCKETS_S = (0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 30, 60, 300, 900, 3600)
"""Shopify's times have a resolution of a second; beyond an hour it does not matter by how much."""

PUSHES = Counter("skustream_pushes_total", "Entries of writes, by what became of them", ["shop", "result"])
CALLS = Histogram("skustream_shopify_write_seconds", "From the first try of a write to its answer", ["shop"])
SYNC = Histogram(
    "skustream_sync_seconds",
    "From the oldest fact that a write carries out to the shop's answer",
    ["shop"],
    buckets=SYNC_BUCKETS_S,
)
RETRIES = Counter("skustream_shopify_retries_total", "Calls made again", ["shop", "error"])
WAITING = Gauge("skustream_listings_waiting", "Listings that may differ from their target", ["shop"])
UNDER_WAY = Gauge("skustream_shopify_calls_under_way", "The writer's calls under way", ["shop"])
PAUSED = Gauge("skustream_shop_paused", "1 while a shop does not let us in; its work is kept", ["shop"])
LEVELS = Counter(
    "skustream_level_webhooks_total",
    "Levels told by shops, by whether we can explain them",
    ["shop", "result"],
)
EDITS = Counter(
    "skustream_hand_edits_total", "Confirmed hand edits, by the policy followed", ["shop", "policy"]
)
UNHEARD = Gauge(
    "skustream_levels_unheard",
    "Levels that look changed by hand and are left alone: not all is heard that may explain them",
    ["shop"],
)
CORRECTIONS = Counter(
    "skustream_corrections_taken_total", "Corrections, by what became of them", ["shop", "result"]
)
DEFECTS = Counter(
    "skustream_shopify_defects_total", "Calls refused as a whole: a defect of ours, or of our data", ["shop"]
)
