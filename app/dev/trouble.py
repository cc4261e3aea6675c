"""What chaos does to a stack: kills, pauses, lost brokers and full disks, one after the other."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import cycle
from pathlib import Path
from random import Random

from aiokafka.admin import AIOKafkaAdminClient

from app.dev.supervisor import Stack
from app.settings import Settings

PAUSE_S = 10.0
"""Beyond the session timeout of chaos: the paused worker has lost its lanes when it wakes."""
ACTIONS = ("kill", "kill", "pause", "kill", "broker", "kill", "disk", "kill", "brokers")
LED = ("__transaction_state", "__consumer_offsets", "skustream.stock.positions", "stock.levels")
"""One after the other, the broker that leads a partition of one of these is killed."""
ACTION_EVERY_S = 7.0
BROKER_AWAY_S = 4.0
DISK_MIB = 256
DISK_FULL_S = 10.0

Tell = Callable[[str], None]


class Trouble:
    """Kills, pauses, lost brokers and full disks, one after the other."""

    def __init__(self, stack: Stack, random: Random, tell: Tell, disks: list[Path]) -> None:
        self.kills = self.pauses = self.brokers_killed = self.disks_filled = 0
        self._stack = stack
        self._random = random
        self._tell = tell
        self._disks = disks
        self._led = cycle(LED)

    async def run(self, seconds: float) -> None:
        """Make trouble for so long."""
        brokers = len(self._stack.cluster.brokers) if self._stack.cluster is not None else 0
        possible = {"kill", "pause"}
        possible |= {"broker"} if brokers else set()  # a cluster that is not ours is not touched
        possible |= {"brokers"} if brokers >= 3 else set()
        possible |= {"disk"} if self._disks else set()
        end = time.monotonic() + seconds
        for action in cycle(ACTIONS):
            await asyncio.sleep(ACTION_EVERY_S)
            if time.monotonic() >= end:
                return
            await self._act(action if action in possible else "kill")

    async def _act(self, action: str) -> None:
        if action == "broker":
            await self._kill_leader(next(self._led))
        elif action == "brokers":
            self._tell(f"kafka: two brokers killed, back in {BROKER_AWAY_S:.0f} s")
            await self._kill_brokers(self._random.sample(range(1, 4), 2), BROKER_AWAY_S)
        elif action == "disk":
            await self._fill_disk(self._random.choice(self._disks))
        else:
            await self._hit_worker(action)

    async def _hit_worker(self, action: str) -> None:
        name = self._random.choice([name for name, one in self._stack.processes.items() if one.running])
        if action == "kill":
            self._tell(f"{name}: SIGKILL")
            self._stack.signal(name, signal.SIGKILL)
            self.kills += 1
            return
        self._tell(f"{name}: SIGSTOP for {PAUSE_S:.0f} s")
        self._stack.signal(name, signal.SIGSTOP)
        await asyncio.sleep(PAUSE_S)
        self._stack.signal(name, signal.SIGCONT)
        self.pauses += 1

    async def _kill_leader(self, topic: str) -> None:
        node = await leader_of(self._stack.settings, topic, self._random)
        self._tell(f"kafka: broker {node}, which leads a partition of {topic}, killed and started again")
        await self._kill_brokers([node], 0.0)

    async def _kill_brokers(self, nodes: list[int], pause_s: float) -> None:
        await self._stack.restart_brokers(nodes, pause_s)
        self.brokers_killed += len(nodes)

    async def _fill_disk(self, disk: Path) -> None:
        self._tell(f"{disk.name}: its disk is full for {DISK_FULL_S:.0f} s")
        ballast = disk / "ballast"
        await asyncio.to_thread(fill_disk, ballast)
        await asyncio.sleep(DISK_FULL_S)
        ballast.unlink()
        self.disks_filled += 1


async def leader_of(settings: Settings, topic: str, random: Random) -> int:
    """The node id of the broker that leads some partition of a topic."""
    admin = AIOKafkaAdminClient(**settings.kafka_options())
    await admin.start()
    try:
        (described,) = await admin.describe_topics([topic])
    finally:
        await admin.close()
    leaders = [one["leader"] for one in described["partitions"] if one["leader"] > 0]
    return int(random.choice(leaders))


def fill_disk(ballast: Path) -> None:
    """Write until there is no room."""
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 20))


@contextmanager
def small_disks(directories: Sequence[Path]) -> Iterator[list[Path]]:
    """A small disk (tmpfs) at each directory; none where this user may not mount."""
    mounted: list[Path] = []
    try:
        for directory in directories:
            directory.mkdir(parents=True, exist_ok=True)
            mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(directory)]
            if (
                shutil.which("mount")
                and subprocess.run(mount, capture_output=True, check=False).returncode == 0
            ):
                mounted.append(directory)
        yield mounted
    finally:
        for directory in mounted:
            subprocess.run(["umount", "--lazy", str(directory)], check=False)
