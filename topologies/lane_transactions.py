"""The target transactions of one lane, and where the ledger says that the lane is.

**Guarantee:** a commit of which the outcome is unknown is never tried again before the ledger was read; an offset
is told only once everything before it is applied or refused.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from connectors.lane import Applied, LaneTarget, UnitGroup
from pipeline.errors import RetriableError
from pipeline.fence import Fenced, LaneRow, OpenParts
from pipeline.merging import QueuedUnit
from schemas.apply_unit import PARK, SERIAL
from topologies.target_connection import TargetConnection

log = logging.getLogger(__name__)
HOLD_S = 2.0  # between two signs of life of a large transaction that waits for its next part


class LaneTransactions:
    """Used by the lane's thread; `done_offset` may be read by others. `alert` tells people of a lost connection.

    `row` is the lane's ledger row as last seen. `done_offset` is safe to commit: it is -1 until something is done.
    """

    def __init__(self, stream: str, lane: int, target: TargetConnection, alert: Callable[[LaneRow, str], None]) -> None:
        self.row = LaneRow(0, 0, 0)
        self.done_offset = -1
        self._stream = stream
        self._lane = lane
        self._target = target
        self._alert = alert
        self._open: OpenParts | None = None  # a large transaction that has begun
        self._hold_due_s = 0.0

    def look(self) -> LaneRow:
        """Read the lane's row."""
        self.row = self._target.call(lambda target: target.lane_row())
        return self.row

    def drop_old(self, queued: QueuedUnit) -> bool:
        """Whether the ledger has passed the unit, which is done then.

        A planner that was replaced may send units between the parts of a large transaction of the next.
        """
        unit, begun = queued.unit, self._open
        if begun is None and self.row.has_passed(unit.epoch, unit.seq):
            self.done_offset = queued.offset + 1
        return self.row.has_passed(unit.epoch, unit.seq) or (begun is not None and unit.epoch < begun.epoch)

    # -- commits -----------------------------------------------------------------------------------

    def commit(self, group: Sequence[QueuedUnit], *, serial: bool, park: bool = False) -> Applied:
        """Apply `group` as one target transaction; `park` keeps what is refused as dead letters.

        Parts of a large transaction but the last leave it open. Raises RefusedError; RetriableError when the lane
        ends, or when the parts have to be read again.
        """
        last = group[-1]
        applied = self._known_outcome(self._unit_group(group, serial=serial), last, park=park)
        if applied.fenced is not None:
            self._open = None
            self.look()
        elif last.batch.last_part:
            self.row = LaneRow(last.unit.epoch, last.unit.seq, last.offset + 1)
            self.done_offset = last.offset + 1
        return applied

    def _unit_group(self, group: Sequence[QueuedUnit], *, serial: bool) -> UnitGroup:
        first, last = group[0].unit, group[-1].unit
        return UnitGroup(
            self._stream, last.generation, self._lane, last.epoch, first.seq, last.seq, group[-1].offset + 1,
            [queued.batch for queued in group], serial=serial or first.mode == SERIAL, behind=last.behind,
        )  # fmt: skip

    def _known_outcome(self, group: UnitGroup, last: QueuedUnit, *, park: bool) -> Applied:
        attempt = 0
        while True:
            try:
                return self._call_target(group, last, park=park)
            except RetriableError as error:
                applied = self._look_after(error, attempt, last)
            if applied is not None:
                return applied
            attempt += 1

    def _look_after(self, error: RetriableError, attempt: int, last: QueuedUnit) -> Applied | None:
        """What the ledger says of a group whose commit has failed; None to try again."""
        log.warning("%s; reading the ledger to see whether it was committed", error)
        self._alert(self.row, str(error))
        self._target.drop()
        self._target.back_off(attempt, error)
        row = self.look()
        if row.epoch != last.unit.epoch:
            return Applied(fenced=Fenced.STALE)
        if row.has_passed(last.unit.epoch, last.unit.seq):
            return Applied()
        if not last.batch.whole:
            raise error
        return None

    def _call_target(self, group: UnitGroup, last: QueuedUnit, *, park: bool) -> Applied:
        target, batch = self._target.open(), last.batch
        if self._open is not None and self._open.epoch == group.epoch:
            if not self._open.continued_by(group.epoch, group.first_seq):
                self._target.drop()
                return Applied(fenced=Fenced.GAP)
            # Of the same target transaction; or of another one, where a capture that starts anew has given it up.
            group = replace(group, first_seq=self._open.first_seq)
        elif batch.part > 0:
            where = f"lane {self._stream}/{self._lane}"
            raise RetriableError(f"{where}: a part of a large transaction came without its beginning")
        if not batch.last_part:
            applied = target.apply_part(group, first=batch.part == 0)
            self._open = OpenParts(group.epoch, group.first_seq, group.last_seq)
            return applied
        applied = self._apply_whole(target, group, last, park=park)
        self._open = None
        return applied

    def _apply_whole(self, target: LaneTarget, group: UnitGroup, last: QueuedUnit, *, park: bool) -> Applied:
        if last.unit.mode == PARK:
            return target.park(group)
        if park:
            return target.apply_or_park(group)
        return target.apply(group) if last.batch.whole else target.apply_last(group)

    # -- large transactions ------------------------------------------------------------------------

    @property
    def unfinished(self) -> bool:
        """Whether a large transaction is open and waits for its next part."""
        return self._open is not None

    def hold_open(self) -> None:
        """Keep a large transaction open between its parts, since the server ends idle ones; or give it up.

        Raises RetriableError when it is lost: its parts have to be read again.
        """
        if self._open is None or time.monotonic() < self._hold_due_s:
            return
        self._hold_due_s = time.monotonic() + HOLD_S
        row = self._target.open().lane_row()
        if row.epoch != self._open.epoch:
            self.row, self._open = row, None
            self._target.drop()
