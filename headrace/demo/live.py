"""Progress while the demonstration runs: a panel on a terminal, else a line now and then."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from headrace.status_text import seconds_text

LINE_S = 3.0


@dataclass(frozen=True, slots=True)
class Moment:
    """What is shown: transactions so far, rate and lag of the last two seconds, lanes that worked in them."""

    committed: int
    applied: int
    wanted: int
    rate_per_s: float
    lag_p50_s: float | None
    lag_p99_s: float | None
    lanes_busy: int
    lanes: int
    note: str


class Progress(AbstractContextManager["Progress"]):
    """Shows moments while entered."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self._started_s = time.monotonic()
        self._said_s = 0.0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """Print a line that stays, after the seconds since the start."""
        self._console.print(f"{time.monotonic() - self._started_s:6.1f} s  {text}", soft_wrap=True)

    def show(self, moment: Moment) -> None:
        """Show the present moment."""
        if self._live is not None:
            self._live.update(_panel(moment))
        elif time.monotonic() - self._said_s >= LINE_S:
            self._said_s = time.monotonic()
            self.say("  " + _line(moment))


def _line(moment: Moment) -> str:
    return (
        f"committed {moment.committed:,}, applied {moment.applied:,} of {moment.wanted:,}; "
        f"{moment.rate_per_s:,.0f} transactions/s, lag p50 {seconds_text(moment.lag_p50_s)}, "
        f"p99 {seconds_text(moment.lag_p99_s)}, {moment.lanes_busy} of {moment.lanes} lanes busy"
        + (f"; {moment.note}" if moment.note else "")
    )


def _panel(moment: Moment) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("source", ProgressBar(moment.wanted, moment.committed, width=40), f"{moment.committed:,} committed")
    table.add_row("target", ProgressBar(moment.wanted, moment.applied, width=40), f"{moment.applied:,} applied")
    table.add_row("rate", f"{moment.rate_per_s:,.0f} transactions/s")
    table.add_row("lag", f"p50 {seconds_text(moment.lag_p50_s)}, p99 {seconds_text(moment.lag_p99_s)}")
    table.add_row("lanes", "■" * moment.lanes_busy + "□" * max(0, moment.lanes - moment.lanes_busy))
    table.add_row("", f"[yellow]{moment.note}[/yellow]")
    return table
