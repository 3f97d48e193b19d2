"""What Prometheus gets over HTTP."""

from __future__ import annotations

import pytest

from pipeline.errors import ConfigError
from schemas.lag import Lag, LagWindow
from schemas.role_report import Buffer, Control, RoleReport
from tests.support.scraping import scrape
from topologies.metrics import STALE_US, Metrics, MetricsServer

WINDOW = LagWindow(10, "applied", 500, 900, 0.25, None, 0.5, 0.3, 0.01)


def lag(time_us: int) -> Lag:
    return Lag("shop", time_us, 1, 2.5, "alarm", 1, "behind", 7, 2, [WINDOW])


def test_lag_buffers_and_controllers_are_served() -> None:
    metrics = Metrics()
    server = MetricsServer("127.0.0.1:0", metrics)
    try:
        assert scrape(server.port) == {}
        metrics.note_report(
            RoleReport("shop", "plan", 5, controls=[Control("active lanes", 2, "lanes", 0, "why")],
                       buffers=[Buffer("bytes in flight", 10, 64, "bytes")])
        )  # fmt: skip
        metrics.note_lag(lag(6))
        found = scrape(server.port)
        assert found["headrace_lag_seconds", "0.5", "applied", "shop", "10s"] == 0.25
        assert found["headrace_lag_seconds", "0.99", "applied", "shop", "10s"] == 0.5
        assert ("headrace_lag_seconds", "0.95", "applied", "shop", "10s") not in found
        assert found["headrace_target_age_seconds", "shop"] == 2.5
        assert found["headrace_lag_level", "shop"] == 2
        assert found["headrace_applied_transactions_per_second", "shop"] == 50
        assert found["headrace_buffer_used", "bytes in flight", "plan", "shop", "bytes"] == 10
        assert found["headrace_buffer_limit", "bytes in flight", "plan", "shop", "bytes"] == 64
        assert found["headrace_control", "active lanes", "plan", "shop", "lanes"] == 2
        metrics.note_lag(lag(6 + STALE_US))
        assert not [key for key in scrape(server.port) if key[0] == "headrace_control"], "the role is gone"
        with pytest.raises(ConfigError, match="cannot listen at"):
            MetricsServer(f"127.0.0.1:{server.port}", metrics)
    finally:
        server.close()
