"""Turns: among the lanes of one stream in this process, the more urgent begins its target transaction first."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pipeline.priorities import AGEING_S, may_begin


class Turns:
    """Lanes of one stream. Thread-safe. `ranks` holds the class of each lane, 0 the most urgent."""

    def __init__(self, ranks: Sequence[int]) -> None:
        self._ranks = ranks
        self._changed = threading.Condition()
        self._ready: set[int] = set()  # lanes with work that could begin, or has

    @contextmanager
    def turn(self, lane: int) -> Iterator[None]:
        """Wait for more urgent lanes, as long as ageing allows; the block is the lane's turn."""
        rank, since_s = self._rank(lane), time.monotonic()
        with self._changed:
            self._ready.add(lane)
            while not may_begin(rank, time.monotonic() - since_s, map(self._rank, self._ready - {lane})):
                self._changed.wait(AGEING_S / 4)
        try:
            yield
        finally:
            with self._changed:
                self._ready.discard(lane)
                self._changed.notify_all()

    def _rank(self, lane: int) -> int:
        """The class of a lane; one that has none (see `lane_order`, or left over) is as urgent as any other."""
        return self._ranks[lane] if lane < len(self._ranks) else min(self._ranks)
