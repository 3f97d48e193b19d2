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
