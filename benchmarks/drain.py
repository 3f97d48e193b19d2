"""A backlog from source WAL to committed target, beside native logical replication.

Both read the same backlog from the same source into databases of one target server, one after the other,
with asynchronous and with durable target commits. Start-up is left out: the clock runs from the first to
the last applied transaction. Afterwards each target is compared with the source, row by row.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from statistics import median

from benchmarks import chart
from benchmarks.contestants import MERGE, Backlog, Headrace, Native
from benchmarks.debezium import Debezium
from benchmarks.loads import LOADS, Load
from benchmarks.servers import Servers, servers
from benchmarks.store import Option, Run, Sample, ratios, samples, spread, values
from connectors.postgres.replication import parse_lsn

TITLE = "Drain of a backlog"
CLIENTS = 4
COMMIT_DELAY_US = 1000
SYNC_TITLES = {"off": "asynchronous", "on": "durable"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--load", default="tpcb", choices=LOADS)
    parser.add_argument("--transactions", type=int, default=100_000, help="in the backlog")
    parser.add_argument("--lanes", type=int, default=1, help="apply lanes of Headrace")
    parser.add_argument("--merge", type=int, default=MERGE, help="merge_transactions_max of Headrace")
    parser.add_argument("--sync", default="both", choices=("off", "on", "both"), help="target commits")
    parser.add_argument(
        "--slow-fsync", action="store_true", help=f"each flush of the target waits {COMMIT_DELAY_US} µs more"
    )
    parser.add_argument(
        "--debezium", action="store_true", help="with Debezium and its JDBC sink as a third contestant (TPC-B loads)"
    )


def run(given: argparse.Namespace) -> Iterator[Sample]:
    """Yield a sample a contestant and repetition."""
    load = LOADS[given.load]
    if given.debezium and not load.keyed[0].startswith("pgbench"):
        raise SystemExit(f"--debezium: its progress is seen in pgbench's tables; --load {load.name} has others")
    settings = {"commit_delay": str(COMMIT_DELAY_US), "commit_siblings": "0"} if given.slow_fsync else {}
    with servers(target_settings=settings) as bench:
        prepare_template(bench, load)
        for seed in range(given.first_seed, given.first_seed + given.repetitions):
            yield from repetition(bench, load, given, seed)


def prepare_template(bench: Servers, load: Load) -> None:
    """Make the database that every target is copied from."""
    bench.sql(bench.target, "CREATE DATABASE bench_empty")
    load.initialise(bench, bench.target, "bench_empty")
    bench.sql(bench.target, "CHECKPOINT")


def repetition(bench: Servers, load: Load, given: argparse.Namespace, seed: int) -> Iterator[Sample]:
    """One backlog, drained by every contestant in turn."""
    load.initialise(bench, bench.source, "postgres")
    backlog = Backlog()
    contestants: list[Headrace | Native | Debezium] = []
    for sync in ("off", "on") if given.sync == "both" else (given.sync,):
        contestants.append(Native(bench, load, f"native{seed}_{sync}", sync, backlog))
        contestants.append(
            Headrace(bench, load, f"hr{seed}_{sync}", sync, backlog, lanes=given.lanes, merge=given.merge)
        )
        if given.debezium:
            contestants.append(Debezium(bench, load, f"dbz{seed}_{sync}", sync, backlog))
    fill(bench, load, backlog, given.transactions, seed)
    for contestant in contestants:
        yield Sample(f"{contestant.title}, {SYNC_TITLES[contestant.sync]}", seed, contestant.drain().metrics())


def fill(bench: Servers, load: Load, backlog: Backlog, transactions: int, seed: int) -> None:
    """Write the backlog, and one more transaction that marks its end."""
    bench.pgbench(
        bench.source, "-n", "-c", str(CLIENTS), "-j", "2", "-t", str(transactions // CLIENTS), "--max-tries", "20",
        "--random-seed", str(seed), *load.script_arguments(bench.directory), flush=False,
    )  # fmt: skip
    backlog.end = parse_lsn(str(bench.sql(bench.source, "SELECT pg_current_wal_insert_lsn()")[0][0]))
    table = load.keyed[0]
    key = "aid" if table == "pgbench_accounts" else "id"
    bench.sql(bench.source, f"UPDATE {table} SET {key} = {key} WHERE {key} = (SELECT min({key}) FROM {table})")
    backlog.transactions = transactions // CLIENTS * CLIENTS + 1
    bench.sql(bench.source, "CHECKPOINT")


# -- the section of RESULTS.md ---------------------------------------------------------------------


def _group(options: dict[str, Option]) -> tuple[str, bool, int, int, int]:
    return (
        str(options["load"]), bool(options["slow_fsync"]), int(options["transactions"]), int(options["lanes"]),
        int(options["merge"]),
    )  # fmt: skip


def section(runs: Sequence[Run]) -> str:
    """The section's text."""
    groups = list(dict.fromkeys(_group(run.options) for run in runs))
    return "\n\n".join(_table(runs, group) for group in sorted(groups, key=_rank))


def _rank(group: tuple[str, bool, int, int, int]) -> tuple[int, bool, int, int, int]:
    return list(LOADS).index(group[0]), *group[1:]


def _table(runs: Sequence[Run], group: tuple[str, bool, int, int, int]) -> str:
    load, slow, transactions, lanes, merge = group
    found = samples(runs, lambda options: _group(options) == group)
    command = f"make bench-drain ARGS='--load {load}{' --slow-fsync' if slow else ''} --transactions {transactions}'"
    title = LOADS[load].title + (f", {COMMIT_DELAY_US / 1000:g} ms added to each flush of the target" if slow else "")
    seeds = sorted({sample.seed for sample in found})
    how = f"{transactions:,} transactions, {lanes} lane, up to {merge:,} merged"
    lines = [
        f"### {title}", "",
        f"{how}; {len(seeds)} repetitions, seeds {seeds[0]}..{seeds[-1]}. `{command}`", "",
        "| contestant | TPS, median (range) | ratio to native, median (range) | CPU µs a transaction, median |",
        "|---|---|---|---|",
    ]  # fmt: skip
    for case in dict.fromkeys(sample.case for sample in found):
        base = "native, " + case.partition(", ")[2]
        tps = spread(values(found, case, "tps"))
        ratio = spread(ratios(found, case, base, "tps"), ".2f") if case != base else "1"
        lines.append(f"| {case} | {tps} | {ratio} | {_cpu(found, case)} |")
    return "\n".join(lines)


def _cpu(found: Sequence[Sample], case: str) -> str:
    names = dict.fromkeys(
        name for sample in found if sample.case == case for name in sample.metrics if name.startswith("cpu_us ")
    )
    medians = {name.removeprefix("cpu_us "): median(values(found, case, name)) for name in names}
    return ", ".join(f"{who} {us:.1f}" for who, us in medians.items()) + f"; together {sum(medians.values()):.1f}"


def charts(runs: Sequence[Run]) -> list[str]:
    """Write the section's charts; return their names."""
    groups = sorted(
        {_group(run.options)[:2] for run in runs}, key=lambda group: (list(LOADS).index(group[0]), group[1])
    )
    labels: list[str] = []
    series: dict[str, list[float | None]] = {sync: [] for sync in SYNC_TITLES.values()}
    for load, slow in groups:
        found = [sample for run in runs if _group(run.options)[:2] == (load, slow) for sample in run.samples]
        labels.append(load + (", slow fsync" if slow else ""))
        for sync, line in series.items():
            ratio = ratios(found, f"Headrace, {sync}", f"native, {sync}", "tps")
            line.append(round(median(ratio), 2) if ratio else None)
    chart.bars("drain", "Drain: times the rate of native logical replication", labels, series)
    return ["drain"]
