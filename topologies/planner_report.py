"""What a planner reports of itself: how far it is, what is in flight, what its controllers have decided."""

from __future__ import annotations

from collections.abc import Sequence

from confluent_kafka import Producer

from pipeline.lag import Histogram
from pipeline.planner import BYTES_MAX, TRANSACTIONS_MAX, WINDOWS_MAX, Planner
from pipeline.window import Restart, Window
from schemas.role_report import Buffer, RoleReport
from topologies.reporting import Reporter
from topologies.settings import Settings


class PlannerReporter:
    """Sends the reports of one stream's planner."""

    def __init__(self, settings: Settings, stream: str) -> None:
        self._reporter = Reporter(settings, stream, "plan")
        self._visible = Histogram()  # since the last report
        self._passed = (0, 0)  # generation and position: the planner's own watermark, ahead of the ledger's

    def begin(self, start: Restart) -> None:
        """A planner starts from here."""
        self._passed = (start.generation, start.watermark)

    def applied(self, windows: Sequence[Window], now_us: int) -> None:
        """These windows were found applied now; everything before them is, too."""
        for window in windows:
            self._passed = (window.generation, window.last_position)
            self._visible.add_sample(now_us, window.commit_times_us)

    def send_if_due(self, planner: Planner, producer: Producer, now_us: int) -> None:
        """Send a report, once a second."""
        if self._reporter.due():
            visible, self._visible = self._visible, Histogram()
            report = _report(planner, self._passed, {"visible": visible.encode()}, now_us)
            self._reporter.send(producer, report)


def _report(planner: Planner, passed: tuple[int, int], lag_buckets: dict[str, bytes], now_us: int) -> RoleReport:
    """The report of now; everything up to `passed` (generation, position) is applied."""
    return RoleReport(
        planner.stream, "plan", now_us, *passed, oldest_us=planner.oldest_us(), lag_buckets=lag_buckets,
        controls=[planner.active.control()],
        buffers=[
            Buffer("windows in flight", len(planner.windows), WINDOWS_MAX, "windows"),
            Buffer("transactions in flight", sum(planner.queued_transactions()), TRANSACTIONS_MAX, "transactions"),
            Buffer("bytes in flight", planner.bytes, BYTES_MAX, "bytes"),
        ],
    )  # fmt: skip
