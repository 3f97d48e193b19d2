"""Does the cost of a transaction stay flat? Drains by number of tables, rows in the table, and lanes.

Each transaction is one update of a random row. Costs are CPU, so that other work on the machine blurs them less
than it blurs rates.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from statistics import median

from benchmarks import chart
from benchmarks.contestants import Backlog, Headrace
from benchmarks.drain import fill, prepare_template
from benchmarks.loads import growing
from benchmarks.servers import Servers, servers
from benchmarks.store import Run, Sample, samples, spread, values

TITLE = "Growth"
TABLES = (1, 10, 100)
ROWS = (1_000, 100_000, 1_000_000, 10_000_000)
LANES = (1, 4, 16)
FEW_ROWS, ONE_TABLE, ONE_LANE = 10_000, 1, 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--transactions", type=int, default=50_000)
    parser.add_argument("--only", default="tables,rows,lanes", help="of: tables, rows, lanes")


def run(given: argparse.Namespace) -> Iterator[Sample]:
    """Yield a sample a size and repetition."""
    sizes = [
        *(("tables", n, FEW_ROWS, ONE_LANE) for n in TABLES), *(("rows", ONE_TABLE, n, ONE_LANE) for n in ROWS),
        *(("lanes", ONE_TABLE, ROWS[1], n) for n in LANES),
    ]  # fmt: skip
    sizes = [size for size in sizes if size[0] in given.only.split(",")]
    with servers() as bench:
        _drain(bench, given.transactions, 1, FEW_ROWS, 1, "warm")  # a cold broker costs three times as much
        for seed in range(given.first_seed, given.first_seed + given.repetitions):
            for what, tables, rows, lanes in sizes:
                size = {"tables": tables, "rows": rows, "lanes": lanes}[what]
                name = f"hr{seed}_{what}_{size}"
                yield Sample(
                    f"{size:,} {what}", seed, _drain(bench, given.transactions, tables, rows, lanes, name, seed)
                )


def _drain(
    bench: Servers, transactions: int, tables: int, rows: int, lanes: int, name: str, seed: int = 0
) -> dict[str, float]:
    load = growing(tables, rows)
    bench.sql(bench.target, "DROP DATABASE IF EXISTS bench_empty")
    prepare_template(bench, load)
    load.initialise(bench, bench.source, "postgres")
    backlog = Backlog()
    ours = Headrace(bench, load, name, "off", backlog, lanes=lanes)
    fill(bench, load, backlog, transactions, seed)
    return ours.drain().metrics()


# -- the section of RESULTS.md ---------------------------------------------------------------------


def _total(sample: Sample) -> float:
    return sum(value for name, value in sample.metrics.items() if name.startswith("cpu_us "))


def section(runs: Sequence[Run]) -> str:
    """The section's text."""
    found = samples(runs)
    lines = [
        "One update a transaction, asynchronous commits; CPU in µs a transaction. `make bench-growth`", "",
        "| size | TPS | all processes | plan | apply | target |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for case in dict.fromkeys(sample.case for sample in found):
        whole = spread([_total(sample) for sample in found if sample.case == case], ".1f")
        parts = [spread(values(found, case, f"cpu_us {who}"), ".1f") for who in ("plan", "apply", "target")]
        lines.append(f"| {case} | {spread(values(found, case, 'tps'))} | {whole} | {' | '.join(parts)} |")
    return "\n".join(lines)


def charts(runs: Sequence[Run]) -> list[str]:
    """Write the section's chart; return its name."""
    found = samples(runs)
    cases = list(dict.fromkeys(sample.case for sample in found))
    totals = [round(median(_total(sample) for sample in found if sample.case == case), 1) for case in cases]
    chart.bars("growth", "CPU of all processes, µs a transaction", cases, {"µs": totals})
    return ["growth"]
