"""Every measurement runs, small: it checks its own work and prints facts. Its figures mean nothing here."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from support.kafka_io import without_broker

pytestmark = [pytest.mark.kafka, pytest.mark.long, pytest.mark.timeout(600)]

MEASUREMENTS = {
    "engine": (["--events", "200000", "--only", "engine_one_process"], "engine_one_process_events_per_s"),
    "adjuster": (["--events", "200000", "--keys", "2000"], "ratio_engine"),
    "growth": (["--events", "100000", "--keys", "1000", "--keys", "20000"], "ratio_last_to_first"),
    "restore": (["--records", "100000"], "restore_records_per_s"),
    "receiver": (["--requests", "3000"], "ratio_bare_aiohttp"),
    "latency": (["--rate", "50", "--seconds", "5", "--warm", "5"], "other_shop_ms_p99"),
    "reconcile": (["--listings", "2000"], "differences_found"),
    "writer": (["--listings", "20000"], "backlog_listings_per_s"),
    "failover": (["--records", "20000"], "killed_with_standby_silence_s"),
}


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_a_measurement_runs(name: str) -> None:
    options, fact = MEASUREMENTS[name]
    done = subprocess.run(
        [sys.executable, "-m", "app", "bench", name, *options, "--json"],
        env=without_broker(), capture_output=True, text=True, check=False, timeout=590,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)[fact] > 0
