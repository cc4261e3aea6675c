"""The command ``skustream bench``."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.progress import Progress, TaskID

from app.dev.commands import run_to_end
from benchmarks import adjuster as adjuster_bench
from benchmarks import engine as engine_bench
from benchmarks import failover as failover_bench
from benchmarks import latency as latency_bench
from benchmarks import receiver as receiver_bench
from benchmarks import reconcile as reconcile_bench
from benchmarks import restore as restore_bench
from benchmarks import writer as writer_bench
from benchmarks.load import PARTITIONS

Facts = dict[str, float]

as_json = click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
keep = click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep data and logs there; a temporary directory by default.",
)


@click.group("bench")
def bench() -> None:
    """Measurements, each with its baseline in the same run, on a local broker of their own."""


@bench.command("engine")
@click.option("--events", type=click.IntRange(100_000), default=4_000_000, show_default=True)
@click.option("--only", multiple=True, help="Only this system, e.g. engine or kafka_streams; repeatable.")
@keep
@as_json
def engine(events: int, only: tuple[str, ...], directory: Path | None, as_json: bool) -> None:
    """The toy work by this engine (two processes, one), Kafka Streams, plain Faust and a bare loop."""
    _measured(
        directory, as_json, lambda place, bars: engine_bench.measure(place, events, only, bars.say, bars.bar)
    )


@bench.command("adjuster")
@click.option("--events", type=click.IntRange(50_000), default=1_000_000, show_default=True)
@click.option("--keys", type=click.IntRange(1), default=adjuster_bench.KEYS, show_default=True)
@keep
@as_json
def adjuster(events: int, keys: int, directory: Path | None, as_json: bool) -> None:
    """The stock service with its real rules, ids, ledger and targets, beside the engine's toy work."""
    _measured(directory, as_json, lambda place, bars: adjuster_bench.measure(place, events, keys, bars.bar))


@bench.command("growth")
@click.option("--events", type=click.IntRange(50_000), default=500_000, show_default=True)
@click.option(
    "--keys",
    type=click.IntRange(1),
    multiple=True,
    default=adjuster_bench.SIZES,
    show_default=True,
    help="How many keys there are; repeatable.",
)
@keep
@as_json
def growth(events: int, keys: tuple[int, ...], directory: Path | None, as_json: bool) -> None:
    """The stock service's speed and memory by the number of keys it holds."""
    _measured(directory, as_json, lambda place, bars: adjuster_bench.grow(place, events, keys, bars.bar))


@bench.command("restore")
@click.option("--records", type=click.IntRange(50_000), default=2_000_000, show_default=True)
@keep
@as_json
def restore(records: int, directory: Path | None, as_json: bool) -> None:
    """Fill an empty store from its changelog: the engine's toy, then the stock service with half as many."""
    _measured(directory, as_json, lambda place, bars: restore_bench.measure(place, records, bars.bar))


@bench.command("receiver")
@click.option("--requests", type=click.IntRange(2_000, 1_000_000), default=60_000, show_default=True)
@keep
@as_json
def receiver(requests: int, directory: Path | None, as_json: bool) -> None:
    """Signed webhooks, each acknowledged by Kafka, beside an aiohttp handler that only answers."""
    _measured(directory, as_json, lambda place, bars: receiver_bench.measure(place, requests, bars.bar))


@bench.command("latency")
@click.option("--rate", type=click.IntRange(1, 5_000), default=500, show_default=True, help="Orders/s.")
@click.option("--seconds", type=click.FloatRange(1, 600), default=30.0, show_default=True)
@click.option(
    "--warm",
    type=click.FloatRange(1, 600),
    default=60.0,
    show_default=True,
    help="Seconds of the same load before: a new broker's compiler takes a third of its CPU for so long.",
)
@click.option("--partitions", type=click.IntRange(1, 64), default=PARTITIONS, show_default=True)
@keep
@as_json
def latency(
    rate: int, seconds: float, warm: float, partitions: int, directory: Path | None, as_json: bool
) -> None:
    """From the receiver's 200 to the ledger and to the other shop's stock, at a steady rate of orders."""
    sent = latency_bench.Load(rate, seconds, warm)
    _measured(
        directory, as_json, lambda place, bars: latency_bench.measure(place, sent, partitions, bars.bar)
    )


@bench.command("reconcile")
@click.option("--listings", type=click.IntRange(1_000), default=100_000, show_default=True)
@click.option("--each", type=click.IntRange(2, 100), default=50, show_default=True, help="Planted, by class.")
@keep
@as_json
def reconcile(listings: int, each: int, directory: Path | None, as_json: bool) -> None:
    """Compare every listing of a large shop that has planted differences of each class; all must be found."""
    _measured(
        directory, as_json, lambda place, bars: reconcile_bench.measure(place, listings, each, bars.bar)
    )


@bench.command("writer")
@click.option("--listings", type=click.IntRange(1_000), default=50_000, show_default=True)
@keep
@as_json
def writer(listings: int, directory: Path | None, as_json: bool) -> None:
    """A backlog of listings in a simulated shop of 1 000 points a second: how much of the bucket is used,
    and how soon listings that reach or leave zero are written meanwhile."""
    _measured(directory, as_json, lambda place, bars: writer_bench.measure(place, listings, bars.bar))


@bench.command("failover")
@click.option("--records", type=click.IntRange(1_000), default=1_000_000, show_default=True)
@keep
@as_json
def failover(records: int, directory: Path | None, as_json: bool) -> None:
    """How long the keys of a killed or stopped worker stand still, with and without a standby."""
    _measured(directory, as_json, lambda place, bars: failover_bench.measure(place, records, bars.bar))


def _measured(
    directory: Path | None, as_json: bool, measure: Callable[[Path, _Bars], Coroutine[Any, Any, Facts]]
) -> None:
    """Run a measurement in its directory, with its bars, and print its facts."""
    with _Place(directory) as place, _Bars() as bars:
        facts = run_to_end(measure(place, bars))
    _show(facts, as_json)


class _Place:
    """The directory of a measurement."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Path:
        if self._directory is not None:
            self._directory.mkdir(parents=True, exist_ok=True)
            return self._directory.absolute()
        self._temporary = tempfile.TemporaryDirectory(prefix="skustream-bench-")
        return Path(self._temporary.name)

    def __exit__(self, *error: object) -> None:
        if self._temporary is not None:
            self._temporary.cleanup()


class _Bars:
    """Progress bars on standard error."""

    def __init__(self) -> None:
        self._progress = Progress(console=Console(stderr=True), transient=True)

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(line)

    def bar(self, name: str, total: int) -> Callable[[int], None]:
        """A new bar; the returned function moves it."""
        task: TaskID = self._progress.add_task(name, total=total)
        return lambda steps: self._progress.advance(task, steps)


def _show(facts: Facts, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(facts))
        return
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        click.echo(f"{name:{width}} {value:>14,}")
