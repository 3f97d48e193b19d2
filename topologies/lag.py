"""The monitor: progress records in, lag summaries out.

**Guarantee:** none is needed. Progress is a hint; a summary that is lost is followed by the next a second
later. What was published while no monitor ran is not counted.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from confluent_kafka import Message

from pipeline.lag import Histogram
from schemas.errors import SchemaError
from schemas.lag import Lag, LagWindow, encode_lag
from schemas.progress import Progress, decode_progress
from topologies.kafka import make_admin, make_producer, raise_if_fatal, read_from_end
from topologies.settings import Settings
from topologies.topics import ensure_topics

log = logging.getLogger(__name__)
SHORT_S, MIDDLE_S, LONG_S = 10, 60, 600  # windows; the last two move in steps of the first
PUBLISH_S = 1.0
LOG_S = 10.0
POLL_S = 0.2
STAGE = "applied"


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


class StreamLag:
    """Windows of one stream. Time is told by the caller, in whole seconds that never go back."""

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self._seconds: deque[Slot] = deque([Slot()], SHORT_S)
        self._steps: deque[Slot] = deque(maxlen=LONG_S // SHORT_S)  # of SHORT_S each
        self._ticks = 0
        self._commit_time_us = 0
        self._lanes: dict[int, tuple[int, int]] = {}  # lane -> tick of its last commit, units queued

    def note(self, progress: Progress) -> None:
        """Count one progress record."""
        slot = self._seconds[-1]
        slot.transactions += progress.transactions
        slot.rows += progress.rows
        for stage, packed in progress.lag_buckets.items():
            slot.lag.setdefault(stage, Histogram()).merge(Histogram.decode(packed))
        self._commit_time_us = max(self._commit_time_us, progress.commit_time_us)
        self._lanes[progress.lane] = (self._ticks, progress.queued)

    def tick(self) -> None:
        """A second has passed."""
        self._ticks += 1
        if self._ticks % SHORT_S == 0:
            self._steps.append(self.total(SHORT_S))
        self._seconds.append(Slot())

    def total(self, seconds: int) -> Slot:
        """The sum over the last `seconds`; beyond the shortest window the running step is left out."""
        slots = self._seconds if seconds == SHORT_S else [*self._steps][-(seconds // SHORT_S) :]
        total = Slot()
        for slot in slots:
            total.add(slot)
        return total

    def summary(self, now_us: int) -> Lag:
        """All windows as one record."""
        busy = [(tick, queued) for tick, queued in self._lanes.values() if self._ticks - tick < SHORT_S]
        windows = [window for seconds in (SHORT_S, MIDDLE_S, LONG_S) for window in self._windows(seconds)]
        queued = sum(queued for _, queued in busy)
        return Lag(self.stream, now_us, self._commit_time_us, queued, len(busy), windows)

    def _windows(self, seconds: int) -> list[LagWindow]:
        total = self.total(seconds)
        return [
            LagWindow(
                seconds, stage, total.transactions, total.rows,
                lag.percentile_s(0.5), lag.percentile_s(0.95), lag.percentile_s(0.99),
            )
            for stage, lag in sorted((total.lag or {STAGE: Histogram()}).items())
        ]  # fmt: skip


class Monitor:
    """The monitor role."""

    def __init__(self, settings: Settings, stopping: Callable[[], bool]) -> None:
        self._settings = settings
        self._stopping = stopping
        self._streams = {number: StreamLag(name) for name, number in settings.numbers().items()}
        self._topic = settings.topic("lag")

    def run(self) -> None:
        """Publish a summary a second until stopped. Raises ConfigError, RetriableError."""
        ensure_topics(make_admin(self._settings), self._settings)
        consumer = read_from_end(self._settings, self._settings.topic("progress"), list(self._streams))
        producer = make_producer(self._settings)
        due_s = logged_s = time.monotonic()
        try:
            while not self._stopping():
                for message in consumer.consume(500, timeout=POLL_S):
                    self._note(message)
                now_s = time.monotonic()
                if now_s - due_s >= PUBLISH_S:
                    due_s = now_s
                    for lag in self._tick():
                        producer.produce(self._topic, encode_lag(lag), key=lag.stream)
                        if now_s - logged_s >= LOG_S:
                            log.info("%s", summary_text(lag))
                    logged_s = now_s if now_s - logged_s >= LOG_S else logged_s
                producer.poll(0)
        finally:
            consumer.close()
            producer.flush(5.0)

    def _note(self, message: Message) -> None:
        error, value, partition = message.error(), message.value(), message.partition()
        if error is not None:
            raise_if_fatal(error)
        elif value is not None and partition in self._streams:
            try:
                self._streams[partition].note(decode_progress(value))
            except SchemaError as damage:
                log.warning("a progress record can't be read: %s", damage)

    def _tick(self) -> list[Lag]:
        now_us = time.time_ns() // 1000
        lags = [stream.summary(now_us) for stream in self._streams.values()]
        for stream in self._streams.values():
            stream.tick()
        return lags


def summary_text(lag: Lag) -> str:
    """The shortest window in a line."""
    window = next(w for w in lag.windows if w.seconds == SHORT_S and w.stage == STAGE)
    rate = f"{window.transactions / SHORT_S:,.0f} transactions/s"
    if window.p50_s is None or window.p95_s is None or window.p99_s is None:
        return f"stream {lag.stream}: nothing to count in the last {SHORT_S} s ({rate}), {lag.queued} units queued"
    p50, p95, p99 = (value * 1000 for value in (window.p50_s, window.p95_s, window.p99_s))
    return (
        f"stream {lag.stream}: lag p50 {p50:,.0f} ms, p95 {p95:,.0f} ms, p99 {p99:,.0f} ms; {rate} "
        f"in {lag.lanes} lanes, {lag.queued} units queued"
    )
