"""The units of one lane between the consuming thread, which puts, and the lane's thread, which takes."""

from __future__ import annotations

import queue

from pipeline.merging import Damage, QueuedUnit

QUEUED_UNITS_MAX = 256  # then the lane's partition is paused; what one read of the consumer holds may still come
QUEUED_BYTES_MAX = 32 * 1024 * 1024


class UnitQueue:
    """First in, first out; `put_back` returns what was taken too early. `len` counts the units."""

    def __init__(self) -> None:
        self._units: queue.SimpleQueue[QueuedUnit | Damage] = queue.SimpleQueue()
        self._ahead: QueuedUnit | Damage | None = None  # put back: it comes next
        self._bytes_in = 0  # each is written by one thread
        self._bytes_out = 0

    # -- called by the consuming thread ----------------------------------------------------------

    def put(self, unit: QueuedUnit | Damage) -> None:
        """Queue a unit. The caller pauses the partition while `full`."""
        self._bytes_in += unit.size
        self._units.put(unit)

    @property
    def full(self) -> bool:
        """Whether the caller should stop reading the lane's partition."""
        return len(self) >= QUEUED_UNITS_MAX or self.bytes >= QUEUED_BYTES_MAX

    # -- called by both ----------------------------------------------------------------------------

    def __len__(self) -> int:
        return self._units.qsize()

    @property
    def bytes(self) -> int:
        """What the queued records take."""
        return self._bytes_in - self._bytes_out

    # -- called by the lane's thread ---------------------------------------------------------------

    def take(self, timeout_s: float) -> QueuedUnit | Damage | None:
        """The next unit; None when none comes within `timeout_s`, which may be 0."""
        if self._ahead is not None:
            unit, self._ahead = self._ahead, None
            return unit
        try:
            unit = self._units.get(timeout=timeout_s) if timeout_s else self._units.get_nowait()
        except queue.Empty:
            return None
        self._bytes_out += unit.size
        return unit

    def put_back(self, unit: QueuedUnit | Damage) -> None:
        """Have `unit`, which was taken last, taken next."""
        self._ahead = unit
