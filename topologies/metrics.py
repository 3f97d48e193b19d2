"""Metrics for Prometheus, from the monitor's summaries and the roles' reports. One HTTP server, off by default.

Names follow the Prometheus naming practices: a unit as suffix, base units. `docs/operations.md` tells them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pipeline.errors import ConfigError
from pipeline.lag_windows import SHORT_S
from pipeline.levels import LEVELS
from schemas.lag import Lag
from schemas.role_report import RoleReport

STALE_US = 60_000_000  # a role that has said nothing for so long is left out


class Metrics(Collector):
    """The newest summary of each stream and report of each role. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lags: dict[str, Lag] = {}
        self._reports: dict[tuple[str, str], RoleReport] = {}

    def note_lag(self, lag: Lag) -> None:
        """Take a stream's summary; reports that are too old by then are forgotten."""
        with self._lock:
            self._lags[lag.stream] = lag
            fresh = {key: r for key, r in self._reports.items() if r.time_us > lag.time_us - STALE_US}
            self._reports = fresh

    def note_report(self, report: RoleReport) -> None:
        """Take a role's report."""
        with self._lock:
            self._reports[report.stream, report.role] = report

    def collect(self) -> Iterator[Metric]:
        """Everything as metrics; called for each scrape, in the server's thread."""
        with self._lock:
            lags, reports = list(self._lags.values()), list(self._reports.values())
        yield from _lag_metrics(lags)
        yield from _report_metrics(reports)


def _lag_metrics(lags: list[Lag]) -> Iterator[Metric]:
    quantiles = GaugeMetricFamily(
        "headrace_lag_seconds", "From the commit at the source to a stage.",
        labels=("stream", "stage", "window", "quantile"),
    )  # fmt: skip
    mean = GaugeMetricFamily("headrace_lag_mean_seconds", "Its mean.", labels=("stream", "stage", "window"))
    age = GaugeMetricFamily(
        "headrace_target_age_seconds", "The target holds all that the source committed until so long ago.",
        labels=("stream",),
    )  # fmt: skip
    level = GaugeMetricFamily("headrace_lag_level", f"0 to 3: {', '.join(LEVELS)}.", labels=("stream",))
    rate = GaugeMetricFamily("headrace_applied_transactions_per_second", "Over ten seconds.", labels=("stream",))
    queued = GaugeMetricFamily("headrace_queued_units", "Units queued in the lanes.", labels=("stream",))
    for lag in lags:
        for window in lag.windows:
            where = (lag.stream, window.stage, f"{window.seconds}s")
            for name, value in (("0.5", window.p50_s), ("0.95", window.p95_s), ("0.99", window.p99_s)):
                if value is not None:
                    quantiles.add_metric((*where, name), value)
            if window.mean_s is not None:
                mean.add_metric(where, window.mean_s)
        if lag.age_s is not None:
            age.add_metric((lag.stream,), lag.age_s)
        level.add_metric((lag.stream,), LEVELS.index(lag.level))
        short = next((w.transactions for w in lag.windows if w.seconds == SHORT_S), 0)
        rate.add_metric((lag.stream,), short / SHORT_S)
        queued.add_metric((lag.stream,), lag.queued)
    yield from (quantiles, mean, age, level, rate, queued)


def _report_metrics(reports: list[RoleReport]) -> Iterator[Metric]:
    labels = ("stream", "role", "buffer", "unit")
    used = GaugeMetricFamily("headrace_buffer_used", "How full a bounded buffer is.", labels=labels)
    limit = GaugeMetricFamily("headrace_buffer_limit", "Its limit.", labels=labels)
    control = GaugeMetricFamily(
        "headrace_control", "What a controller has set.", labels=("stream", "role", "control", "unit")
    )
    for report in reports:
        for buffer in report.buffers:
            where = (report.stream, report.role, buffer.name, buffer.unit)
            used.add_metric(where, buffer.used)
            limit.add_metric(where, buffer.limit)
        for value in report.controls:
            control.add_metric((report.stream, report.role, value.name, value.unit), value.value)
    yield from (used, limit, control)


class MetricsServer:
    """Serves metrics at http://HOST:PORT/metrics in a thread of its own. Raises ConfigError when it can't."""

    def __init__(self, listen: str, metrics: Metrics) -> None:
        host, _, port = listen.rpartition(":")
        registry = CollectorRegistry()
        registry.register(metrics)
        try:
            self._server, self._thread = start_http_server(int(port), host.strip("[]"), registry)
        except OSError as error:
            raise ConfigError(f"monitor.metrics_listen: cannot listen at {listen}: {error.strerror}") from error
        self.port = self._server.server_port

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
