"""Commit on the source to commit on the target, under an open load of a fixed rate, beside native replication.

Transactions start by a clock (`benchmarks.ticks`), whether earlier ones have ended or not. The source's own
commit timestamps say when a transaction committed; on the target a deferred trigger writes the time at
which the commit begins, for both contestants alike. "From schedule" counts from the moment at which the
transaction should have begun on the source, so a stalled source hides nothing (coordinated omission).
Target commits are asynchronous, native's default, or durable with `--durable`. "Row by row" is the same pipeline with
the baseline's way of applying: one prepared statement a row, one commit a transaction, pipelined.
"""

from __future__ import annotations

import argparse
import datetime
import time
from collections.abc import Iterator, Sequence
from statistics import mean, median, pvariance

from benchmarks import chart
from benchmarks.baseline import RowwisePipeline
from benchmarks.contestants import Backlog, Headrace, Native
from benchmarks.servers import Servers, servers, wait_for
from benchmarks.store import Run, Sample, samples, spread, values
from benchmarks.ticks import TICKS, tick

TITLE = "Latency"
WHO = ("native", "row by row", "Headrace")
DURABLE = ", durable"
WARM_S, WARM_TPS = 20, 500  # the broker compiles meanwhile, as one does that has served for a while
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}
_NOTE = (
    "CREATE TABLE bench_seen (id bigint, at timestamptz)",
    (
        "CREATE FUNCTION bench_note() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO public.bench_seen VALUES (NEW.id, clock_timestamp()); RETURN NULL; END $$"
    ),
    (
        "CREATE CONSTRAINT TRIGGER bench_note AFTER INSERT ON pgbench_ticks DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION bench_note()"
    ),
    "ALTER TABLE pgbench_ticks ENABLE ALWAYS TRIGGER bench_note",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--rates", default="100,500,2000", help="transactions a second, separated by commas")
    parser.add_argument("--seconds", type=int, default=20, help="of load at each rate")
    parser.add_argument("--lanes", type=int, default=1, help="apply lanes of Headrace")
    parser.add_argument("--durable", action="store_true", help="flush each commit of the target")


def run(given: argparse.Namespace) -> Iterator[Sample]:
    """Yield a sample a contestant, rate and repetition."""
    with servers(source_settings={"track_commit_timestamp": "on"}, quick_start=False) as bench:
        bench.sql(bench.target, "CREATE DATABASE bench_empty")
        TICKS.initialise(bench, bench.target, "bench_empty")
        for statement in _NOTE:
            bench.sql(bench.target, statement, "bench_empty")
        for seed in range(given.first_seed, given.first_seed + given.repetitions):
            yield from _repetition(bench, given, seed)


def _repetition(bench: Servers, given: argparse.Namespace, seed: int) -> Iterator[Sample]:
    rates = [int(rate) for rate in given.rates.split(",")]
    for who in WHO:
        TICKS.initialise(bench, bench.source, "postgres")
        contestant = _contestant(bench, who, seed, given)
        contestant.start()
        tick(bench, WARM_TPS, WARM_S, seed)
        _wait_until_equal(bench, contestant)
        for rate in rates:
            yield Sample(
                f"{who}{DURABLE if given.durable else ''}, {rate} TPS",
                seed,
                _measure(bench, contestant, rate, given.seconds, seed),
            )
        contestant.stop()
        contestant.check()
        contestant.drop()


def _contestant(bench: Servers, who: str, seed: int, given: argparse.Namespace) -> Native | Headrace:
    commit = "on" if given.durable else "off"
    if who == "native":
        return Native(bench, TICKS, f"native{seed}", commit, Backlog())
    if who == "row by row":
        return RowwisePipeline(bench, TICKS, f"row{seed}", commit, Backlog())
    return Headrace(bench, TICKS, f"hr{seed}", commit, Backlog(), lanes=given.lanes)


def _wait_until_equal(bench: Servers, contestant: Native | Headrace) -> None:
    query = "SELECT coalesce(max(id), 0), count(*) FROM pgbench_ticks"
    wanted = bench.sql(bench.source, query)
    wait_for("the last tick", lambda: bench.sql(bench.target, query, contestant.name) == wanted)


def _measure(bench: Servers, contestant: Native | Headrace, rate: int, seconds: int, seed: int) -> dict[str, float]:
    first = int(str(bench.sql(bench.source, "SELECT coalesce(max(id), 0) FROM pgbench_ticks")[0][0]))
    cpu = contestant.cpu_seconds()
    started_s = time.monotonic()
    tick(bench, rate, seconds, seed)
    lasted_s = time.monotonic() - started_s
    busy = {who: (after - cpu.get(who, 0.0)) / lasted_s for who, after in contestant.cpu_seconds().items()}
    _wait_until_equal(bench, contestant)
    notes = bench.sql(bench.target, f"SELECT id, at FROM bench_seen WHERE id > {first}", contestant.name)
    seen = {row[0]: row[1] for row in notes}
    rows = bench.sql(
        bench.source,
        f"SELECT id, due, pg_xact_commit_timestamp(xmin) FROM pgbench_ticks WHERE id > {first} ORDER BY id",
    )
    commit = [_ms(seen[number]) - _ms(committed) for number, _, committed in rows]
    schedule = [_ms(seen[number]) - _ms(due) for number, due, _ in rows]
    return {
        "tps": len(rows) / lasted_s, **_figures("", commit), **_figures("schedule ", schedule),
        **{f"cores {who}": share for who, share in busy.items()},
    }  # fmt: skip


def _ms(at: object) -> float:
    if not isinstance(at, datetime.datetime):
        raise TypeError(f"{at!r} is no timestamp")
    return at.timestamp() * 1000


def _figures(prefix: str, found_ms: list[float]) -> dict[str, float]:
    ordered = sorted(found_ms)
    quantiles = {name: ordered[min(len(ordered) - 1, int(q * len(ordered)))] for name, q in QUANTILES.items()}
    moments = {"mean": mean(ordered), "variance": pvariance(ordered), "max": ordered[-1]}
    return {f"{prefix}{name} ms": value for name, value in {**quantiles, **moments}.items()}


# -- the section of RESULTS.md ---------------------------------------------------------------------


def section(runs: Sequence[Run]) -> str:
    """The section's text."""
    found = samples(runs)
    seconds = sorted({str(run.options["seconds"]) for run in runs})
    lines = [
        (f"Milliseconds; median over the repetitions, with the range for p99. {' or '.join(seconds)} s of load at each "
        "rate; the contestants one after the other. `make bench-latency`"), "",
        "| rate | contestant | p50 | p95 | p99 (range) | p99.9 | mean | variance | p99 from schedule |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for rate in rates_of(found):
        for who in (*WHO, *(f"{who}{DURABLE}" for who in WHO)):
            case = f"{who}, {rate} TPS"
            if not values(found, case, "p50 ms"):
                continue
            p99 = spread(values(found, case, "p99 ms"), ".2f")
            mid = {name: median(values(found, case, f"{name} ms")) for name in (*QUANTILES, "mean", "variance")}
            lines.append(
                f"| {rate} | {who} | {mid['p50']:.2f} | {mid['p95']:.2f} | {p99} "
                f"| {mid['p99.9']:.2f} | {mid['mean']:.2f} | {mid['variance']:.2f} "
                f"| {spread(values(found, case, 'schedule p99 ms'), '.2f')} |"
            )
    lines += ["", "Cores that each process kept busy, median:", ""]
    for rate in rates_of([sample for sample in found if DURABLE not in sample.case]):
        case = f"Headrace, {rate} TPS"
        metrics = dict.fromkeys(name for sample in found if sample.case == case for name in sample.metrics)
        cores = {name.removeprefix("cores "): median(values(found, case, name)) for name in metrics if "cores" in name}
        lines.append(f"- Headrace at {rate} TPS: {', '.join(f'{who} {share:.2f}' for who, share in cores.items())}")
    return "\n".join(lines)


def rates_of(found: Sequence[Sample]) -> list[int]:
    """The rates of the samples, ascending."""
    return sorted({int(sample.case.split(", ")[-1].split()[0]) for sample in found})


def charts(runs: Sequence[Run]) -> list[str]:
    """Write the section's chart; return its name."""
    found = [sample for sample in samples(runs) if DURABLE not in sample.case]
    rates = rates_of(found)
    series: dict[str, list[float | None]] = {}
    for who in WHO:
        for quantile in ("p50", "p99"):
            numbers = [values(found, f"{who}, {rate} TPS", f"{quantile} ms") for rate in rates]
            series[f"{who} {quantile}"] = [round(median(each), 2) if each else None for each in numbers]
    chart.bars("latency", "Commit to commit, milliseconds", [f"{rate} TPS" for rate in rates], series)
    return ["latency"]
