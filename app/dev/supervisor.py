"""The dev supervisor: a broker, every service and the simulator as processes of this machine."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import aiohttp
import msgspec
import psutil
from msgspec import Struct

from app import topics
from app.dev.ports import PortClaims
from app.dev.shops import write_shops_file
from app.errors import Misconfigured, Retry
from app.local_kafka import LocalCluster, LocalKafka, uninterrupted
from app.services import SERVICES, WORKERS
from app.settings import Settings

BACKOFF_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
STEADY_S = 60.0
"""A process that ran this long begins with the shortest pause again."""
STOP_LIMIT_S = 15.0
HEALTH_LIMIT_S = 3.0
CATCH_UP_S = 10.0
"""A demo of a minute has no three minutes for a webhook that was lost."""
SIMULATOR = "simulator"
POLL_S = 0.2
BROKER_POLL_S = 1.0

Echo = Callable[[str, str], None]
"""Shows a line of a process: its name and the text."""


class ProcessState(Struct, kw_only=True):
    """What ``status`` tells of a process."""

    name: str
    url: str
    pid: int | None = None
    started_at: float = 0.0  # epoch seconds
    restarts: int = 0


class StackState(Struct, kw_only=True):
    """The state file of a running stack."""

    pid: int
    created: float  # the process's creation time: pids are used again
    bootstrap: str
    data_dir: str
    shops_file: str
    simulator_url: str
    processes: list[ProcessState] = []


class Ended(Retry):
    """A process ended while it was waited for."""


class Process:
    """One child: its command, its log, and its life."""

    def __init__(
        self, name: str, arguments: Sequence[str], environment: Mapping[str, str], url: str, log: Path
    ) -> None:
        self.state = ProcessState(name=name, url=url)
        self.log = log
        self._arguments = list(arguments)
        self.environment = dict(environment)
        self._process: asyncio.subprocess.Process | None = None
        self._copying: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        """Whether the process is there (it may be stopped by a signal)."""
        return self._process is not None and self._process.returncode is None

    async def start(self, echo: Echo) -> None:
        """Start it."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "app", *self._arguments,
            env={**os.environ, **self.environment}, start_new_session=True,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        self.state.pid = self._process.pid
        self.state.started_at = time.time()
        self._copying = asyncio.create_task(self._copy(echo))

    async def wait(self) -> int:
        """Wait for its end; returns the exit status."""
        assert self._process is not None, "started before"
        status = await self._process.wait()
        if self._copying is not None:
            await self._copying
        self.state.pid = None
        return status

    def send(self, number: signal.Signals) -> None:
        """Send a signal to this process, if it is there."""
        if self.running:
            assert self._process is not None
            self._process.send_signal(number)

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL when that does not help."""
        if self._process is None:
            return
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), STOP_LIMIT_S)
        except TimeoutError:
            self.send(signal.SIGKILL)
        await self.wait()

    async def _copy(self, echo: Echo) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        with self.log.open("ab") as log:
            async for line in self._process.stdout:
                log.write(line)
                log.flush()
                echo(self.state.name, line.decode(errors="replace").rstrip())


class Stack:
    """All of skustream on this machine, with everything it keeps under ``directory``."""

    def __init__(
        self,
        directory: Path,
        settings: Settings,
        *,
        echo: Echo = lambda name, line: None,
        workers: Mapping[str, int] | None = None,
        only: Sequence[str] = (SIMULATOR, *SERVICES),
        environment: Mapping[str, str] | None = None,
        external: str | None = None,
        brokers: int = 1,
        hand_edits: Sequence[str] = (),
    ) -> None:
        """Prepare a stack.

        Args:
            directory: for everything it keeps.
            settings: ports and the rest; where Kafka and the shops are is the stack's own.
            echo: shows the lines of the processes.
            workers: how many processes a worker service has; one by default.
            only: what is started.
            environment: further variables of every process.
            external: the bootstrap servers of a cluster to use, instead of brokers of its own.
            brokers: how many of its own; three replicate every topic three times.
            hand_edits: the policies of the demo shops about stock that is changed by hand.
        """
        self.directory = directory
        self.processes: dict[str, Process] = {}
        self.cluster: LocalCluster | None = None
        self._echo = echo
        self._workers = dict(workers or {})
        self._only = only
        self._extra = dict(environment or {})
        self._hand_edits = hand_edits
        self._keepers: dict[str, asyncio.Task[None]] = {}  # by process
        self._broker_keepers: list[asyncio.Task[None]] = []
        self._broker_change = asyncio.Lock()
        if external is None:
            self.cluster = LocalCluster(directory / "kafka", brokers)
            quorum = self.cluster.quorum
            replication = {"replication_factor": quorum.replicas, "min_insync_replicas": quorum.in_sync}
            settings = settings.model_copy(update=replication)
        self.bootstrap = external or (self.cluster.bootstrap_servers if self.cluster else "")
        self.shops_file = directory / "shops.yaml"
        self._ports, self._worker_ports = PortClaims(), PortClaims()
        self.simulator_port = self._ports.claim(settings.simulator_port)
        self.receiver_port = self._ports.claim(settings.receiver_port)
        self._settings = settings
        self.simulator_url = f"http://127.0.0.1:{self.simulator_port}"

    @property
    def settings(self) -> Settings:
        """The settings that reach the stack's broker."""
        return self._settings.model_copy(
            update={"bootstrap_servers": self.bootstrap, "shops_file": self.shops_file}
        )

    def environment(self) -> dict[str, str]:
        """The environment of a command that shall reach the stack."""
        own = {"KAFKA_BOOTSTRAP_SERVERS": self.bootstrap, "SKUSTREAM_SHOPS_FILE": str(self.shops_file)}
        return {**os.environ, **own}

    async def start(self) -> None:
        """Start the brokers, create the topics, start every process.

        Raises:
            Misconfigured: when Java or the jars are missing, or the directory is in use.
            BrokerUnavailable: when the broker does not answer.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        simulated = SIMULATOR in self._only
        write_shops_file(
            self.shops_file, self.simulator_port, simulated=simulated, hand_edits=self._hand_edits
        )
        if self.cluster is not None:
            await uninterrupted(self.cluster.start)
            self._broker_keepers = [
                asyncio.create_task(self._keep_broker(broker)) for broker in self.cluster.brokers
            ]
        await topics.apply(self.settings)
        await self.start_processes(self._workers, self.directory / "data")

    async def start_processes(self, workers: Mapping[str, int], data_dir: Path) -> None:
        """Start the processes; ``data_dir`` is where each worker has a directory of its own."""
        (self.directory / "logs").mkdir(parents=True, exist_ok=True)
        self._add(SIMULATOR, [SIMULATOR], self.simulator_port, {})
        self._add("receiver", ["run", "receiver"], self.receiver_port, {})
        for service in WORKERS:
            self._add_workers(service, workers.get(service, 1), data_dir)
        for name in self.processes:
            self.resume(name)

    async def stop_processes(self) -> None:
        """Stop all processes, the simulator last; the broker goes on."""
        await _cancel(list(self._keepers.values()))
        self._keepers.clear()
        last = self.processes.get(SIMULATOR)
        await asyncio.gather(*(one.stop() for one in self.processes.values() if one is not last))
        if last is not None:
            await last.stop()
        self.processes.clear()
        self._worker_ports.release()

    async def stop(self) -> None:
        """Stop everything."""
        await self.stop_processes()
        if self.cluster is not None:
            await _cancel(self._broker_keepers)
            await uninterrupted(self.cluster.stop)
        self._ports.release()

    def _add_workers(self, service: str, count: int, data_dir: Path) -> None:
        for number in range(1, count + 1):
            name = service if count == 1 else f"{service}-{number}"
            variable = f"SKUSTREAM_{service.upper()}_PORT"
            port = self._worker_ports.claim(
                getattr(self._settings, f"{service}_port") if number == 1 else None
            )
            own = {variable: str(port), "SKUSTREAM_DATA_DIR": str(data_dir / name)}
            self._add(name, ["run", service], port, own)

    def _add(self, name: str, arguments: Sequence[str], port: int, own: Mapping[str, str]) -> None:
        if arguments[-1] not in self._only:
            return
        environment = {
            "KAFKA_BOOTSTRAP_SERVERS": self.bootstrap,
            "SKUSTREAM_SHOPS_FILE": str(self.shops_file),
            "SKUSTREAM_SIMULATOR_PORT": str(self.simulator_port),
            "SKUSTREAM_RECEIVER_PORT": str(self.receiver_port),
            "SKUSTREAM_PUBLIC_URL": f"http://127.0.0.1:{self.receiver_port}",
            "SKUSTREAM_CATCH_UP_S": f"{min(CATCH_UP_S, self._settings.catch_up_s):g}",
            **self._extra,
            **own,
        }
        log = self.directory / "logs" / f"{name}.log"
        url = f"http://127.0.0.1:{port}"
        self.processes[name] = Process(name, arguments, environment, url, log)

    async def hold(self, name: str) -> None:
        """Stop one process, and do not start it again until ``resume``."""
        await _cancel([self._keepers.pop(name)])
        await self.processes[name].stop()
        self.save()

    def change(self, name: str, environment: Mapping[str, str]) -> None:
        """Give a process further variables for when it starts the next time."""
        self.processes[name].environment.update(environment)

    def resume(self, name: str) -> None:
        """Start a process and keep it running."""
        self._keepers[name] = asyncio.create_task(self._keep(self.processes[name]))

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to one process; one that ends is started again."""
        self.processes[name].send(number)

    async def restart_brokers(self, nodes: Sequence[int], pause_s: float = 0.0) -> None:
        """Kill brokers by node id, as a crash, and start them again after a pause.

        Raises:
            Misconfigured: when the cluster is not ours.
        """
        if self.cluster is None:
            raise Misconfigured("KAFKA_BOOTSTRAP_SERVERS names a cluster that is not ours to restart")
        chosen = [broker for broker in self.cluster.brokers if broker.node_id in nodes]
        async with self._broker_change:
            for broker in chosen:
                await uninterrupted(broker.kill)
            await asyncio.sleep(pause_s)
            for broker in chosen:
                await uninterrupted(broker.launch)
            for broker in chosen:
                await uninterrupted(broker.wait_ready)

    async def wait_healthy(self, limit_s: float) -> None:
        """Wait until every process is healthy.

        Raises:
            Ended: naming the processes that are not, and their logs.
        """
        end = time.monotonic() + limit_s
        waiting = list(self.processes.values())
        while waiting:
            reports = await asyncio.gather(*(report(process.state) for process in waiting))
            waiting = [one for one, known in zip(waiting, reports, strict=True) if known.health != "ok"]
            if waiting and time.monotonic() > end:
                names = ", ".join(f"{one.state.name} (see {one.log})" for one in waiting)
                raise Ended(f"not healthy after {limit_s:.0f} s: {names}")
            if waiting:
                await asyncio.sleep(POLL_S)

    async def _keep(self, process: Process) -> None:
        """Run a process, and again whenever it ends."""
        tries = 0
        while True:
            await process.start(self._echo)
            self.save()
            began = time.monotonic()
            status = await process.wait()
            tries = 0 if time.monotonic() - began > STEADY_S else tries + 1
            pause_s = BACKOFF_S[min(tries, len(BACKOFF_S)) - 1]
            self._echo(process.state.name, f"ended with status {status}; starts again in {pause_s:g} s")
            process.state.restarts += 1
            self.save()
            await asyncio.sleep(pause_s)

    async def _keep_broker(self, broker: LocalKafka) -> None:
        while True:
            await asyncio.sleep(BROKER_POLL_S)
            async with self._broker_change:
                child = broker.process
                if child is not None and child.poll() is not None:
                    self._echo("kafka", f"broker {broker.node_id} ended with status {child.returncode}")
                    await uninterrupted(broker.start)

    def _broker_states(self) -> list[ProcessState]:
        if self.cluster is None:
            return [ProcessState(name="kafka", url=self.bootstrap)]
        several = len(self.cluster.brokers) > 1
        return [
            ProcessState(
                name=f"kafka-{broker.node_id}" if several else "kafka",
                url=broker.bootstrap_servers,
                pid=broker.process.pid if broker.process is not None else None,
            )
            for broker in self.cluster.brokers
        ]

    def save(self) -> None:
        """Write the state file."""
        me = psutil.Process()
        state = StackState(
            pid=me.pid,
            created=me.create_time(),
            bootstrap=self.bootstrap,
            data_dir=str(self.directory / "data"),
            shops_file=str(self.shops_file),
            simulator_url=self.simulator_url,
            processes=[*self._broker_states(), *(process.state for process in self.processes.values())],
        )
        path = state_file(self.directory)
        new = path.with_suffix(".new")
        new.write_bytes(msgspec.json.encode(state))
        new.replace(path)


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def state_file(directory: Path) -> Path:
    """Where a stack tells what it runs."""
    return directory / "state.json"


def running_stack(directory: Path) -> StackState | None:
    """The state of the stack that runs in a directory, or None."""
    path = state_file(directory)
    if not path.exists():
        return None
    state = msgspec.json.decode(path.read_bytes(), type=StackState)
    try:
        alive = abs(psutil.Process(state.pid).create_time() - state.created) < 1.0
    except psutil.NoSuchProcess:
        return None
    return state if alive else None


class Report(Struct, frozen=True, kw_only=True):
    """What a process says of itself."""

    health: str  # "ok", or what is wrong
    lanes: list[int] = []
    standby_lag: dict[int, int] = {}


async def report(process: ProcessState) -> Report:
    """Ask the process that should answer at its address."""
    timeout, url = aiohttp.ClientTimeout(total=HEALTH_LIMIT_S), f"{process.url}/healthz"
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as answer:
            body = await answer.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return Report(health=f"no answer: {type(error).__name__}")
    if answer.status != 200:
        return Report(health=f"status {answer.status}: {body}")
    if body.get("pid") != process.pid:
        return Report(health=f"not ours: process {body.get('pid')} answers at {process.url}")
    if body.get("lanes") == []:
        return Report(health="no lanes")
    standby_lag = {int(lane): lag for lane, lag in body.get("standby_lag", {}).items()}
    return Report(health="ok", lanes=body.get("lanes", []), standby_lag=standby_lag)
