"""The service ``stock`` on real Kafka, started and asked through the command, as an operator does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.kafka_io import wait_until

from app.exactly_once.store import PartitionStore
from app.local_kafka import free_port

pytestmark = pytest.mark.kafka
COMMAND = [sys.executable, "-c", "from app.cli import main; main()"]
ROOT = Path(__file__).parents[2]


def tamper(data_dir: Path, key: bytes) -> None:
    """Change the level of a key in the local store alone."""
    for path in (data_dir / "stock" / "stock").iterdir():
        store = PartitionStore(path)
        found = store.get(key)
        if found is not None:
            store.write({key: found.replace(b'"on_hand":5', b'"on_hand":6')}, store.offset)
        store.close()


def test_a_fact_sent_many_times_across_a_kill_moves_stock_once(kafka: str, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "KAFKA_BOOTSTRAP_SERVERS": kafka,
        "SKUSTREAM_DATA_DIR": str(tmp_path),
        "SKUSTREAM_STOCK_PORT": str(free_port()),
    }
    sku = f"TEE-{tmp_path.parent.name}"

    def ask(*words: str) -> str:
        done = subprocess.run(
            [*COMMAND, *words], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
        )
        return done.stdout

    def serve() -> subprocess.Popen[bytes]:
        with (tmp_path / "stock.log").open("a") as log:
            return subprocess.Popen(
                [*COMMAND, "run", "stock"], env=environment, cwd=ROOT, stdout=log, stderr=log
            )

    def send(kind: str, quantity: int, movement_id: str) -> None:
        key = ["--sku", sku, "--location", "main", "--id", f"{sku}-{movement_id}"]
        assert sku in ask("movement", "send", "--kind", kind, "--quantity", str(quantity), *key)

    def level() -> str:
        return ask("stock", "get", sku, "main").partition("\n")[0]

    ask("topics", "apply")
    service = serve()
    try:
        send("counted", 10, "count")
        send("sold", 3, "till-1")
        send("sold", 3, "till-1")
        wait_until(lambda: "available 7" in level(), 60, "the count and one sale applied")
        service.kill()
        service.wait()
        service = serve()
        send("sold", 3, "till-1")
        send("sold", 2, "till-2")
        wait_until(lambda: level() == f"{sku}@main version 3, available 5", 60, "only the new sale applied")
        live = json.loads(ask("verify", "stock", "--ledger", "--json"))
        assert sum(one["keys"] for one in live) >= 2  # the key, and its ids
        assert all(one["digest"] == one["rebuilt"] and not one["differing"] for one in live), live
        service.terminate()
        service.wait()
        tamper(tmp_path, f"{sku}@main".encode())
        report = ask("verify", "stock", "--ledger")
        assert report.count("DIFFERS") == 2, report  # by the changelog and by the ledger
        assert f"{sku}@main" in report
    finally:
        service.kill()
        service.wait()
