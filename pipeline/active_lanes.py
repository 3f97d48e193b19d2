"""How many lanes are active: as many as make the stream faster.

Two rules. *Waiting*: units that wait for other lanes commit alone and one after another, while one lane would
have merged them; where many units wait, lanes are halved at once, and one is added while hardly any do.
*Throughput*: while there is a backlog, another number of lanes is tried now and then and kept if the target
applies more with it. More lanes overlap slow commits (a far target, a slow disk) and make each of them
smaller, so what helps depends on the time a commit takes, and is measured instead of computed.
Pure; the caller tells the time.
"""

from __future__ import annotations

from schemas.role_report import Control

WAITING_HIGH = 0.25  # share of units that wait above which lanes are halved
WAITING_LOW = 0.05  # share below which one lane is added
SMOOTHING = 0.05  # weight of the newest window in the share
SETTLE_WINDOWS = 32  # between two changes: the share must show what the last one did
PROBE_WINDOWS_MIN = 256  # in one lane nothing waits, so a second one is tried after a while,
PROBE_WINDOWS_MAX = 8192  # later each time it was tried in vain
TRIAL_S = 1.0  # of backlog, that a number of lanes is measured for,
SETTLE_S = 0.5  # after so long with it: what was queued before is applied then
BETTER_MORE = 1.10  # more lanes must apply so much more to be kept: they cost connections and waits
BETTER_FEWER = 0.97  # fewer lanes may apply so much less
HOLD_S_MIN, HOLD_S_MAX = 8.0, 512.0  # of backlog between trials, doubled each time that nothing was better


class Throughput:
    """Transactions applied a second with each number of lanes, while there is a backlog."""

    def __init__(self) -> None:
        self._applied = 0
        self._backlog_s = 0.0
        self._last: tuple[float, int] | None = None  # time and total of the last note

    def reset(self) -> None:
        """Measure anew, after a pause for what is queued."""
        self._applied, self._backlog_s = 0, -SETTLE_S

    def note(self, now_s: float, total: int, *, backlog: bool) -> float:
        """Note all that was applied so far; return the seconds of backlog measured."""
        if self._last is not None and backlog:
            elapsed_s = now_s - self._last[0]
            if self._backlog_s >= 0:
                self._applied += total - self._last[1]
            self._backlog_s += elapsed_s
        self._last = (now_s, total)
        return self._backlog_s

    @property
    def rate(self) -> float:
        """Transactions a second since the last reset."""
        return self._applied / self._backlog_s if self._backlog_s > 0 else 0.0


class ActiveLanes:
    """Between 1 and `lanes_max`. `count` is the number to use for the next window."""

    def __init__(self, lanes_max: int) -> None:
        self.count = lanes_max
        self.reason = "all lanes at the start"
        self.changed_us = 0
        self._lanes_max = lanes_max
        self._ceiling = lanes_max  # what the throughput rule allows the waiting rule to use
        self._now_s = 0.0
        self._waiting = 0.0
        self._windows = 0
        self._probe_windows = PROBE_WINDOWS_MIN
        self._throughput = Throughput()
        self._trial: tuple[int, float] | None = None  # lanes and rate before the trial that runs
        self._failed = 0  # trials in a row that were of no use: of fewer lanes, of more
        self._hold_s = HOLD_S_MIN

    def observe(self, units: int, waiting: int) -> None:
        """Note a planned window: how many units it gave, and how many of them wait for another lane."""
        self._windows += 1
        if units:
            self._waiting += SMOOTHING * (waiting / units - self._waiting)
        if self.count == 1:
            if self._ceiling > 1 and self._windows >= self._probe_windows:
                self._set(2, "trying a second lane")
        elif self._windows >= SETTLE_WINDOWS:
            self._adjust()

    def _adjust(self) -> None:
        share = f"{self._waiting:.0%} of the units waited for another lane"
        if self._waiting > WAITING_HIGH:
            count = self.count // 2
            if count == 1:
                self._probe_windows = min(PROBE_WINDOWS_MAX, 2 * self._probe_windows)
            self._set(count, share)
        elif self._waiting < WAITING_LOW and self.count < self._ceiling:
            self._probe_windows = PROBE_WINDOWS_MIN
            self._set(self.count + 1, share)

    def measure(self, now_us: int, applied: int, *, backlog: bool) -> None:
        """Note the transactions applied so far, and whether more are waiting than a commit can hold."""
        self._now_s = now_us / 1e6
        measured_s = self._throughput.note(self._now_s, applied, backlog=backlog)
        if self._trial is not None:
            if measured_s >= TRIAL_S:
                self._judge(*self._trial)
        elif measured_s >= max(TRIAL_S, self._hold_s if self._failed >= 2 else 0.0):
            self._try()

    def _try(self) -> None:
        """Begin a trial: fewer lanes first, then more."""
        count, rate = self.count, self._throughput.rate
        if self._failed >= 2:
            self._failed = 0
        fewer = self._failed == 0
        wanted = max(1, count // 2) if fewer else min(self._lanes_max, 2 * count)
        if wanted == count or (not fewer and self._waiting >= WAITING_LOW and count > 1):
            self._fail()
            return
        self._ceiling = wanted
        self._set(wanted, f"trying {wanted} instead of {count} ({rate:,.0f} transactions/s)")
        self._trial = (count, rate)

    def _judge(self, count: int, before: float) -> None:
        """End a trial: keep the number of lanes, or go back to `count`."""
        rate, tried = self._throughput.rate, self.count
        text = f"{rate:,.0f} transactions/s with {tried}, {before:,.0f} with {count}"
        if rate >= before * (BETTER_FEWER if tried < count else BETTER_MORE):
            self._set(tried, text)
            self._hold_s = HOLD_S_MIN
            return
        self._ceiling = count
        self._set(count, text)
        self._fail()

    def _fail(self) -> None:
        self._failed += 1
        if self._failed == 2:
            self._hold_s = min(HOLD_S_MAX, 2 * self._hold_s)
        self._throughput.reset()

    def _set(self, count: int, reason: str) -> None:
        """Change the number; a trial that runs is over."""
        self.count, self.reason, self.changed_us = count, reason, int(self._now_s * 1e6)
        self._windows = 0
        self._waiting = (WAITING_LOW + WAITING_HIGH) / 2  # neither verdict before the new count was seen
        self._trial = None
        self._throughput.reset()

    def control(self) -> Control:
        """The value and its reason, for a report."""
        return Control("active lanes", self.count, "lanes", self.changed_us, self.reason)
