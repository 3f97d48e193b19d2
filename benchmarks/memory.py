"""Resident memory of every role while one transaction of many rows passes among small ones, and under a steady load.

Sampled five times a second from /proc (anonymous and file pages, without shared ones).
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Iterator, Sequence

from benchmarks import chart
from benchmarks.contestants import Backlog, Headrace
from benchmarks.drain import fill, prepare_template
from benchmarks.loads import LOADS
from benchmarks.machine import resident_mib
from benchmarks.servers import Servers, servers, wait_for
from benchmarks.store import Run, Sample, samples, spread, values
from connectors.postgres.replication import parse_lsn

TITLE = "Memory"
SAMPLE_S = 0.2
SMALL = 5_000  # transactions before and after the large one
ROLES = ("capture", "plan", "apply")
STEADY = "steady, part"
PARTS_OF_A_TREND = 10
HALF_AN_HOUR = "--rows 0 --steady-seconds 1800 --part-seconds 60 --rate 50 --repetitions 1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--rows", type=int, default=1_000_000, help="changed by the large transaction; 0: without it")
    parser.add_argument("--steady-seconds", type=int, default=120, help="of steady load afterwards")
    parser.add_argument("--part-seconds", type=int, default=30, help="of steady load whose mean is one row")
    parser.add_argument("--rate", type=int, default=500, help="transactions a second of the steady load")


def run(given: argparse.Namespace) -> Iterator[Sample]:
    """Yield the peaks of the large transaction, and the course of the steady load."""
    load = LOADS["tpcb"]
    with servers() as bench:
        prepare_template(bench, load)
        for seed in range(given.first_seed, given.first_seed + given.repetitions):
            load.initialise(bench, bench.source, "postgres")
            ours = Headrace(bench, load, f"hr{seed}", "off", Backlog())
            ours.start()
            peaks = _Watch(ours)
            if given.rows:
                yield Sample(
                    f"{given.rows:,} rows in one transaction", seed, _large(bench, ours, peaks, given.rows, seed)
                )
            yield from _steady(bench, ours, peaks, given, seed)
            peaks.stop()
            ours.stop()
            ours.check()
            ours.drop()


class _Watch:
    """A thread that samples; `seen` holds each role's values since the last `clear`."""

    def __init__(self, ours: Headrace) -> None:
        self._pids = {role: process.pid for role, process in ours.roles.processes.items()}
        self._ended = threading.Event()
        self.clear()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def clear(self) -> None:
        self.seen: dict[str, list[float]] = {role: [] for role in self._pids}

    def _run(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            for role, pid in self._pids.items():
                self.seen[role].append(resident_mib(pid))

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()


def _large(bench: Servers, ours: Headrace, watch: _Watch, rows: int, seed: int) -> dict[str, float]:
    fill(bench, ours.load, ours.backlog, SMALL, seed)
    before = ours.backlog.transactions
    bench.sql(bench.source, f"UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid <= {rows}")
    fill(bench, ours.load, ours.backlog, SMALL, seed + 1)
    ours.backlog.transactions += before + 1
    ours.wait()
    return {f"peak MiB {role}": max(found) for role, found in watch.seen.items()}


def _steady(bench: Servers, ours: Headrace, watch: _Watch, given: argparse.Namespace, seed: int) -> Iterator[Sample]:
    done = threading.Thread(
        target=bench.pgbench,
        args=(
            bench.source,
            "-n",
            "-c",
            "4",
            "-T",
            str(given.steady_seconds),
            "-R",
            str(given.rate),
            "--random-seed",
            str(seed),
        ),
    )
    done.start()
    began_s, minute = time.monotonic(), 0
    while done.is_alive():
        watch.clear()
        done.join(given.part_seconds)
        minute += 1
        at_s = round(time.monotonic() - began_s)
        if all(watch.seen.values()):
            means = {f"MiB {role}": sum(found) / len(found) for role, found in watch.seen.items()}
            yield Sample(f"{STEADY} {minute}", seed, {"end s": float(at_s), **means})
    end = parse_lsn(str(bench.sql(bench.source, "SELECT pg_current_wal_insert_lsn()")[0][0]))
    count = "SELECT count(*) FROM pgbench_history"
    wanted = bench.sql(bench.source, count)
    wait_for(f"LSN {end}", lambda: bench.sql(bench.target, count, ours.name) == wanted, ours.roles)


# -- the section of RESULTS.md ---------------------------------------------------------------------


def section(runs: Sequence[Run]) -> str:
    """The section's text."""
    found = samples(runs, lambda options: bool(options["rows"]))
    lines = ["Resident MiB. `make bench-memory`", "", "| | capture | plan | apply |", "|---|---|---|---|"]
    for case in dict.fromkeys(sample.case for sample in found if not sample.case.startswith(STEADY)):
        cells = [spread(values(found, case, f"peak MiB {role}"), ".0f") for role in ROLES]
        lines.append(f"| peak: {case} | {' | '.join(cells)} |")
    for run in runs:
        lines += _steady_lines(run)
    lines += ["", f"For half an hour: `make bench-memory ARGS='{HALF_AN_HOUR}'`"]
    return "\n".join(lines)


def _steady_lines(run: Run) -> list[str]:
    parts = steady_parts(run)
    if not parts:
        return []
    title = f"{run.options['rate']} transactions/s"
    lines = []
    for text, part in ((f"{title}, first part measured", parts[0]), (f"{title}, last part", parts[-1])):
        cells = [f"{part.metrics[f'MiB {role}']:.1f}" for role in ROLES]
        lines.append(f"| {text}: mean up to second {part.metrics['end s']:,.0f} | {' | '.join(cells)} |")
    if len(parts) >= PARTS_OF_A_TREND:
        cells = [f"{growth(parts, role):+.2f}" for role in ROLES]
        lines.append(f"| growth over its second half, MiB | {' | '.join(cells)} |")
    return lines


def steady_parts(run: Run) -> list[Sample]:
    """The parts of the first steady load of a run, in order."""
    return [sample for sample in run.samples if sample.case.startswith(STEADY) and sample.seed == run.samples[0].seed]


def growth(parts: Sequence[Sample], role: str) -> float:
    """MiB from the middle of the steady load to its end."""
    return parts[-1].metrics[f"MiB {role}"] - parts[len(parts) // 2].metrics[f"MiB {role}"]


def charts(runs: Sequence[Run]) -> list[str]:
    """Draw the longest steady load; return the chart's name."""
    parts = max(map(steady_parts, runs), key=len, default=[])
    labels = [f"{sample.metrics['end s']:.0f} s" for sample in parts]
    series = {role: [round(sample.metrics[f"MiB {role}"]) for sample in parts] for role in ROLES}
    chart.lines("memory", "Resident MiB under a steady load", labels, series)
    return ["memory"]
