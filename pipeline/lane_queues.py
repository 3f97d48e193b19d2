"""What a planner has sent to each lane and the lane has not applied yet."""

from __future__ import annotations

from collections import deque

from schemas.apply_unit import LANES_MAX


class LaneQueues:
    """The queues of one epoch. A unit's load is its transactions, and the rows of a snapshot's part.

    `seqs` are the last unit's numbers and `loads` the sums of what is queued, by lane; `total` is the sum of those.
    """

    def __init__(self) -> None:
        self.seqs = [0] * LANES_MAX
        self.loads = [0] * LANES_MAX
        self.total = 0
        self._queued: list[deque[tuple[int, int]]] = [deque() for _ in range(LANES_MAX)]

    def send(self, lane: int, load: int) -> int:
        """Queue a unit; returns its seq."""
        self.seqs[lane] = seq = self.seqs[lane] + 1
        self._queued[lane].append((seq, load))
        self.loads[lane] += load
        self.total += load
        return seq

    def settle(self, lane: int, seq: int) -> int:
        """Take out what the lane has applied up to `seq`; returns its load."""
        queued, load = self._queued[lane], 0
        while queued and queued[0][0] <= seq:
            load += queued.popleft()[1]
        self.loads[lane] -= load
        self.total -= load
        return load

    def busy(self) -> list[int]:
        """The lanes that have something to do."""
        return [lane for lane, queued in enumerate(self._queued) if queued]
