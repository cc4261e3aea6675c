"""A real Kafka broker on this machine, for development and tests: KRaft, one node, from the Maven jars."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path

from app.errors import BrokerUnavailable, Misconfigured

JARS = Path(__file__).parents[1] / ".skustream" / "kafka-jars"
READY_LIMIT_S = 60.0
STOP_LIMIT_S = 30.0
POLL_S = 0.1
HEAP = "512m"
JVM = ("-XX:+UseParallelGC",)
"""With two cores the default collector takes a sixth of the broker's time."""

_CONFIG = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={directory}/data
auto.create.topics.enable=false
group.initial.rebalance.delay.ms={rebalance_delay_ms}
offsets.topic.num.partitions=8
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
"""


class LocalKafka:
    """One broker with its data under ``directory``; a restart finds the same data and port."""

    def __init__(
        self, directory: Path, port: int | None = None, jars: Path = JARS, rebalance_delay_ms: int = 0
    ) -> None:
        self.directory = directory
        self._rebalance_delay_ms = rebalance_delay_ms
        self.port = port or free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._jars = jars
        self._controller_port = free_port()

    @property
    def bootstrap_servers(self) -> str:
        """Where clients connect."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Format the data directory if it is new, start the broker and wait until it answers.

        Raises:
            Misconfigured: when Java or the jars are missing.
            BrokerUnavailable: when the broker does not answer in time; names its log.
        """
        java = self._java()
        config = self._config()
        if not (self.directory / "data" / "meta.properties").exists():
            self._format(java, config)
        with (self.directory / "kafka.log").open("ab") as log:
            self.process = subprocess.Popen(
                [java, f"-Xmx{HEAP}", *JVM, "-cp", f"{self._jars}/*", "kafka.Kafka", str(config)],
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._wait_ready()

    def stop(self) -> None:
        """Stop the broker, by force when it does not go by itself."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        if self.process is None:
            return
        self.process.send_signal(how)
        try:
            self.process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def _java(self) -> str:
        java = shutil.which("java")
        if java is None:
            raise Misconfigured("java is not on the PATH: install Java 17 (openjdk-17-jre-headless)")
        if not any(self._jars.glob("kafka_*.jar")):
            raise Misconfigured(f"no Kafka jars in {self._jars}: run 'make setup'")
        return java

    def _config(self) -> Path:
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / "server.properties"
        path.write_text(
            _CONFIG.format(
                port=self.port,
                controller_port=self._controller_port,
                directory=self.directory,
                rebalance_delay_ms=self._rebalance_delay_ms,
            )
        )
        return path

    def _format(self, java: str, config: Path) -> None:
        cluster = (
            "A" + urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]
        )  # "-" first is taken for an option
        command = [java, "-cp", f"{self._jars}/*", "kafka.tools.StorageTool", "format"]
        done = subprocess.run(
            [*command, "--cluster-id", cluster, "--config", str(config)], capture_output=True, check=False
        )
        if done.returncode:
            raise Misconfigured(f"cannot format {self.directory}: {done.stderr.decode()[-500:]}")

    def _wait_ready(self) -> None:
        assert self.process is not None
        end = time.monotonic() + READY_LIMIT_S
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise BrokerUnavailable(f"the broker ended at start; see {self.directory / 'kafka.log'}")
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(POLL_S)
        self.kill()
        raise BrokerUnavailable(
            f"no broker at {self.bootstrap_servers} after {READY_LIMIT_S:.0f} s; "
            f"see {self.directory / 'kafka.log'}"
        )


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def external_bootstrap() -> str | None:
    """The cluster that KAFKA_BOOTSTRAP_SERVERS points at, instead of a local broker."""
    return os.environ.get("KAFKA_BOOTSTRAP_SERVERS") or None
