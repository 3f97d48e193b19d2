"""The monitor: progress records and role reports in, lag summaries and alerts out.

**Guarantee:** none is needed. Progress is a hint; a summary that is lost is followed by the next a second
later. What was published while no monitor ran is not counted.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, Message, TopicPartition

from pipeline.freshness import Freshness
from pipeline.lag_windows import SHORT_S, LagWindows
from pipeline.levels import LevelChange, LevelWatch, Thresholds
from schemas.errors import SchemaError
from schemas.lag import Lag, encode_lag
from schemas.progress import decode_progress
from schemas.role_report import RoleReport, decode_report
from topologies.kafka import make_admin, make_consumer, make_producer, raise_if_fatal
from topologies.metrics import Metrics, MetricsServer
from topologies.settings import Settings
from topologies.topics import ensure_topics
from topologies.webhook import Webhook

log = logging.getLogger(__name__)
PUBLISH_S = 1.0
LOG_S = 10.0
POLL_S = 0.2
STAGE = "applied"


@dataclass(frozen=True, slots=True)
class Alert:
    """A change of a stream's level."""

    stream: str
    change: LevelChange
    text: str

    def payload(self) -> dict[str, object]:
        """What the webhook posts."""
        return {
            "stream": self.stream, "level": self.change.after, "previous_level": self.change.before,
            "lag_s": round(self.change.lag_s, 3), "time_us": int(self.change.time_s * 1e6), "text": self.text,
        }  # fmt: skip


class StreamLag:
    """One stream: windows, freshness, level. Reports from before `started_us` tell places, and count no lag."""

    def __init__(self, stream: str, thresholds: Thresholds, started_us: int) -> None:
        self.stream = stream
        self._started_us = started_us
        self._windows = LagWindows()
        self._freshness = Freshness()
        self._watch = LevelWatch(thresholds)
        self._level_us = 0
        self._reason = ""

    def note_progress(self, value: bytes) -> None:
        """Count a progress record. Raises SchemaError."""
        self._windows.note(decode_progress(value))

    def note_report(self, report: RoleReport) -> None:
        """Take a role's report. Raises SchemaError."""
        if report.time_us >= self._started_us:
            self._windows.note_stages(report.lag_buckets)
        place = (report.generation, report.position)
        if report.role == "capture":
            self._freshness.note_captured(place, report.commit_time_us, report.time_us)
        elif report.role == "plan":
            self._freshness.note_applied(place, report.oldest_us)

    def tick(self, now_us: int) -> tuple[Lag, Alert | None]:
        """A second has passed: the summary of now, and the change of level that it brings."""
        windows = self._windows.windows()
        age_us = self._freshness.age_us(now_us)
        p99_s = next(w.p99_s for w in windows if w.seconds == SHORT_S and w.stage == STAGE) or 0.0
        age_s = age_us / 1e6 if age_us is not None else None
        alert = self._judge(now_us, age_s or 0.0, p99_s)
        lanes, queued = self._windows.busy_lanes()
        lag = Lag(
            self.stream, now_us, self._windows.commit_time_us, age_s, self._watch.level, self._level_us, self._reason,
            queued, lanes, windows,
        )  # fmt: skip
        self._windows.tick()
        return lag, alert

    def _judge(self, now_us: int, age_s: float, p99_s: float) -> Alert | None:
        change = self._watch.observe(now_us / 1e6, max(age_s, p99_s))
        if change is None:
            return None
        self._level_us = now_us
        self._reason = (
            f"the target is {age_s:,.1f} s behind" if age_s >= p99_s
            else f"99 % of the last {SHORT_S} s were applied within {p99_s:,.1f} s"
        )  # fmt: skip
        text = f"stream {self.stream}: lag level {change.after} (was {change.before}): {self._reason}"
        return Alert(self.stream, change, text)


class Monitor:
    """The monitor role."""

    def __init__(self, settings: Settings, stopping: Callable[[], bool]) -> None:
        self._settings = settings
        self._stopping = stopping
        now_us = time.time_ns() // 1000
        self._streams = {
            number: StreamLag(name, settings.stream(name).lag.thresholds(), now_us)
            for name, number in settings.numbers().items()
        }
        self._topic = settings.topic("lag")
        self._reports = settings.topic("reports")
        url = settings.monitor.webhook_url
        self._metrics = Metrics()
        self._idle: set[str] = set()  # streams that were told to have nothing to do
        self._webhook = Webhook(url.get_secret_value()) if url is not None else None

    def run(self) -> None:
        """Publish a summary a second until stopped. Raises ConfigError, RetriableError."""
        ensure_topics(make_admin(self._settings), self._settings)
        listen = self._settings.monitor.metrics_listen
        server = MetricsServer(listen, self._metrics) if listen is not None else None
        consumer = self._consumer()
        producer = make_producer(self._settings)
        due_s = logged_s = time.monotonic()
        if self._webhook is not None:
            log.info("alerts go to %s", self._webhook.place)
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
                            self._say(lag)
                    logged_s = now_s if now_s - logged_s >= LOG_S else logged_s
                producer.poll(0)
        finally:
            consumer.close()
            producer.flush(5.0)
            if self._webhook is not None:
                self._webhook.close()
            if server is not None:
                server.close()

    def _say(self, lag: Lag) -> None:
        """Log the summary; that a stream has nothing to do is said once."""
        window = lag.window(SHORT_S, STAGE)
        idle = lag.age_s == 0 and (window is None or not window.transactions)
        if not idle or lag.stream not in self._idle:
            log.info("%s", summary_text(lag))
        (self._idle.add if idle else self._idle.discard)(lag.stream)

    def _consumer(self) -> Consumer:
        """Progress from now on; of the reports, which are compacted, also the last of each role."""
        consumer = make_consumer(self._settings, self._settings.group("watch"), from_end=True)
        progress = self._settings.topic("progress")
        starts = [TopicPartition(progress, number, OFFSET_END) for number in self._streams]
        starts += [TopicPartition(self._reports, number, OFFSET_BEGINNING) for number in self._streams]
        consumer.assign(starts)
        return consumer

    def _note(self, message: Message) -> None:
        error, value, partition = message.error(), message.value(), message.partition()
        if error is not None:
            raise_if_fatal(error)
        elif value is not None and partition in self._streams:
            stream = self._streams[partition]
            try:
                if message.topic() == self._reports:
                    report = decode_report(value)
                    self._metrics.note_report(report)
                    stream.note_report(report)
                else:
                    stream.note_progress(value)
            except SchemaError as damage:
                log.warning("topic %s: a record can't be read: %s", message.topic(), damage)

    def _tick(self) -> list[Lag]:
        now_us = time.time_ns() // 1000
        lags = []
        for stream in self._streams.values():
            lag, alert = stream.tick(now_us)
            lags.append(lag)
            self._metrics.note_lag(lag)
            if alert is not None:
                log.log(logging.WARNING if alert.change.after != "ok" else logging.INFO, "%s", alert.text)
                if self._webhook is not None:
                    self._webhook.send(alert.payload())
        return lags


def summary_text(lag: Lag) -> str:
    """The shortest window in a line."""
    window = lag.window(SHORT_S, STAGE)
    age = "the lag is not known yet" if lag.age_s is None else f"target behind by {lag.age_s:,.1f} s"
    if window is None or window.p50_s is None or window.p95_s is None or window.p99_s is None:
        return f"stream {lag.stream}: nothing applied in the last {SHORT_S} s; {age}"
    p50, p95, p99 = (value * 1000 for value in (window.p50_s, window.p95_s, window.p99_s))
    return (
        f"stream {lag.stream}: lag p50 {p50:,.0f} ms, p95 {p95:,.0f} ms, p99 {p99:,.0f} ms; "
        f"{window.transactions / SHORT_S:,.0f} transactions/s in {lag.lanes} lanes, {lag.queued} units queued; "
        f"{age}"
    )
