"""What is measured while the demonstration runs: lag and throughput, in steps of half a second."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from pipeline.lag import Histogram
from schemas.errors import SchemaError
from schemas.progress import Progress, decode_progress
from topologies.kafka import read_from_end
from topologies.settings import Settings

STEP_S = 0.5
POLL_S = 0.1
STAGE = "applied"
RECENT_STEPS = 4  # of what is shown while it runs


@dataclass(slots=True)
class Step:
    """One step: what was applied in it, how late, by which lanes, and what the source had committed by its end."""

    lag: Histogram = field(default_factory=Histogram)
    applied: int = 0
    rows: int = 0
    lanes: set[int] = field(default_factory=set)
    committed: int | None = None


class Meter(threading.Thread):
    """Follows the progress topic. Times are seconds since `started_us`."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(name="meter", daemon=True)
        self.started_us = time.time_ns() // 1000
        self.steps: dict[int, Step] = {}
        self.first_commit_us: dict[int, int] = {}  # after each kill (its time) the first commit
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._kills: list[int] = []
        self._settings = settings
        partitions = list(settings.numbers().values())
        self._consumer = read_from_end(settings, settings.topic("progress"), partitions)

    def run(self) -> None:
        """Count until closed."""
        while not self._closed.is_set():
            for message in self._consumer.consume(500, timeout=POLL_S):
                value = message.value()
                if message.error() is None and value is not None:
                    try:
                        self._count(decode_progress(value))
                    except SchemaError:
                        continue
        self._consumer.close()

    def close(self) -> None:
        """Stop counting."""
        self._closed.set()
        self.join()

    def now_s(self) -> float:
        """Seconds since the start."""
        return (time.time_ns() // 1000 - self.started_us) / 1e6

    def note_committed(self, transactions: int) -> None:
        """The source has committed so many."""
        with self._lock:
            self._step(self.now_s()).committed = transactions

    def note_kill(self) -> float:
        """An apply process was killed now; returns the time in seconds since the start."""
        now_us = time.time_ns() // 1000
        with self._lock:
            self._kills.append(now_us)
        return (now_us - self.started_us) / 1e6

    def recovered_s(self, kill_s: float) -> float | None:
        """Seconds from the kill at `kill_s` to the first commit after it."""
        for kill_us, first_us in self.first_commit_us.items():
            if abs((kill_us - self.started_us) / 1e6 - kill_s) < 1e-3:
                return (first_us - kill_us) / 1e6
        return None

    def recent(self) -> Step:
        """The sum of the last steps."""
        with self._lock:
            last = int(self.now_s() / STEP_S)
            total = Step()
            for number in range(last - RECENT_STEPS, last):
                if number in self.steps:
                    _add(total, self.steps[number])
        return total

    def total(self, *, without: tuple[float, float] | None = None) -> Step:
        """The sum of all steps, but for those that begin within the span `without`."""
        total = Step()
        with self._lock:
            for number, step in self.steps.items():
                if without is None or not without[0] <= number * STEP_S <= without[1]:
                    _add(total, step)
        return total

    def _step(self, at_s: float) -> Step:
        return self.steps.setdefault(int(at_s / STEP_S), Step())

    def _count(self, progress: Progress) -> None:
        with self._lock:
            step = self._step((progress.applied_us - self.started_us) / 1e6)
            step.applied += progress.transactions
            step.rows += progress.rows
            step.lanes.add(progress.lane)
            if STAGE in progress.lag_buckets:
                step.lag.merge(Histogram.decode(progress.lag_buckets[STAGE]))
            for kill_us in self._kills:
                if progress.applied_us > kill_us:
                    first_us = self.first_commit_us.get(kill_us, progress.applied_us)
                    self.first_commit_us[kill_us] = min(first_us, progress.applied_us)


def _add(total: Step, step: Step) -> None:
    total.lag.merge(step.lag)
    total.applied += step.applied
    total.rows += step.rows
    total.lanes |= step.lanes
