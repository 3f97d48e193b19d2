"""RESULTS.md, assembled from the stored results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks import store
from benchmarks.registry import BENCHMARKS, Benchmark
from benchmarks.store import Run
from benchmarks.targets import target_table

RESULTS = Path(__file__).with_name("RESULTS.md")
_HEAD = """\
# Results

Written by `python -m benchmarks` from `benchmarks/results/`; `make bench` runs everything, `make bench-NAME` one
benchmark (options in `ARGS='...'`, listed by `ARGS=--help`). Figures are medians with their range over the
repetitions; a ratio is taken within a repetition, between contestants that ran one after the other on the same
machine. Every target is compared with its source, row by row, after each run.
"""


def write_report() -> None:
    """Write RESULTS.md and its charts."""
    RESULTS.write_text(report_text())


def report_text() -> str:
    """Return the text of RESULTS.md; charts are written on the way."""
    parts = [_HEAD, "## Targets\n", target_table(), ""]
    for name, benchmark in BENCHMARKS.items():
        runs = store.load(name)
        if runs:
            parts += [_section(benchmark, runs), ""]
    return "\n".join(parts)


def _section(benchmark: Benchmark, runs: Sequence[Run]) -> str:
    pictures = "".join(f"\n![{benchmark.TITLE}](results/{chart}.svg)\n" for chart in benchmark.charts(runs))
    circumstances = sorted({_circumstances(run) for run in runs})
    return "\n".join([
        f"## {benchmark.TITLE}\n", benchmark.section(runs), pictures, *(f"*{line}*" for line in circumstances),
    ])  # fmt: skip


def _circumstances(run: Run) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    return f"{run.date}, {run.machine}; {versions}.{' ' * bool(run.remark)}{run.remark}"
