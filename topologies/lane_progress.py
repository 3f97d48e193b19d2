"""What a lane tells others: its own process through the board, all others through progress records."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from connectors.lane import Applied
from pipeline.fence import LaneRow
from pipeline.merging import QueuedUnit, transactions_of
from pipeline.stages import stage_lags
from schemas.progress import Failure, Progress
from topologies.board import ProgressBoard
from topologies.unit_queue import UnitQueue

REPEAT_S = 1.0  # a failure is reported until the planner has heard of it


class LaneProgress:
    """Sends one lane's progress by `publish`, which may lose it. Used by the lane's thread."""

    def __init__(
        self, stream: str, lane: int, queue: UnitQueue, board: ProgressBoard, publish: Callable[[Progress], None]
    ) -> None:
        self._stream = stream
        self._lane = lane
        self._queue = queue
        self._board = board
        self._publish = publish
        self._begun_us = 0
        self._failure: Progress | None = None  # as reported
        self._due_s = 0.0

    def begin(self) -> None:
        """The waits of a group are met and its work begins. A failure was of an earlier epoch."""
        self._begun_us = time.time_ns() // 1000
        self._failure = None

    def applied(self, group: Sequence[QueuedUnit], applied: Applied) -> None:
        """Tell of a target transaction that was committed just now."""
        last = group[-1]
        now_us = time.time_ns() // 1000
        transactions = 0 if last.batch.kind == "snapshot" else transactions_of(group)  # as the ledger counts
        self._board.note(self._stream, last.unit.epoch, self._lane, last.unit.seq)
        self._publish(Progress(
            self._stream, last.unit.generation, self._lane, last.unit.epoch, last.unit.seq, last.batch.last_position,
            last.batch.commit_times_us[-1], now_us, transactions, applied.rows,
            len(self._queue), stage_lags(group, self._begun_us, now_us),
        ))  # fmt: skip

    def alert(self, row: LaneRow, text: str) -> None:
        """Tell people of a fault that may pass."""
        self._publish(self._trouble(row, alert=text))

    # -- failures ----------------------------------------------------------------------------------

    def fail(self, row: LaneRow, failure: Failure) -> None:
        """Tell the planner that the lane does nothing more in the row's epoch."""
        self._failure = self._trouble(row, failure=failure)
        self._due_s = time.monotonic() + REPEAT_S
        self._publish(self._failure)

    def has_failed_in(self, epoch: int) -> bool:
        """Whether the lane does nothing more in `epoch`."""
        return self._failure is not None and epoch <= self._failure.epoch

    def repeat_failure(self, look: Callable[[], LaneRow]) -> None:
        """Report a failure again, until the lane's row, which `look` reads, says that another epoch has begun."""
        if self._failure is None or time.monotonic() < self._due_s:
            return
        self._due_s = time.monotonic() + REPEAT_S
        if self.has_failed_in(look().epoch):
            self._publish(self._failure)
        else:
            self._failure = None

    def _trouble(self, row: LaneRow, *, failure: Failure | None = None, alert: str = "") -> Progress:
        """Nothing was applied: a failure for the planner, or an alert for people."""
        now_us = time.time_ns() // 1000
        return Progress(
            self._stream, 0, self._lane, row.epoch, row.seq, 0, 0, now_us, 0, 0, len(self._queue),
            failure=failure, alert=alert,
        )  # fmt: skip
