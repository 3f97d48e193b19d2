"""Apply from a filled changes topic: Headrace beside one statement a row and one commit a transaction.

The capture runs first and ends, so that only the target side is timed, from the first to the last applied
transaction. With `--lanes-only`: Headrace with 1..16 lanes and a target behind a network of 2 ms round trip,
few source transactions a commit (merging more would hide the delay, and with it the lanes). Windows hold as many
commits as there are lanes, so that commits are of one size however many lanes there are.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from statistics import median

import psycopg
from psycopg.conninfo import make_conninfo

from benchmarks import chart, rowwise
from benchmarks.contestants import Backlog, Contestant, Headrace
from benchmarks.drain import SYNC_TITLES, fill, prepare_template
from benchmarks.loads import LOADS, Load
from benchmarks.servers import Roles, Servers, servers, wait_for
from benchmarks.store import Run, Sample, ratios, samples, spread, values
from connectors.postgres.replication import lsn_text

TITLE = "Apply against one statement a row"
LANES = (1, 2, 4, 8, 16)
DELAY_MS = 1.0  # each way
LANES_ARGUMENTS = "--lanes-only --load accounts --transactions 60000 --bound 20"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--load", default="tpcb", choices=LOADS)
    parser.add_argument("--transactions", type=int, default=50_000)
    parser.add_argument("--lanes-only", action="store_true", help="compare lane counts, target 2 ms away")
    parser.add_argument("--lanes", default=",".join(map(str, LANES)), help="the lane counts, the first one the base")
    parser.add_argument("--bound", type=int, default=20, help="transactions a commit, where lanes are compared")


def run(given: argparse.Namespace) -> Iterator[Sample]:
    """Yield a sample a contestant and repetition."""
    load = LOADS[given.load]
    with servers() as bench:
        prepare_template(bench, load)
        for seed in range(given.first_seed, given.first_seed + given.repetitions):
            if given.lanes_only:
                load.initialise(bench, bench.source, "postgres")
                yield from _lanes(bench, load, given, seed)
            else:
                for sync in SYNC_TITLES:
                    load.initialise(bench, bench.source, "postgres")  # the targets of a pair begin empty
                    yield from _pair(bench, load, given.transactions, seed, sync)


def _pair(bench: Servers, load: Load, transactions: int, seed: int, sync: str) -> Iterator[Sample]:
    backlog = Backlog()
    ours = Headrace(bench, load, f"hr{seed}_{sync}", sync, backlog)
    fill(bench, load, backlog, transactions, seed)
    _capture(bench, ours)
    rowwise = Rowwise(bench, load, f"row{seed}_{sync}", sync, backlog, f"bench_{ours.name}.changes")
    yield Sample(f"row by row, {SYNC_TITLES[sync]}", seed, rowwise.drain())
    yield Sample(f"Headrace, {SYNC_TITLES[sync]}", seed, _apply(ours))


def _lanes(bench: Servers, load: Load, given: argparse.Namespace, seed: int) -> Iterator[Sample]:
    command = [sys.executable, "-m", "benchmarks.proxy", str(bench.target.port), str(DELAY_MS)]
    proxy = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        port = proxy.stdout.readline().strip() if proxy.stdout is not None else ""
        backlog = Backlog()
        contestants = []
        counts = [int(lanes) for lanes in given.lanes.split(",")]
        for lanes in counts:
            name = f"hr{seed}_{lanes}"
            dsn = make_conninfo(bench.target.dsn(name), port=port)
            contestants.append(Headrace(
                bench, load, name, "off", backlog, lanes=lanes, merge=given.bound, window=given.bound * lanes,
                target_dsn=dsn,
            ))  # fmt: skip
        fill(bench, load, backlog, given.transactions, seed)
        for lanes, contestant in zip(counts, contestants, strict=True):
            _capture(bench, contestant)
            yield Sample(f"{lanes} lanes", seed, _apply(contestant))
    finally:
        proxy.kill()
        proxy.wait()


def _capture(bench: Servers, ours: Headrace) -> None:
    """Fill the changes topic with the whole backlog."""
    ours.roles.start("capture")
    end = lsn_text(ours.backlog.end)
    done = (
        f"SELECT FROM pg_replication_slots WHERE slot_name = 'headrace_{ours.name}' AND confirmed_flush_lsn > '{end}'"
    )
    wait_for("the capture", lambda: bool(bench.sql(bench.source, done)), ours.roles)
    ours.roles.stop()


def _apply(ours: Headrace) -> dict[str, float]:
    """Time the target side; the clock starts with the first applied transaction."""
    ours.start_target_side(assigned_s=0)
    drained = ours.time()
    ours.stop()
    ours.check()
    ours.drop()
    return drained.metrics()


_BACKEND = "SELECT pid FROM pg_stat_activity WHERE application_name = 'bench rowwise'"


class Rowwise(Contestant):
    """`benchmarks.rowwise` on another target."""

    def __init__(self, bench: Servers, load: Load, name: str, sync: str, backlog: Backlog, topic: str) -> None:
        super().__init__(bench, load, name, sync, backlog)
        self._topic = topic
        self._worker = bench.roles(bench.directory / f"{name}.toml")

    def drain(self) -> dict[str, float]:
        """Apply the topic, verify, stop."""
        _launch_rowwise(self._worker, self, self._topic)
        drained = self._time(self._applied, self._worker)
        self._worker.stop()
        self.check()
        self.bench.sql(self.bench.target, f"DROP DATABASE {self.name} WITH (FORCE)")
        return drained.metrics()

    def _applied(self) -> int:
        try:
            return int(
                str(self.bench.sql(self.bench.target, "SELECT transactions FROM bench_progress", self.name)[0][0])
            )
        except (psycopg.errors.UndefinedTable, IndexError):
            return 0

    def backends(self) -> dict[str, list[int]]:
        """Process ids by role."""
        pids = [process.pid for process in self._worker.processes.values()]
        return {"apply": pids, "target": self._pids(_BACKEND, on_source=False)}


class RowwisePipeline(Headrace):
    """Headrace's capture, and `benchmarks.rowwise` in place of planner and lanes."""

    def start(self) -> None:
        """Start both; the changes topic is there once the capture has run."""
        self.roles.start("capture")
        _launch_rowwise(self.roles, self, f"bench_{self.name}.changes")

    def backends(self) -> dict[str, list[int]]:
        """Process ids by role, the capture's left out."""
        return {"apply": [self.roles.processes["rowwise"].pid], "target": self._pids(_BACKEND, on_source=False)}


def _launch_rowwise(roles: Roles, contestant: Contestant, topic: str) -> None:
    """Start what applies `topic` to the contestant's target."""
    bench = contestant.bench
    command = [sys.executable, "-m", "benchmarks.rowwise", bench.kafka.bootstrap_servers, topic, contestant.sync]
    roles.launch("rowwise", command, {rowwise.ENV_DSN: bench.target.dsn(contestant.name)})


# -- the section of RESULTS.md ---------------------------------------------------------------------


def section(runs: Sequence[Run]) -> str:
    """The section's text."""
    lines: list[str] = []
    for load in dict.fromkeys(str(run.options["load"]) for run in runs if not run.options["lanes_only"]):
        pairs = [run for run in runs if run.options["load"] == load and not run.options["lanes_only"]]
        found = samples(pairs)
        lines += [
            f"### {LOADS[load].title}, from a filled topic", "", "`make bench-baseline`", "",
            "| contestant | TPS, median (range) | ratio, median (range) |", "|---|---|---|",
        ]  # fmt: skip
        for sync in SYNC_TITLES.values():
            base = f"row by row, {sync}"
            lines.append(f"| {base} | {spread(values(found, base, 'tps'))} | 1 |")
            ratio = spread(ratios(found, f"Headrace, {sync}", base, "tps"), ".2f")
            lines.append(f"| Headrace, {sync} | {spread(values(found, f'Headrace, {sync}', 'tps'))} | {ratio} |")
        lines.append("")
    for run in runs:
        if run.options["lanes_only"]:
            lines += _lanes_table(run)
    return "\n".join(lines)


def _lanes_table(run: Run) -> list[str]:
    found, bound = run.samples, run.options["bound"]
    lines = [
        f"### Lanes, target 2 ms away, at most {bound} transactions a commit", "",
        f"{run.options['transactions']:,} transactions. `make bench-baseline ARGS='{LANES_ARGUMENTS}'`", "",
        "| lanes | TPS, median (range) | ratio to the first | CPU µs a transaction: plan, apply, broker, target |",
        "|---|---|---|---|",
    ]  # fmt: skip
    for case in dict.fromkeys(sample.case for sample in found):
        lanes = case.removesuffix(" lanes")
        ratio = spread(ratios(found, case, found[0].case, "tps"), ".2f")
        costs = [median(values(found, case, f"cpu_us {who}")) for who in ("plan", "apply", "broker", "target")]
        cpu = ", ".join(f"{us:.1f}" for us in costs)
        lines.append(f"| {lanes} | {spread(values(found, case, 'tps'))} | {ratio} | {cpu} |")
    return [*lines, ""]


def charts(runs: Sequence[Run]) -> list[str]:
    """Write the section's chart; return its name."""
    found = [run.samples for run in runs if run.options["lanes_only"]]
    if not found:
        return []
    cases = list(dict.fromkeys(sample.case for sample in found[-1]))
    series = {"TPS": [round(median(values(found[-1], case, "tps"))) for case in cases]}
    names = [case.removesuffix(" lanes") for case in cases]
    chart.bars("lanes", "Lanes, target 2 ms away, transactions a second", names, series)
    return ["lanes"]
