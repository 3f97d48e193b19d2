"""How many lanes are active: as many as the windows' independence can use.

Units that wait for other lanes commit alone and one after another, while one lane would have merged them:
where most units wait, fewer lanes are faster (design: planning, rule 5). Pure; time is counted in windows.
"""

from __future__ import annotations

WAITING_HIGH = 0.25  # share of units that wait above which lanes are halved
WAITING_LOW = 0.05  # share below which one lane is added
SMOOTHING = 0.05  # weight of the newest window in the share
SETTLE_WINDOWS = 32  # between two changes: the share must show what the last one did
PROBE_WINDOWS_MIN = 256  # in one lane nothing waits, so a second one is tried after a while,
PROBE_WINDOWS_MAX = 8192  # later each time it was tried in vain


class ActiveLanes:
    """Between 1 and `lanes_max`. `count` is the number to use for the next window."""

    def __init__(self, lanes_max: int) -> None:
        self.count = lanes_max
        self.reason = "all lanes at the start"
        self._lanes_max = lanes_max
        self._waiting = 0.0
        self._windows = 0
        self._probe_windows = PROBE_WINDOWS_MIN

    def observe(self, units: int, waiting: int) -> None:
        """Note a planned window: how many units it gave, and how many of them wait for another lane."""
        self._windows += 1
        if units:
            self._waiting += SMOOTHING * (waiting / units - self._waiting)
        if self.count == 1:
            if self._lanes_max > 1 and self._windows >= self._probe_windows:
                self._set(2, "trying a second lane")
        elif self._windows >= SETTLE_WINDOWS:
            self._adjust()

    def _adjust(self) -> None:
        if self._waiting > WAITING_HIGH:
            count = self.count // 2
            if count == 1:
                self._probe_windows = min(PROBE_WINDOWS_MAX, 2 * self._probe_windows)
            self._set(count, f"{self._waiting:.0%} of the units waited for another lane")
        elif self._waiting < WAITING_LOW and self.count < self._lanes_max:
            self._probe_windows = PROBE_WINDOWS_MIN
            self._set(self.count + 1, f"{self._waiting:.0%} of the units waited for another lane")

    def _set(self, count: int, reason: str) -> None:
        self.count, self.reason = count, reason
        self._windows = 0
        self._waiting = (WAITING_LOW + WAITING_HIGH) / 2  # neither verdict before the new count was seen
