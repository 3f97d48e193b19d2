"""Rule 2, the fence: what a lane row that refused a unit tells about the unit."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Fenced(Enum):
    """Why a unit was refused, hence what to do with it."""

    STALE = "stale"  # an older epoch, or units already applied, all or the first of them: drop those
    GAP = "gap"  # an earlier unit of this epoch is missing: stop the lane, the planner takes over
    AHEAD = "ahead"  # an epoch the ledger has never had: the target went back in time
    UNCHANGED = "unchanged"  # the row admits the unit after all: try again


@dataclass(frozen=True, slots=True)
class LaneRow:
    """A lane's row in the ledger: fencing epoch, last applied seq, next offset to read of its units."""

    epoch: int
    seq: int
    next_offset: int

    def has_passed(self, epoch: int, seq: int) -> bool:
        """Whether a unit is of an older epoch, or applied."""
        return epoch < self.epoch or (epoch == self.epoch and seq <= self.seq)


@dataclass(frozen=True, slots=True)
class OpenParts:
    """A large transaction that a lane has begun: its epoch, and the run of units taken so far.

    The ledger sees the first and the last seq of the run alone, so a unit missing between them has to be
    noticed here: the target transaction would lack its rows.
    """

    epoch: int
    first_seq: int
    last_seq: int

    def continued_by(self, epoch: int, seq: int) -> bool:
        """Whether (epoch, seq) is the next unit of the run. Of the same epoch and not the next, it is a gap."""
        return epoch == self.epoch and seq == self.last_seq + 1


def judge(row: LaneRow, epoch: int, first_seq: int, last_seq: int) -> Fenced:
    """Return why `row` refused the units first_seq..last_seq of `epoch`: a group is admitted whole or not at all."""
    assert first_seq <= last_seq, "a group's units are in order"
    if epoch < row.epoch:
        return Fenced.STALE
    if epoch > row.epoch:
        return Fenced.AHEAD
    if first_seq <= row.seq:
        return Fenced.STALE
    if first_seq > row.seq + 1:
        return Fenced.GAP
    return Fenced.UNCHANGED


def admits(row: LaneRow, epoch: int, seq: int) -> bool:
    """Whether the next unit `row` accepts is (epoch, seq)."""
    return row.epoch == epoch and row.seq == seq - 1
