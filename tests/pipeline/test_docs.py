"""The README's example is run in a directory of its own, as it stands but for the simulator's port."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from app.local_kafka import free_port

pytestmark = pytest.mark.kafka
ROOT = Path(__file__).parents[2]


def test_the_readmes_example(tmp_path: Path) -> None:
    [example] = re.findall(r"^```bash\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    port = str(free_port())
    example = example.replace("localhost:8090", f"localhost:{port}")
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "SKUSTREAM_SIMULATOR_PORT": port}
    environment.pop("KAFKA_BOOTSTRAP_SERVERS", None)  # its own broker
    try:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", example],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=200,
        )  # fmt: skip
    finally:
        subprocess.run(["skustream", "dev", "down"], cwd=tmp_path, env=environment, check=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SKU-0001@main version " in done.stdout
    assert '"available":107' in done.stdout
