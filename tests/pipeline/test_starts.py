"""Starts that cannot work: each ends with status 1 and one line that names the thing and the setting."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.bad_starts import BAD_STARTS
from support.counted import tried
from support.kafka_io import wait_until
from support.ports import own_ports

from app import topics
from app.dev.trouble import fill_disk, small_disks
from app.local_kafka import LocalKafka, free_port
from app.settings import Settings

pytestmark = pytest.mark.kafka
ROOT = Path(__file__).parents[2]
PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"
SASL = {
    "listeners": "SASL_PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
    "advertised.listeners": "SASL_PLAINTEXT://127.0.0.1:{port}",
    "listener.security.protocol.map": "SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
    "inter.broker.listener.name": "SASL_PLAINTEXT",
    "sasl.enabled.mechanisms": "PLAIN",
    "sasl.mechanism.inter.broker.protocol": "PLAIN",
    "listener.name.sasl_plaintext.plain.sasl.jaas.config": (
        f'{PLAIN} username="broker" password="example-broker" '
        'user_broker="example-broker" user_skustream="example-password";'
    ),
}
GOOD = {
    "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
    "KAFKA_SASL_USERNAME": "skustream",
    "KAFKA_SASL_PASSWORD": "example-password",
}


def run(*words: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app", *words],
        env={**os.environ, **own_ports(), "PYTHONPATH": str(ROOT), **environment},
        cwd=cwd, capture_output=True, text=True, check=False, timeout=90,
    )  # fmt: skip


def assert_refused(what: str, done: subprocess.CompletedProcess[str]) -> None:
    """The start ended as the table of ``support.bad_starts`` says."""
    says = BAD_STARTS[what]
    assert done.returncode == 1, done.stderr[-2000:]
    last = done.stderr.strip().splitlines()[-1]
    assert all(word in last for word in says), last
    assert "Traceback" not in done.stderr
    tried("bad starts", what)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A broker that wants a password, and has no topics."""
    broker = LocalKafka(tmp_path_factory.mktemp("sasl"), overrides=SASL)
    try:
        broker.start()
        yield broker.bootstrap_servers
    finally:
        broker.stop()


def test_sasl_and_missing_topics(secured: str, tmp_path: Path) -> None:
    stock = ("run", "stock")
    here = {"KAFKA_BOOTSTRAP_SERVERS": secured, "SKUSTREAM_DATA_DIR": str(tmp_path), **GOOD}
    assert_refused("wrong SASL password", run(*stock, **{**here, "KAFKA_SASL_PASSWORD": "example-wrong"}))
    assert_refused("topics missing", run(*stock, **here))
    assert run("topics", "apply", **here).returncode == 0
    assert_refused("topics with another partition count", run(*stock, **here, SKUSTREAM_PARTITIONS="3"))
    level = topics.TopicSpec(name="stock.levels", key="", kept=topics.Kept.WEEK)
    assert "cleanup.policy" in str(asyncio.run(_mismatch(here, level)))


def test_a_worker_runs_with_the_right_password(secured: str, tmp_path: Path) -> None:
    port = str(free_port())
    here = {"KAFKA_BOOTSTRAP_SERVERS": secured, "SKUSTREAM_DATA_DIR": str(tmp_path), **GOOD}
    assert run("topics", "apply", **here).returncode == 0
    with (tmp_path / "log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "app", "run", "stock"],
            env={**os.environ, **here, "SKUSTREAM_STOCK_PORT": port}, cwd=ROOT, stdout=log, stderr=log,
        )  # fmt: skip

    def ready() -> bool:
        assert worker.poll() is None, (tmp_path / "log").read_text()[-2000:]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    try:
        wait_until(ready, 60, "the worker's lanes are open")
    finally:
        worker.terminate()
        worker.wait(30)


async def _mismatch(environment: dict[str, str], wrong: topics.TopicSpec) -> list[topics.Difference]:
    """What is said of a topic that exists with another policy than declared."""
    names = {name: value for name, value in environment.items() if name.startswith("KAFKA_")}
    settings = Settings(**names)  # type: ignore[arg-type]  # pydantic reads the aliases
    return await topics.plan(settings, [wrong])


def test_places_and_ports(kafka: str, tmp_path: Path) -> None:
    here = {"KAFKA_BOOTSTRAP_SERVERS": kafka, "SKUSTREAM_DATA_DIR": str(tmp_path / "data")}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert_refused("port in use", run("run", "stock", **here, SKUSTREAM_STOCK_PORT=port))
    unwritable = {**here, "SKUSTREAM_DATA_DIR": "/proc/skustream"}
    assert_refused("data directory that cannot be written", run("run", "stock", **unwritable))


def test_a_full_disk(kafka: str, tmp_path: Path) -> None:
    with small_disks([tmp_path / "disk"]) as disks:
        if not disks:
            pytest.skip("mounting a small tmpfs needs root")
        fill_disk(disks[0] / "ballast")
        here = {"KAFKA_BOOTSTRAP_SERVERS": kafka, "SKUSTREAM_DATA_DIR": str(disks[0])}
        assert_refused("disk full", run("run", "stock", **here))


def test_kafka_unreachable_and_settings(tmp_path: Path) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    assert_refused("Kafka unreachable", run("run", "stock", KAFKA_BOOTSTRAP_SERVERS=nobody))
    assert_refused("unknown setting", run("run", "stock", SKUSTREAM_PARTITION="8"))
    assert_refused("setting with a bad value", run("run", "stock", SKUSTREAM_PARTITIONS="many"))
    missing = {"SKUSTREAM_SHOPS_FILE": str(tmp_path / "none.yaml")}
    assert_refused("shops file missing", run("run", "orders", **missing))


def test_without_java_or_maven(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "mkdir", "touch", "java"):
        found = shutil.which(name)
        assert found is not None
        (tools / name).symlink_to(found)
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copytree(
        ROOT / "ops" / "kafka", tmp_path / "ops" / "kafka", ignore=shutil.ignore_patterns("target")
    )
    make = shutil.which("make")
    assert make is not None
    built = subprocess.run(
        [make, ".stamps/kafka"],
        cwd=tmp_path,
        env={"PATH": str(tools)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode != 0
    assert all(word in built.stdout + built.stderr for word in BAD_STARTS["Maven missing"])
    tried("bad starts", "Maven missing")
    (tools / "java").unlink()
    own = dict.fromkeys(("KAFKA_BOOTSTRAP_SERVERS",), "")
    assert_refused("Java missing", run("dev", "up", cwd=tmp_path, PATH=str(tools), **own))


def test_the_documentation_shows_every_bad_start() -> None:
    text = (ROOT / "docs" / "bad-input.md").read_text()
    missing = [what for what in BAD_STARTS if f"| {what} |" not in text]
    assert not missing, missing
