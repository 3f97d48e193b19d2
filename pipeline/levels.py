"""Levels of lag: ok, warning, alarm, critical, with hysteresis and hold times. Pure; the caller tells the time.

A level is raised once the lag has stayed at or above its threshold for `hold_s`, and lowered once it has
stayed below `CLEAR_SHARE` of it for `clear_s`: a lag that swings about a threshold changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

LEVELS = ("ok", "warning", "alarm", "critical")
CLEAR_SHARE = 0.8  # of a threshold: the lag has to fall below it before the level can go down


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Lags in seconds from which on a level is meant, rising; how long before it is raised or lowered."""

    warning_s: float
    alarm_s: float
    critical_s: float
    hold_s: float
    clear_s: float

    def level(self, lag_s: float, share: float = 1.0) -> int:
        """Index of the level that a lag means, thresholds scaled by `share`."""
        return sum(lag_s >= share * threshold for threshold in (self.warning_s, self.alarm_s, self.critical_s))


@dataclass(frozen=True, slots=True)
class LevelChange:
    """A level was left for another one at a time (as the caller counts it), with the lag of that moment."""

    before: str
    after: str
    time_s: float
    lag_s: float


class LevelWatch:
    """The level of one stream. Times are the caller's and never go back."""

    def __init__(self, thresholds: Thresholds) -> None:
        self._thresholds = thresholds
        self._level = 0
        self._candidate = 0  # the least (going up) or highest (going down) level seen since `_since_s`
        self._since_s: float | None = None

    @property
    def level(self) -> str:
        """The present level."""
        return LEVELS[self._level]

    def observe(self, now_s: float, lag_s: float) -> LevelChange | None:
        """Note the lag of now; return the change of level that it completes, if it does."""
        up, down = self._thresholds.level(lag_s), self._thresholds.level(lag_s, CLEAR_SHARE)
        if up > self._level:
            return self._lean(now_s, lag_s, up, self._thresholds.hold_s)
        if down < self._level:
            return self._lean(now_s, lag_s, down, self._thresholds.clear_s)
        self._since_s = None
        return None

    def _lean(self, now_s: float, lag_s: float, wanted: int, needed_s: float) -> LevelChange | None:
        """The lag means another level: change once it has done so, in one direction, for long enough."""
        rising = wanted > self._level
        if self._since_s is None or rising != (self._candidate > self._level):
            self._since_s, self._candidate = now_s, wanted
        self._candidate = min(self._candidate, wanted) if rising else max(self._candidate, wanted)
        if now_s - self._since_s < needed_s:
            return None
        before, self._level, self._since_s = self._level, self._candidate, None
        return LevelChange(LEVELS[before], LEVELS[self._level], now_s, lag_s)
