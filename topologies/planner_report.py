"""What a planner reports of itself: how far it is, what is in flight, what its controllers have decided."""

from __future__ import annotations

from pipeline.planner import WINDOWS_MAX, Planner
from schemas.role_report import Buffer, Control, RoleReport


def planner_report(planner: Planner, passed: tuple[int, int], lag_buckets: dict[str, bytes], now_us: int) -> RoleReport:
    """The report of now; everything up to `passed` (generation, position) is applied."""
    return RoleReport(
        planner.stream, "plan", now_us, *passed, oldest_us=planner.oldest_us(), lag_buckets=lag_buckets,
        controls=[Control("active lanes", planner.active.count, "lanes", 0, planner.active.reason)],
        buffers=[Buffer("windows in flight", len(planner.windows), WINDOWS_MAX, "windows")],
    )  # fmt: skip
