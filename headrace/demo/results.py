"""What the demonstration found, as a table and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from rich.table import Table

from headrace.status_text import seconds_text
from headrace.verify import StreamCheck


@dataclass(frozen=True, slots=True)
class Point:
    """A moment of the run: lags in seconds (None: nothing applied), rates in transactions a second."""

    at_s: float
    lag_p50_s: float | None
    lag_p99_s: float | None
    applied_per_s: float
    committed_per_s: float


@dataclass(frozen=True, slots=True)
class Kill:
    """The crash: when, the first commit after it, and when the lag was small again (both in seconds after it)."""

    at_s: float
    pid: int
    first_commit_s: float | None
    caught_up_s: float | None


@dataclass(frozen=True, slots=True)
class Result:
    """The whole run. Lags are from commit at the source to commit at the target, in seconds."""

    seed: int
    lanes: int
    committed: int
    applied: int
    rows: int
    snapshot_rows: int
    load_s: float
    drain_s: float
    lag_s: tuple[float | None, float | None, float | None]
    lag_undisturbed_s: tuple[float | None, float | None, float | None]
    peak_applied_per_s: float
    kill: Kill | None
    total_s: float
    check: StreamCheck
    points: tuple[Point, ...]

    @property
    def right(self) -> bool:
        """Whether the target is the source, and every transaction was applied once."""
        return self.check.differences == 0 and self.applied == self.committed

    def as_json(self) -> dict[str, object]:
        """For programs."""
        return {**asdict(self), "right": self.right, "differences": self.check.differences}


def facts(result: Result) -> list[tuple[str, str]]:
    """What was found, as names and texts."""
    kill = result.kill
    return [
        ("transactions committed at the source", f"{result.committed:,} in {result.load_s:.1f} s"),
        ("transactions applied at the target", f"{result.applied:,} ({result.rows:,} rows)"),
        ("rows copied by the snapshot before", f"{result.snapshot_rows:,}"),
        ("applied after the last commit within", seconds_text(result.drain_s)),
        ("lag p50 / p95 / p99, undisturbed", _lags(result.lag_undisturbed_s)),
        ("lag p50 / p95 / p99, with the crash", _lags(result.lag_s)),
        ("highest rate at the target", f"{result.peak_applied_per_s:,.0f} transactions/s"),
        ("apply process killed with -9", f"at {kill.at_s:.1f} s (pid {kill.pid})" if kill else "no"),
        ("first commit after the crash", f"{seconds_text(kill.first_commit_s)} later" if kill else "-"),
        ("lag under a second again", _caught_up(kill)),
        ("rows that differ", f"{result.check.differences:,} in {len(result.check.tables)} tables"),
    ]


def summary(result: Result) -> Table:
    """For people."""
    table = Table("", "", title="Result", show_header=False)
    for name, text in facts(result):
        table.add_row(name, text)
    verdict = "[green]the target equals the source[/green]" if result.right else "[red]THE TARGET DIFFERS[/red]"
    table.add_row("verdict", verdict)
    return table


def _caught_up(kill: Kill | None) -> str:
    if kill is None:
        return "-"
    return "not before the end" if kill.caught_up_s is None else f"{seconds_text(kill.caught_up_s)} after the crash"


def _lags(lags: tuple[float | None, ...]) -> str:
    return " / ".join(seconds_text(lag) for lag in lags)
