"""How many transactions may share a record of `changes`: no more than keeping up takes.

A record is the planner's window: nothing of it is planned before the last of it is read, nothing of a lane's unit
visible before all of it is applied. Small records are finer windows and move through the stages side by side; large
ones cost less a transaction. What tells how much of that saving is needed is the age of the transactions as they are
read: where records are too small to keep up, it grows, and the limit with it, to the configured maximum for a backlog.
Rises at once, falls with a time constant, so that pauses between two bursts change nothing. Pure; the caller tells the
time.
"""

from __future__ import annotations

import math

from schemas.role_report import Control

SIZE_MIN = 500  # transactions; the fixed cost of a record, some 2 ms over all roles, is then 4 µs for each
FRESH_S = 0.05  # transactions as young as this are no backlog at all
BACKLOG_S = 1.0  # as old as this: the maximum
FALL_TAU_S = 0.5
TOLD_SHARE = 0.1  # smaller changes are not told


class RecordSize:
    """`limit` is between `SIZE_MIN` (or `maximum`, if that is less) and `maximum` transactions."""

    def __init__(self, maximum: int) -> None:
        self.limit = maximum
        self.changed_us = 0
        self._told = maximum
        self._maximum = maximum
        self._minimum = min(SIZE_MIN, maximum)
        self._age_s = BACKLOG_S  # unknown yet
        self._closed_s = 0.0

    def closed(self, age_s: float, now_us: int) -> None:
        """Note that a record was closed whose last transaction was committed `age_s` ago."""
        now_s = now_us / 1e6
        kept = math.exp(-max(0.0, now_s - self._closed_s) / FALL_TAU_S) if self._closed_s else 1.0
        self._closed_s = now_s
        self._age_s = max(age_s, self._age_s * kept + age_s * (1 - kept))
        share = min(1.0, max(0.0, (self._age_s - FRESH_S) / (BACKLOG_S - FRESH_S)))
        self.limit = round(self._minimum + share * (self._maximum - self._minimum))
        if abs(self.limit - self._told) > TOLD_SHARE * self._told:
            self._told, self.changed_us = self.limit, now_us

    @property
    def reason(self) -> str:
        """Why the limit is what it is."""
        age_ms = min(self._age_s, BACKLOG_S) * 1000
        if self.limit == self._maximum:
            return f"read {age_ms:,.0f} ms or more after their commit: a backlog"
        return f"read up to {age_ms:,.0f} ms after their commit"

    def control(self) -> Control:
        """The value and its reason, for a report."""
        return Control("record size", self.limit, "transactions", self.changed_us, self.reason)
