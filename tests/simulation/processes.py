"""What the simulation's processes remember, each by itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.fence import LaneRow, OpenParts
from pipeline.planner import Planner
from schemas.apply_unit import ApplyUnit
from schemas.change_batch import ChangeBatch


@dataclass
class Planning:
    """A planner's process. It goes on after it was replaced until it notices or dies."""

    planner: Planner
    offset: int
    serial_at: int | None = None  # position of the transaction that a lane could not apply
    retired: tuple[int, int, int] | None = None  # generation, position, offset to acknowledge
    undelivered: bool = False  # it will end when it hears that a unit was not delivered
    passed: int | None = None  # offset that the watermark has passed and that is not committed yet


@dataclass
class Lane:
    """A consumer of one partition of units."""

    number: int
    offset: int
    row: LaneRow = field(default_factory=lambda: LaneRow(0, 0, 0))
    known: dict[tuple[int, int], int] = field(default_factory=dict)  # (epoch, lane) -> seq heard of
    failed: tuple[int, int | None] | None = None  # epoch and position reported
    open: tuple[OpenParts, list[ChangeBatch]] | None = None  # a large transaction that has begun, and its parts
    alone: bool = False  # a merged group was refused: one unit at a time
    parks: bool = False  # refused at the head, in order and alone: what is refused is parked
    at_head: bool = False  # refused in order too: waits until everything earlier is applied

    def is_old(self, unit: ApplyUnit) -> bool:
        """Whether the ledger has passed the unit. A planner that lives on may send between parts of the next."""
        if self.open is not None and unit.epoch < self.open[0].epoch:
            return True
        return self.row.has_passed(unit.epoch, unit.seq)

    def met(self, unit: ApplyUnit) -> bool:
        """Whether all that the unit waits for is known to be applied."""
        return all(self.known.get((unit.epoch, lane), 0) >= seq for lane, seq in unit.waits.items())


@dataclass(frozen=True)
class News:
    """A progress record on its way."""

    lane: int
    epoch: int
    seq: int
    failed: int | None = None
    failure: bool = False
