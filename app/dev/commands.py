"""The commands ``skustream dev``, ``demo`` and ``chaos``."""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
import psutil

from app.dev.chaos import Facts as ChaosFacts
from app.dev.chaos import chaos as run_chaos
from app.dev.chaos import chaos_stack
from app.dev.demo import demo as run_demo
from app.dev.facts import Facts
from app.dev.shops import SimulatorAdmin, catalogue, load
from app.dev.status import Row, status_of
from app.dev.supervisor import Ended, Stack, running_stack, state_file
from app.dev.weather import WEATHERS
from app.errors import Misconfigured
from app.local_kafka import external_bootstrap
from app.settings import Settings

DIRECTORY = Path(".skustream/dev")
UP_LIMIT_S = 120.0
DOWN_LIMIT_S = 60.0
POLL_S = 0.2
SKUS, OPENING = 20, 100
T = TypeVar("T")

directory_option = click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=DIRECTORY,
    show_default=True,
    help="Where its data, logs and state are kept.",
)


@click.group("dev")
def dev() -> None:
    """The whole pipeline on this machine, with a Kafka broker and two simulated shops."""


brokers_option = click.option(
    "--brokers",
    type=click.IntRange(1, 5),
    default=1,
    show_default=True,
    help="Kafka brokers; three hold every topic three times, and one of them may be away.",
)


@dev.command("up")
@click.option("--detach", is_flag=True, help="Return when everything is healthy; it goes on in background.")
@brokers_option
@directory_option
@click.pass_obj
def up(settings: Settings, detach: bool, brokers: int, directory: Path) -> None:
    """Start everything afresh: the simulated shops live in memory, so older data would not fit them."""
    if running_stack(directory) is not None:
        raise Misconfigured(f"a stack runs in {directory} already; 'skustream dev down' stops it")
    if detach:
        _detach(directory, brokers)
        return
    shutil.rmtree(directory, ignore_errors=True)
    asyncio.run(_up(_stack(directory, settings, brokers)))


def _stack(directory: Path, settings: Settings, brokers: int) -> Stack:
    return Stack(directory, settings, echo=_echo, external=external_bootstrap(), brokers=brokers)


async def _up(stack: Stack) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await stack.start()
        await stack.wait_healthy(UP_LIMIT_S)
        async with SimulatorAdmin(stack.simulator_url) as admin:
            await load(stack.settings, admin, catalogue(SKUS, OPENING))
        _echo("dev", f"everything is up; {SKUS} SKUs at 3 locations are listed in two shops")
        (stack.directory / "ready").touch()
        await stop.wait()
    finally:
        _echo("dev", "stopping")
        await stack.stop()
        state_file(stack.directory).unlink(missing_ok=True)


def _echo(name: str, line: str) -> None:
    click.echo(f"{name:10} | {line}")


def _detach(directory: Path, brokers: int) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    log = directory / "dev.log"
    options = ["--directory", str(directory), "--brokers", str(brokers)]
    with log.open("ab") as out:
        child = subprocess.Popen(
            [sys.executable, "-m", "app", "dev", "_run", *options],
            stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    end = time.monotonic() + UP_LIMIT_S
    while not (directory / "ready").exists():
        if child.poll() is not None or time.monotonic() > end:
            child.terminate()
            raise Misconfigured(f"the stack did not come up; see {log}")
        time.sleep(POLL_S)
    click.echo(f"up; 'skustream dev status' shows it, its log is {log}")


@dev.command("_run", hidden=True)
@brokers_option
@directory_option
@click.pass_obj
def run_detached(settings: Settings, brokers: int, directory: Path) -> None:
    """The background process of `up --detach`."""
    asyncio.run(_up(_stack(directory, settings, brokers)))


@dev.command("down")
@directory_option
def down(directory: Path) -> None:
    """Stop everything that `up` started."""
    state = running_stack(directory)
    if state is None:
        click.echo(f"nothing runs in {directory}")
        return
    supervisor = psutil.Process(state.pid)
    supervisor.send_signal(signal.SIGTERM)
    try:
        supervisor.wait(DOWN_LIMIT_S)
    except psutil.TimeoutExpired:
        raise Misconfigured(
            f"the supervisor (pid {state.pid}) does not stop; see the logs in {directory}"
        ) from None
    click.echo("down")


@dev.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print facts as JSON.")
@directory_option
@click.pass_obj
def status(settings: Settings, as_json: bool, directory: Path) -> None:
    """Show each process with its health, lag and URL. Exit 1 when anything is not ok."""
    state = running_stack(directory)
    if state is None:
        raise Misconfigured(f"nothing runs in {directory}; 'skustream dev up' starts it")
    rows = asyncio.run(status_of(settings, state))
    if as_json:
        click.echo(msgspec.json.encode(rows))
    else:
        _show(rows)
    sys.exit(any(row.health != "ok" for row in rows))


def _show(rows: list[Row]) -> None:
    click.echo(f"{'process':12} {'pid':>8} {'restarts':>8} {'lag':>8}  {'url':26} health")
    for row in rows:
        lag = "-" if row.lag is None else str(row.lag)
        pid = "-" if row.pid is None else str(row.pid)
        click.echo(f"{row.name:12} {pid:>8} {row.restarts:>8} {lag:>8}  {row.url:26} {row.health}")
        for what, lanes in (("lanes", row.lanes), ("standby of", row.standby_lag)):
            if lanes:
                behind = ", ".join(f"{lane} ({behind} behind)" for lane, behind in sorted(lanes.items()))
                click.echo(f"{'':12} {what} {behind}")


def work_directory(name: str) -> Path:
    """An empty directory for a run, replacing that of the last one."""
    directory = Path(".skustream") / name
    if running_stack(directory) is not None:
        raise Misconfigured(f"another {name} runs in {directory} (pid in {state_file(directory)})")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


@click.command("demo")
@click.option("--seconds", type=click.FloatRange(4, 3600), default=60.0, show_default=True)
@click.option(
    "--faults",
    type=click.Choice(tuple(WEATHERS)),
    default="light",
    show_default=True,
    help="How much goes wrong; 'heavy': lost webhooks, time-outs, hand edits, more kills.",
)
@click.option("--seed", type=int, default=7, show_default=True, help="Of the traffic and the faults.")
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON, and progress to stderr.")
@click.pass_obj
def demo(settings: Settings, seconds: float, faults: str, seed: int, as_json: bool) -> None:
    """Sell the same units in two shops for a minute, with faults and a SIGKILL, and check that all adds up.

    Exit 1 when anything does not.
    """
    weather = WEATHERS[faults]
    stack = Stack(
        work_directory("demo"),
        settings.model_copy(update=weather.settings),
        environment={f"SKUSTREAM_{name.upper()}": f"{value:g}" for name, value in weather.settings.items()},
        external=external_bootstrap(),
        hand_edits=weather.hand_edits,
    )
    begin = time.monotonic()

    def tell(line: str) -> None:
        click.echo(f"{time.monotonic() - begin:6.1f} s  {line}", err=as_json)

    facts = run_to_end(run_demo(stack, weather, seed, seconds, tell))
    if as_json:
        click.echo(msgspec.json.encode(facts))
    else:
        _show_facts(facts)
    sys.exit(not facts.add_up)


@click.command("chaos")
@click.option("--seconds", type=click.FloatRange(10, 24 * 3600), default=60.0, show_default=True)
@click.option("--seed", type=int, help="Of a run to repeat; made here by default.")
@brokers_option
@click.option("--standbys", type=click.IntRange(0, 1), default=0, show_default=True, help="Of each lane.")
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON, and progress to stderr.")
@click.pass_obj
def chaos(
    settings: Settings, seconds: float, seed: int | None, brokers: int, standbys: int, as_json: bool
) -> None:
    """Kill, pause and cut off the services while events come in, and check that each counts exactly once.

    Brokers are killed too (with three: two at once), and, where this user may mount one, a small disk filled.

    Exit 1 when any event is lost or doubled, or a level or a store is not exactly what it should be.
    """
    begin = time.monotonic()

    def tell(line: str) -> None:
        click.echo(f"{time.monotonic() - begin:6.1f} s  {line}", err=as_json)

    chosen = random.randrange(1 << 32) if seed is None else seed
    directory = work_directory("chaos")
    stack = chaos_stack(directory, settings, external_bootstrap(), brokers=brokers, standbys=standbys)
    facts = run_to_end(run_chaos(stack, seconds, chosen, tell))
    if as_json:
        click.echo(msgspec.json.encode(facts))
    else:
        _show_facts(facts)
    sys.exit(not facts.add_up)


def run_to_end(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; SIGTERM and Ctrl-C stop all processes of the run first."""

    async def cancellable() -> T:
        task = asyncio.ensure_future(work)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await task

    try:
        return asyncio.run(cancellable())
    except asyncio.CancelledError:
        raise Ended("stopped by a signal before it was done") from None


def _show_facts(facts: Facts | ChaosFacts) -> None:
    click.echo("")
    values = msgspec.structs.asdict(facts)
    problems = values.pop("problems", [])
    for name, value in values.items():
        click.echo(f"  {name.replace('_', ' '):26} {value!s:>10}")
    for problem in problems:
        click.echo(f"  {problem}")
    click.echo("\neverything adds up" if facts.add_up else "\nNOT everything adds up")
