"""How long a change batch stays open: short while transactions are rare, longer the more there are.

Every record costs each later stage about the same, however few transactions it holds. So the linger keeps
the records within a budget a second: it is the pause that the arrivals themselves do not make. The budget
follows the time the broker takes to acknowledge a record (additive increase, multiplicative decrease): when
brokers or processors are busy, fewer and larger records go. Pure; the caller tells the time.
"""

from __future__ import annotations

import math

from schemas.role_report import Control

LINGER_MIN_MS, LINGER_MAX_MS = 1.0, 20.0
# A second: at 50 the linger reaches its maximum. 500 transactions/s kept capture, planner, apply and broker busy for
# 1.27 cores with 200 records/s, for 0.9 with 80, for 0.62 with 50. Two cores that the load shares: what is busier has a
# longer tail of the lag; p99 66, 54, 50 ms (medians of 4, 4, 2 runs).
RECORDS_MIN, RECORDS_MAX = 50.0, 80.0
RECORDS_STEP = 5.0  # a second more after a quiet interval
DECREASE = 0.7
INTERVAL_S = 0.5  # between two changes of the budget
ACKNOWLEDGED_HIGH_MS, ACKNOWLEDGED_LOW_MS = 15.0, 8.0  # between them the budget stays
RATE_TAU_S = 0.5  # memory of the arrival rate


class AdaptiveLinger:
    """`ms` is the linger of now. One thread notes batches and acknowledgements; any may read `ms`."""

    def __init__(self) -> None:
        self.ms = LINGER_MIN_MS
        self.changed_us = 0
        self._rate = 0.0  # transactions a second
        self._noted_s = 0.0
        self._budget = RECORDS_MAX
        self._sum_ms = 0.0
        self._acknowledged = 0
        self._judged_s = 0.0

    def batch(self, transactions: int, now_us: int) -> None:
        """Note a batch of so many transactions (0: time has passed)."""
        now_s = now_us / 1e6
        elapsed_s = max(1e-6, now_s - self._noted_s)
        self._noted_s = now_s
        kept = math.exp(-elapsed_s / RATE_TAU_S)
        self._rate = self._rate * kept + transactions / elapsed_s * (1 - kept)
        self._judge(now_s)
        pause_ms = 1000 / self._budget - 1000 / max(self._rate, 1e-3)
        ms = min(LINGER_MAX_MS, max(LINGER_MIN_MS, pause_ms))
        if abs(ms - self.ms) >= 0.5:
            self.changed_us = now_us
        self.ms = ms

    def acknowledged(self, after_ms: float) -> None:
        """Note that a record was acknowledged `after_ms` after it was sent."""
        self._sum_ms += after_ms
        self._acknowledged += 1

    def _judge(self, now_s: float) -> None:
        if now_s - self._judged_s < INTERVAL_S:
            return
        self._judged_s = now_s
        mean_ms = self._sum_ms / max(1, self._acknowledged)
        if mean_ms > ACKNOWLEDGED_HIGH_MS:
            self._budget = max(RECORDS_MIN, self._budget * DECREASE)
        elif mean_ms < ACKNOWLEDGED_LOW_MS:
            self._budget = min(RECORDS_MAX, self._budget + RECORDS_STEP)
        self._sum_ms, self._acknowledged = 0.0, 0

    @property
    def reason(self) -> str:
        """Why the linger is what it is."""
        return f"{self._rate:,.0f} transactions/s, at most {self._budget:,.0f} records/s"

    def control(self) -> Control:
        """The value and its reason, for a report."""
        return Control("linger", self.ms, "ms", self.changed_us, self.reason)
