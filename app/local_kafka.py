"""Real Kafka on this machine, for development and tests: KRaft, some brokers, from the Maven jars."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import NamedTuple

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
node.id={node_id}
controller.quorum.voters={voters}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={directory}/data
auto.create.topics.enable=false
group.initial.rebalance.delay.ms={rebalance_delay_ms}
offsets.topic.num.partitions=8
offsets.topic.replication.factor={replicas}
transaction.state.log.num.partitions=8
transaction.state.log.replication.factor={replicas}
transaction.state.log.min.isr={in_sync}
min.insync.replicas={in_sync}
"""


PORTS = range(15_000, 32_000)
"""Below what systems give to outgoing connections (Linux from 32 768 on, others from 49 152)."""
TRIES = 50


async def uninterrupted(work: Callable[[], None]) -> None:
    """Run ``work`` in a thread, to its end also when the caller is cancelled: nobody else stops a broker that
    is still being started.
    """
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        await asyncio.shield(running)
    finally:
        await asyncio.wait({running})


class Quorum(NamedTuple):
    """What the brokers of a cluster have in common."""

    cluster_id: str
    controllers: tuple[int, ...]  # the port of each one's controller

    @classmethod
    def of(cls, brokers: int) -> Quorum:
        """A new cluster of so many brokers."""
        # A "-" as the id's first character would be taken for an option.
        cluster_id = "A" + urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]
        return cls(cluster_id, tuple(free_port() for _ in range(brokers)))

    @property
    def replicas(self) -> int:
        """The replication factor of internal topics, and the sensible one of all others."""
        return min(3, len(self.controllers))

    @property
    def in_sync(self) -> int:
        """``min.insync.replicas``: one broker may be away."""
        return max(1, self.replicas - 1)


class LocalKafka:
    """One broker with its data under ``directory``; a restart finds the same data and port.

    ``overrides`` are further properties of the broker, such as its security; ``{port}`` and
    ``{controller}`` in them are its ports.
    """

    def __init__(
        self,
        directory: Path,
        *,
        jars: Path = JARS,
        rebalance_delay_ms: int = 0,
        quorum: Quorum | None = None,
        node_id: int = 1,
        overrides: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self._overrides = dict(overrides or {})
        self.node_id = node_id
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._rebalance_delay_ms = rebalance_delay_ms
        self._jars = jars
        self._quorum = quorum or Quorum.of(1)

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
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start the broker without waiting for it: one of several waits for the others."""
        java = self._java()
        config = self._config()
        if not (self.directory / "data" / "meta.properties").exists():
            self._format(java, config)
        with (self.directory / "kafka.log").open("ab") as log:
            self.process = subprocess.Popen(
                [java, f"-Xmx{HEAP}", *JVM, "-cp", f"{self._jars}/*", "kafka.Kafka", str(config)],
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

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
        controllers = self._quorum.controllers
        text = _CONFIG.format(
            port=self.port,
            node_id=self.node_id,
            controller_port=controllers[self.node_id - 1],
            voters=",".join(f"{number}@127.0.0.1:{port}" for number, port in enumerate(controllers, 1)),
            replicas=self._quorum.replicas,
            in_sync=self._quorum.in_sync,
            directory=self.directory,
            rebalance_delay_ms=self._rebalance_delay_ms,
        )
        further = "".join(f"{name}={value}\n" for name, value in self._overrides.items())
        further = further.replace("{port}", str(self.port)).replace("{controller}", str(controllers[0]))
        path.write_text(text + further)
        return path

    def _format(self, java: str, config: Path) -> None:
        command = [java, "-cp", f"{self._jars}/*", "kafka.tools.StorageTool", "format"]
        done = subprocess.run(
            [*command, "--cluster-id", self._quorum.cluster_id, "--config", str(config)],
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise Misconfigured(f"cannot format {self.directory}: {done.stderr.decode()[-500:]}")

    def wait_ready(self) -> None:
        """Wait until the broker answers; see ``start``."""
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


class LocalCluster:
    """Some brokers that replicate each other, as one."""

    def __init__(self, directory: Path, brokers: int = 1) -> None:
        self.quorum = Quorum.of(brokers)
        self.brokers = [
            LocalKafka(directory / str(number), quorum=self.quorum, node_id=number)
            for number in range(1, brokers + 1)
        ]

    @property
    def bootstrap_servers(self) -> str:
        """Where clients connect."""
        return ",".join(broker.bootstrap_servers for broker in self.brokers)

    def start(self) -> None:
        """Start all brokers, and wait until all answer; see ``LocalKafka.start``."""
        for broker in self.brokers:
            broker.launch()
        for broker in self.brokers:
            broker.wait_ready()

    def stop(self) -> None:
        """Stop all brokers; the last ones lose their quorum and are ended by force."""
        with ThreadPoolExecutor(len(self.brokers)) as pool:
            list(pool.map(LocalKafka.stop, self.brokers))


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now, and that no outgoing connection is given.

    Such a connection may get any port of the system's own range, the one included that was free a moment ago.

    Raises:
        OSError: when none is found.
    """
    for port in Random().sample(PORTS, TRIES):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError(f"none of {TRIES} ports of {PORTS.start} to {PORTS.stop} is free")


def external_bootstrap() -> str | None:
    """The cluster that KAFKA_BOOTSTRAP_SERVERS points at, instead of a local broker."""
    return os.environ.get("KAFKA_BOOTSTRAP_SERVERS") or None
