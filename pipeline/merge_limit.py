"""How many source transactions may share one target transaction: as many as it can take in good time.

Additive increase, multiplicative decrease on the time a commit takes, with a band between them in which
nothing changes, and steps that aim into the band: the limit settles instead of swinging. A decrease that
does not shorten the commits in proportion is taken back, since then the time is a fixed cost (a slow disk, a far
target, a lock) that larger transactions share. Pure; the caller tells the time.
"""

from __future__ import annotations

from schemas.role_report import Control

LIMIT_MIN = 50
SETTLE_COMMITS = 4  # full ones, between two changes
BAND_LOW = 0.7  # of the wanted time: below it the limit grows
AIM = 0.85  # where a step aims: the middle of the band
DECREASE_MAX = 0.5
INCREASE_SHARE = 1 / 16  # of the maximum, the largest additive step
USEFUL_SHARE = 0.3  # of the shortening that a proportional cost would give, for a decrease to stay
HOLD_COMMITS = 64  # full ones, before a decrease is tried again that was of no use


class MergeLimit:
    """`limit` is between `LIMIT_MIN` and `maximum` transactions; `wanted_s` is the longest good commit."""

    def __init__(self, maximum: int, wanted_s: float) -> None:
        self.limit = maximum
        self.reason = "commits are quick enough"
        self.changed_us = 0
        self._maximum = maximum
        self._minimum = min(LIMIT_MIN, maximum)
        self._wanted_s = wanted_s
        self._sum_s = 0.0
        self._commits = 0
        self._before: tuple[int, float] | None = None  # limit and commit time before the last decrease
        self._hold = 0

    def observe(self, transactions: int, commit_s: float, now_us: int, *, limited: bool) -> None:
        """Note a commit; `limited`: more was queued, and the limit kept it out.

        A commit of less than half the limit says nothing about the limit.
        """
        if 2 * transactions < self.limit:
            return
        self._hold = max(0, self._hold - 1)
        self._sum_s += commit_s
        self._commits += 1
        if self._commits < SETTLE_COMMITS:
            return
        mean_s, self._sum_s, self._commits = self._sum_s / self._commits, 0.0, 0
        if self._before is not None and self._useless(mean_s, now_us):
            return
        ratio = AIM * self._wanted_s / max(mean_s, 1e-6)
        if mean_s > self._wanted_s and not self._hold:
            self._decrease(mean_s, max(DECREASE_MAX, ratio), now_us)
        elif mean_s < BAND_LOW * self._wanted_s and limited and self.limit < self._maximum:
            step = min(self._maximum * INCREASE_SHARE, self.limit * (ratio - 1))
            self._set(self.limit + max(1, int(step)), f"commits took {mean_s * 1000:,.0f} ms", now_us)

    def _decrease(self, mean_s: float, factor: float, now_us: int) -> None:
        if self.limit > self._minimum:
            self._before = (self.limit, mean_s)
            wanted = f"over {self._wanted_s * 1000:,.0f} ms"
            self._set(int(self.limit * factor), f"commits took {mean_s * 1000:,.0f} ms, {wanted}", now_us)

    def _useless(self, mean_s: float, now_us: int) -> bool:
        """Judge the last decrease by the commits since; take it back where it did not pay."""
        (limit, before_s), self._before = self._before or (self.limit, mean_s), None
        fair_s = before_s * (1 - self.limit / limit)
        if before_s - mean_s >= USEFUL_SHARE * fair_s:
            return False
        self._hold = HOLD_COMMITS
        text = f"{self.limit} transactions took {mean_s * 1000:,.0f} ms, {limit} took {before_s * 1000:,.0f} ms"
        self._set(limit, f"smaller commits are no quicker: {text}", now_us)
        return True

    def _set(self, limit: int, reason: str, now_us: int) -> None:
        self.limit = min(self._maximum, max(self._minimum, limit))
        self.reason, self.changed_us = reason, now_us

    def control(self) -> Control:
        """The value and its reason, for a report."""
        return Control("merge limit", self.limit, "transactions a commit", self.changed_us, self.reason)
