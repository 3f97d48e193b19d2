"""What a planner reports of itself: how far it is, what is in flight, what its controllers have decided."""

from __future__ import annotations

from pipeline.planner import BYTES_MAX, TRANSACTIONS_MAX, WINDOWS_MAX, Planner
from schemas.role_report import Buffer, RoleReport


def planner_report(planner: Planner, passed: tuple[int, int], lag_buckets: dict[str, bytes], now_us: int) -> RoleReport:
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
