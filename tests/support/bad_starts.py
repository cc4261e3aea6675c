"""The table of starts that cannot work, with words of the one line that each ends with.

``docs/bad-input.md`` shows it, ``tests/pipeline/test_starts.py`` tries it.
"""

from __future__ import annotations

BAD_STARTS = {
    "Kafka unreachable": ("no Kafka broker answers at", "KAFKA_BOOTSTRAP_SERVERS"),
    "wrong SASL password": ("KAFKA_SASL_PASSWORD",),
    "topics missing": ("skustream topics plan", "stock.movements: create"),
    "topics with another partition count": ("SKUSTREAM_PARTITIONS", "the cluster has 8"),
    "port in use": ("SKUSTREAM_STOCK_PORT", "cannot listen"),
    "data directory that cannot be written": ("SKUSTREAM_DATA_DIR", "cannot be written"),
    "disk full": ("SKUSTREAM_DATA_DIR",),
    "Java missing": ("java is not on the PATH",),
    "Maven missing": ("Maven is missing",),
    "shops file missing": ("SKUSTREAM_SHOPS_FILE", "cannot read"),
    "unknown setting": ("unknown setting SKUSTREAM_PARTITION",),
    "setting with a bad value": ("setting SKUSTREAM_PARTITIONS", "many"),
}
