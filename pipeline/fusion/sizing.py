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

    From u at size B follows o/s = B·(1 - u)/u, and the target t needs B* = o/s · t/(1 - t). A link with a window of
    frames is full at some size and says nothing beyond, so a full link is answered by small steps down, until it is
    just not full. One odd interval is not believed. Without backlog the sender was idle, which says nothing about the
    size: it decays to what waits anyway.
    """

    CONFIRMED = 2  # intervals below the target before a step up
    GROWTH_MAX = 2.5
    GROWTH_MIN = 1.05
    SHRINK = 0.95
    FULL = 0.97

    def __init__(self, start: int = START, target: float = UTILISATION_TARGET) -> None:
        self._size = float(start)
        self._target = target
        self._below = 0

    @property
    def size(self) -> int:
        """Messages a batch now."""
        return round(self._size)

    def observe(self, utilisation: float, *, backlog: bool) -> None:
        """Learn; see the class."""
        below = backlog and utilisation < self._target
        self._below = self._below + 1 if below else 0
        if not backlog or utilisation > self.FULL:
            self._size = max(BATCH_MIN, self._size * self.SHRINK)
        elif self._below >= self.CONFIRMED:
            self._below = 0
            seen = max(utilisation, 0.02)
            wanted = self._size * (1 - seen) / seen * self._target / (1 - self._target)
            factor = min(self.GROWTH_MAX, max(self.GROWTH_MIN, wanted / self._size))
            self._size = min(float(BATCH_MAX), self._size * factor)
