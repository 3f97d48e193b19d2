"""What a planner starts from, and what it keeps of each window that it has planned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.catalogue import TableName
from pipeline.relations import Shapes


@dataclass(slots=True)
class Window:
    """One planned change record. `token` is the caller's: it is given back when the window is applied.

    The positions are where the chain stood before and after it. `last_part` says that no large
    transaction was left open then: a planner may start anew behind this record. `record` is kept so that
    the window can be planned again; a part of a large transaction drops it (memory), and can then only
    be read again. `commit_times_us` are those of the transactions that were sent to lanes. `new_schema` says that
    the target's catalogue is another one once the window is applied.
    """

    generation: int
    previous_position: int
    last_position: int
    end_offset: int
    last_part: bool
    token: object
    record: bytes
    units: dict[int, int] = field(default_factory=dict)
    commit_times_us: Sequence[int] = ()
    new_schema: bool = False

    @property
    def commit_time_us(self) -> int:
        """Source commit time of the last transaction, 0 when there is none."""
        return self.commit_times_us[-1] if self.commit_times_us else 0


@dataclass(frozen=True, slots=True)
class Restart:
    """Where a planner starts: from the ledger.

    `applied` holds the positions above the watermark, by generation; `parked` the records of those that are
    dead letters, in order, from this generation on; `shapes` the columns of the source's tables as the target knows
    them, None where the target does not follow schema changes; `superseded` the tables that are to be copied
    anew, or were at a position above the watermark.
    """

    epoch: int
    generation: int
    watermark: int
    applied: dict[int, frozenset[int]]
    parked: Sequence[bytes] = ()
    shapes: Shapes | None = None
    superseded: Mapping[TableName, int | None] = field(default_factory=dict)
