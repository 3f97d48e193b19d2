"""How many messages make a batch: controllers toward a utilisation of the link.

The link is a server with a fixed cost a frame (header, system calls, the wait for a free slot in the
window): with batches of B it is busy with payload for u = B·s / (B·s + o). A controller sees u and moves B.
"""

from __future__ import annotations

from typing import Protocol

from pipeline.fusion.policy import BATCH_MAX, BATCH_MIN, UTILISATION_TARGET

START = 100
BAND = 0.02  # no step while utilisation is so near to its target: every step costs latency or overhead


class SizeController(Protocol):
    """Decides the batch size from what an interval has shown."""

    @property
    def size(self) -> int:
        """Messages a batch now."""

    def observe(self, utilisation: float, *, backlog: bool) -> None:
        """Learn the utilisation (0..1) of an interval; `backlog`: messages were always waiting in it."""


class FixedSize:
    """A constant size: the baseline."""

    def __init__(self, size: int) -> None:
        self.size = size

    def observe(self, utilisation: float, *, backlog: bool) -> None:
        """Nothing to learn."""


class StepSize:
    """Grow by 1.2 below the target, shrink by 0.8 above it."""

    def __init__(self, start: int = START, target: float = UTILISATION_TARGET) -> None:
        self._size = float(start)
        self._target = target

    @property
    def size(self) -> int:
        """Messages a batch now."""
        return round(self._size)

    def observe(self, utilisation: float, *, backlog: bool) -> None:
        """One step; it does not ask for a backlog, so on an idle link it only grows."""
        del backlog
        if abs(utilisation - self._target) > BAND:
            factor = 1.2 if utilisation < self._target else 0.8
            self._size = min(BATCH_MAX, max(BATCH_MIN, self._size * factor))


class ModelSize:
    """Solve the link's model for the size that meets the target.

    From u at size B follows o/s = B·(1 - u)/u, and the target t needs B* = o/s · t/(1 - t). The ratio is
    smoothed; a jump of it (the link's rate has changed) is believed at once when a second interval agrees.
    Without backlog the sender was idle, which says nothing about the size: it decays to what waits anyway.
    """

    SMOOTHING = 0.3
    JUMP = 1.5
    MARGIN = 0.01  # aim a little above, so that noise does not end below

    def __init__(self, start: int = START, target: float = UTILISATION_TARGET) -> None:
        self._size = float(start)
        self._target = target + self.MARGIN
        self._overhead = 0.0  # o/s: the cost of a frame in messages
        self._jump = 0.0

    @property
    def size(self) -> int:
        """Messages a batch now."""
        return round(self._size)

    def observe(self, utilisation: float, *, backlog: bool) -> None:
        """Learn; see the class."""
        if not backlog:
            self._size = max(BATCH_MIN, self._size * 0.95)
            return
        seen = min(max(utilisation, 0.02), 0.999)
        overhead = self._size * (1 - seen) / seen
        self._overhead = self._believed(overhead)
        wanted = self._overhead * self._target / (1 - self._target)
        self._size = min(float(BATCH_MAX), max(float(BATCH_MIN), wanted))

    def _believed(self, overhead: float) -> float:
        if not self._overhead:
            return overhead
        ratio = overhead / self._overhead
        if 1 / self.JUMP < ratio < self.JUMP:
            self._jump = 0.0
            return self._overhead + self.SMOOTHING * (overhead - self._overhead)
        agreed, self._jump = self._jump, ratio
        if agreed and (agreed > 1) == (ratio > 1):
            self._jump = 0.0
            return overhead
        return self._overhead
