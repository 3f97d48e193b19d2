"""How far `changes` is ahead of the target, in bytes: what back-pressure to the source's log goes by. Pure."""

from __future__ import annotations

from collections import deque

STEP_BYTES = 1024 * 1024  # remembered in steps of so much: a lead of 64 GiB is 65,536 entries


class Lead:
    """Records acknowledged by the broker and not yet applied. Offsets are those of `changes`."""

    def __init__(self) -> None:
        self._first: int | None = None  # offset of the first record sent; the sizes of those before are not known
        self._applied: int | None = None
        self._sent_bytes = 0
        self._sent_records = 0
        self._passed_bytes = 0
        self._steps: deque[tuple[int, int]] = deque()  # offset behind a step, and all bytes up to there

    def sent(self, offset: int, size: int) -> None:
        """The record at `offset` is in Kafka."""
        if self._first is None:
            self._first = offset
        self._sent_bytes += size
        self._sent_records += 1
        if self._sent_bytes - (self._steps[-1][1] if self._steps else self._passed_bytes) >= STEP_BYTES:
            self._steps.append((offset + 1, self._sent_bytes))

    def applied(self, offset: int) -> None:
        """Everything before `offset` is applied."""
        self._applied = max(self._applied or 0, offset)
        while self._steps and self._steps[0][0] <= self._applied:
            self._passed_bytes = self._steps.popleft()[1]

    @property
    def bytes(self) -> int:
        """The lead, at most a step too high; 0 while nothing is known of the target.

        Records from before the first one count like the mean of those since.
        """
        if self._first is None or self._applied is None:
            return 0
        before = max(0, self._first - self._applied)
        return self._sent_bytes - self._passed_bytes + before * (self._sent_bytes // self._sent_records)
