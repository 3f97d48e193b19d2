"""Lag of one stream over the last ten seconds, minute and ten minutes, by stage. Bounded: one slot a step.

Pure: time passes when the caller says `tick`, once a second.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from pipeline.lag import STAGES, Histogram
from schemas.lag import LagWindow
from schemas.progress import Progress

SHORT_S, MIDDLE_S, LONG_S = 10, 60, 600  # windows; the last two move in steps of the first
WINDOWS_S = (SHORT_S, MIDDLE_S, LONG_S)


@dataclass(slots=True)
class Slot:
    """What was applied in one step of time: lag by stage, transactions, rows."""

    lag: dict[str, Histogram] = field(default_factory=dict)
    transactions: int = 0
    rows: int = 0

    def add(self, other: Slot) -> None:
        """Add what the other slot has counted."""
        self.transactions += other.transactions
        self.rows += other.rows
        for stage, histogram in other.lag.items():
            self.lag.setdefault(stage, Histogram()).merge(histogram)


class LagWindows:
    """What the lanes have reported, by second and by step of ten."""

    def __init__(self) -> None:
        self.commit_time_us = 0  # newest source commit applied
        self._seconds: deque[Slot] = deque([Slot()], SHORT_S)
        self._steps: deque[Slot] = deque(maxlen=LONG_S // SHORT_S - 1)  # whole ones; the running one is in seconds
        self._ticks = 0
        self._lanes: dict[int, tuple[int, int]] = {}  # lane -> tick of its last commit, units queued

    def note(self, progress: Progress) -> None:
        """Count one progress record. Raises SchemaError."""
        slot = self._seconds[-1]
        self.note_stages(progress.lag_buckets)
        slot.transactions += progress.transactions
        slot.rows += progress.rows
        self.commit_time_us = max(self.commit_time_us, progress.commit_time_us)
        self._lanes[progress.lane] = (self._ticks, progress.queued)

    def note_stages(self, lag_buckets: dict[str, bytes]) -> None:
        """Count packed histograms of stages; stages that are not known are left out. Raises SchemaError."""
        for stage, packed in lag_buckets.items():
            if stage in STAGES:
                self._seconds[-1].lag.setdefault(stage, Histogram()).merge(Histogram.decode(packed))

    def tick(self) -> None:
        """A second has passed."""
        self._ticks += 1
        if self._ticks % SHORT_S == 0:
            self._steps.append(self.total(SHORT_S))
        self._seconds.append(Slot())

    def total(self, seconds: int) -> Slot:
        """The sum over the last `seconds`; beyond the shortest window, up to one step less."""
        total = Slot()
        if seconds == SHORT_S:
            slots = [*self._seconds]
        else:
            running = 1 + self._ticks % SHORT_S
            steps = seconds // SHORT_S - 1
            slots = [*self._steps][-steps:] + [*self._seconds][-running:]
        for slot in slots:
            total.add(slot)
        return total

    def busy_lanes(self) -> tuple[int, int]:
        """Lanes that committed in the shortest window, and the units they had queued."""
        busy = [queued for tick, queued in self._lanes.values() if self._ticks - tick < SHORT_S]
        return len(busy), sum(busy)

    def windows(self) -> list[LagWindow]:
        """All windows and stages, in order; every stage is there."""
        return [window for seconds in WINDOWS_S for window in _windows(seconds, self.total(seconds))]


def _windows(seconds: int, total: Slot) -> list[LagWindow]:
    empty = Histogram()
    stages = [(stage, total.lag.get(stage, empty)) for stage in STAGES]
    return [
        LagWindow(
            seconds, stage, total.transactions, total.rows,
            lag.percentile_s(0.5), lag.percentile_s(0.95), lag.percentile_s(0.99), lag.mean_s(), lag.variance_s2(),
        )
        for stage, lag in stages
    ]  # fmt: skip
