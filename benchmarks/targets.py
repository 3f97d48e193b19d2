"""The targets of replication lag and apply, and what the stored results say about each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from benchmarks import store
from benchmarks.store import Option, ratios, samples, spread, values

NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured: the baseline, ours, the ratio between them, as text."""

    baseline: str = NOT_MEASURED
    ours: str = NOT_MEASURED
    ratio: str = NOT_MEASURED


@dataclass(frozen=True, slots=True)
class Target:
    """One row of the table."""

    metric: str
    baseline: str
    wanted: str
    command: str
    measured: Callable[[], Figures]


def _drain(sync: str, load: str = "tpcb", *, slow: bool = False) -> Callable[[], Figures]:
    def figures() -> Figures:
        def wanted(options: dict[str, Option]) -> bool:
            return options["load"] == load and bool(options["slow_fsync"]) == slow

        found = samples(store.load("drain"), wanted)
        ratio = ratios(found, f"Headrace, {sync}", f"native, {sync}", "tps")
        if not ratio:
            return Figures()
        base, ours = (median(values(found, f"{who}, {sync}", "tps")) for who in ("native", "Headrace"))
        return Figures(f"{base:,.0f} TPS", f"{ours:,.0f} TPS", spread(ratio, ".2f"))

    return figures


TARGETS = (
    Target(
        "end to end, durable: drain of a TPC-B backlog", "native logical replication, synchronous_commit = on",
        "4x, moonshot 6x", "make bench-drain", _drain("durable"),
    ),
    Target(
        "end to end, asynchronous, all on two shared cores", "native, synchronous_commit = off, streaming = parallel",
        "1.0x, moonshot 1.25x", "make bench-drain", _drain("asynchronous"),
    ),
)  # fmt: skip


def target_table() -> str:
    """Return the table as Markdown."""
    lines = [
        "| metric | baseline | target | baseline measured | ours | ratio | command |",
        "|---|---|---|---|---|---|---|",
    ]
    for target in TARGETS:
        figures = target.measured()
        lines.append(
            f"| {target.metric} | {target.baseline} | {target.wanted} | {figures.baseline} | {figures.ours} | "
            f"{figures.ratio} | `{target.command}` |"
        )
    return "\n".join(lines)
