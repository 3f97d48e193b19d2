"""What is left for a unit that the target refuses in every way, with everything before it applied."""

from __future__ import annotations

from enum import Enum

from pipeline.merging import QueuedUnit
from schemas.apply_unit import SERIAL


class LastResort(Enum):
    """What becomes of the unit."""

    SERIAL_WINDOW = "serial window"  # units of one window can hide dependences: the planner makes one unit of it
    PARK = "park"  # its refused transactions become dead letters
    STOP = "stop"  # it is poison: an operator has to decide


def last_resort(queued: QueuedUnit, *, may_park: bool) -> LastResort:
    """Choose for `queued`. `may_park`: the stream parks, and the fault is not one that every transaction would meet.

    Only whole live transactions are parked: the copy of a table would never be complete.
    """
    batch = queued.batch
    alone = queued.unit.mode == SERIAL
    if alone and may_park and batch.whole and batch.kind == "live":
        return LastResort.PARK
    if alone or not batch.whole or batch.kind == "snapshot":
        return LastResort.STOP
    return LastResort.SERIAL_WINDOW
