"""How old the target is: it holds everything that the source committed until so long ago.

An idle source is fresh as long as its capture says that it is there. With transactions on their way the
age is that of the oldest. A role that has died leaves its last word standing, and the age grows.
"""

from __future__ import annotations

from collections import deque

GRACE_US = 3_000_000  # reports come once a second: a younger one is as good as now
REPORTS_MAX = 1024  # remembered while nothing is applied; beyond, every second one is left out

Place = tuple[int, int]  # generation and position, ordered


class Freshness:
    """What capture and planner of one stream have last said. Times are microseconds since the Unix epoch."""

    def __init__(self) -> None:
        self._captured: Place = (0, 0)
        self._captured_us = 0
        self._oldest_us = 0
        self._ahead: deque[tuple[Place, int]] = deque()  # captured and not known to be applied, with commit times

    def note_captured(self, place: Place, commit_time_us: int, now_us: int) -> None:
        """The capture, at `now_us`, has everything up to `place`, committed at `commit_time_us` (0: not known)."""
        self._captured_us = max(self._captured_us, now_us)
        if place > self._captured:
            self._captured = place
            self._ahead.append((place, commit_time_us or now_us))
            if len(self._ahead) > REPORTS_MAX:
                # The first stays: the age counts from there.
                self._ahead = deque(entry for n, entry in enumerate(self._ahead) if n % 2 == 0)

    def note_applied(self, place: Place, oldest_us: int) -> None:
        """Everything up to `place` is applied; the planner's oldest transaction at work was committed then."""
        self._oldest_us = oldest_us
        while self._ahead and self._ahead[0][0] <= place:
            self._ahead.popleft()

    def age_us(self, now_us: int) -> int | None:
        """How long ago the moment is that the target shows; None while no capture has reported."""
        if not self._captured_us:
            return None
        if self._oldest_us:
            return max(0, now_us - self._oldest_us)
        if self._ahead:
            return max(0, now_us - self._ahead[0][1])
        silent_us = now_us - self._captured_us
        return silent_us if silent_us > GRACE_US else 0
