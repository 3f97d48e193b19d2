"""One lane: a thread that applies its units in order and survives everything but poison.

**Guarantee:** each unit is applied once or refused by the ledger; an offset is reported only after the
target commit.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

from connectors.errors import RefusedError
from connectors.lane import LaneTarget
from pipeline.errors import HeadraceError
from pipeline.merge_limit import MergeLimit
from pipeline.merging import Damage, QueuedUnit, may_follow, transactions_of
from schemas.errors import SchemaError
from schemas.progress import Failure, Progress
from topologies.board import ProgressBoard
from topologies.escalation import Escalation
from topologies.lane_progress import LaneProgress
from topologies.lane_transactions import LaneTransactions
from topologies.letters import LetterBox
from topologies.target_connection import TargetConnection
from topologies.unit_queue import UnitQueue

log = logging.getLogger(__name__)
GROUP_BYTES_MAX = 8 * 1024 * 1024
IDLE_S = 0.1
STALL_S = 0.1  # of progress, before the ledger is asked for it
PARKING_LANE = 0  # where the planner sends what may be parked


class LaneWorker(threading.Thread):
    """Applies the units of one (stream, lane) in `queue`. `connect` opens the target; `publish` sends progress.

    With `letters`, transactions that the target refuses are parked and sent there; without, they stop the stream.
    """

    def __init__(
        self, stream: str, lane: int, connect: Callable[[], LaneTarget], publish: Callable[[Progress], None],
        board: ProgressBoard, merge: MergeLimit, turn: Callable[[int], AbstractContextManager[None]],
        letters: LetterBox | None = None,
    ) -> None:  # fmt: skip
        super().__init__(name=f"{stream}/{lane}", daemon=True)
        self.stream = stream
        self.lane = lane
        self.merge = merge
        self.queue = UnitQueue()
        self.fatal: Exception | None = None
        self._stopping = threading.Event()
        self._board = board
        self._turn = turn
        self._letters = letters if lane == PARKING_LANE else None  # to send again what was not delivered
        self._target = TargetConnection(connect, self._stopping.wait)
        self._progress = LaneProgress(stream, lane, self.queue, board, publish)
        self._transactions = LaneTransactions(stream, lane, self._target, self._progress.alert)
        self._escalation = Escalation(
            self.name, self._target, self._transactions, self._progress, merge, letters, self._stopping
        )

    @property
    def done_offset(self) -> int:
        """Everything before it is applied or refused, hence safe to commit; -1 until something is."""
        return self._transactions.done_offset

    def stop(self) -> None:
        """Ask the thread to end after the commit it is at."""
        self._stopping.set()

    # -- the thread ---------------------------------------------------------------------------

    def run(self) -> None:
        """Apply until stopped or failed; see `fatal`."""
        try:
            while not self._stopping.is_set():
                self._step()
        except (HeadraceError, SchemaError, RefusedError) as error:
            self.fatal = error
        except Exception as error:
            log.exception("lane %s failed", self.name)
            self.fatal = error
        finally:
            self._target.drop()

    def _step(self) -> None:
        unit = self.queue.take(IDLE_S)
        if isinstance(unit, Damage):
            self._skip(unit)
        elif unit is not None:
            self._take_up(unit)
        elif self._transactions.unfinished:
            self._transactions.hold_open()
        elif self._letters is not None:
            self._letters.send(self._target)
        self._progress.repeat_failure(self._transactions.look)

    def _skip(self, damage: Damage) -> None:
        """A record that can't be read may have been a unit: have everything not applied planned again."""
        log.error("lane %s: %s", self.name, damage.text)
        self._progress.fail(self._transactions.look(), Failure(0, "", damage.text, poison=False))

    def _take_up(self, first: QueuedUnit) -> None:
        if self._transactions.drop_old(first) or self._progress.has_failed_in(first.unit.epoch):
            return
        if self._wait(first):
            with self._turn(self.lane):
                self._progress.begin()
                group, limited = self._collect(first)
                self._escalation.apply(group, limited=limited)

    def _wait(self, queued: QueuedUnit) -> bool:
        """Wait for the other lanes; False when the unit turned out to be stale. No transaction is open."""
        unit = queued.unit
        while not self._board.wait(self.stream, unit.epoch, unit.waits, STALL_S):
            if self._stopping.is_set():
                return False
            seqs = self._target.call(lambda target: target.lane_seqs(unit.epoch))
            for lane, seq in seqs.items():
                self._board.note(self.stream, unit.epoch, lane, seq)
            self._transactions.look()
            if self._transactions.drop_old(queued):
                return False
        return True

    def _collect(self, first: QueuedUnit) -> tuple[list[QueuedUnit], bool]:
        """`first` and those behind it that may share its target transaction; whether the limit kept one out."""
        group = [first]
        while (unit := self.queue.take(0)) is not None:
            if isinstance(unit, Damage):
                self.queue.put_back(unit)
                break
            ready = self._board.met(self.stream, unit.unit.epoch, unit.unit.waits)
            if not ready or not may_follow(group, unit, self.merge.limit, GROUP_BYTES_MAX):
                self.queue.put_back(unit)
                return group, ready and transactions_of([*group, unit]) > self.merge.limit
            group.append(unit)
        return group, False
