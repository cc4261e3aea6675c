"""Engine workers as processes: started, killed, paused, and always ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from app.local_kafka import free_port
from support import engine_service
from support.kafka_io import wait_until


class Worker:
    """One process of the toy service with a data directory of its own."""

    def __init__(self, bootstrap: str, service: str, directory: Path, **environment: str) -> None:
        self.data_dir = directory / "data"
        self.log = directory / "worker.log"
        own = {"SERVICE": service, "BOOTSTRAP": bootstrap, "DATA_DIR": str(self.data_dir)}
        self._environment = {**own, **environment}
        directory.mkdir(parents=True, exist_ok=True)
        self.start()

    def start(self, **environment: str) -> None:
        """Start the process (again), with further variables from now on."""
        self._environment |= environment
        self.port = free_port()
        tests = Path(engine_service.__file__).parents[1]
        environment = {
            **os.environ,
            **self._environment,
            "WEB_PORT": str(self.port),
            "PYTHONPATH": str(tests),
        }
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "support.engine_service", "worker", "-l", "info"],
                stdout=log, stderr=log, env=environment, cwd=tests.parent,
            )  # fmt: skip

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        return self.process.wait(timeout=30)

    def pause(self) -> None:
        """SIGSTOP: the process is there but does nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def health(self) -> dict[str, Any]:
        """What /healthz answers with 200; empty otherwise."""
        return json.loads(self._get("healthz") or b"{}")

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = self._get("metrics").decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name}{{"))

    def _get(self, path: str) -> bytes:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=2) as answer:
                return answer.read()
        except (urllib.error.URLError, OSError):
            return b""

    def healthy(self) -> bool:
        """Whether /healthz answers 200 with at least one lane."""
        return bool(self.health().get("lanes"))

    def wait_healthy(self) -> None:
        """Wait until its lanes are open."""
        wait_until(self.healthy, 40, f"worker healthy; log:\n{self.log.read_text()[-3000:]}")
