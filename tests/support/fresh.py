"""What the monitor makes of the reports that a stream's roles have sent."""

from __future__ import annotations

import time

from headrace.recent import recent_reports
from schemas.lag import Lag
from topologies.lag import StreamLag
from topologies.settings import Settings


def reported_lag(settings: Settings, stream: str) -> Lag:
    """The summary of a monitor that starts now and has read the last report of each role.

    Raises RetriableError, KafkaException.
    """
    now_us = time.time_ns() // 1000
    lag = StreamLag(stream, settings.stream(stream).lag.thresholds(), now_us)
    for report in recent_reports(settings, settings.numbers()[stream]):
        lag.note_report(report)
    return lag.tick(now_us)[0]
