"""One lane: a thread that applies its units in order and survives everything but poison.

**Guarantee:** each unit is applied once or refused by the ledger; an offset is reported only after the
target commit.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

from connectors.errors import RefusedError, SchemaChangeError
from connectors.failpoints import hit
from connectors.lane import Applied, LaneTarget, UnitGroup
from pipeline.errors import HeadraceError, RetriableError, StreamStoppedError
from pipeline.fence import Fenced, LaneRow
from pipeline.merge_limit import MergeLimit
from pipeline.merging import Damage, QueuedUnit, may_follow, transactions_of
from schemas.apply_unit import PARK, SERIAL
from schemas.errors import SchemaError
from schemas.progress import Failure, Progress
from topologies.board import ProgressBoard
from topologies.lane_progress import applied_report, trouble_report
from topologies.letters import LetterBox
from topologies.target_connection import TargetConnection

log = logging.getLogger(__name__)
QUEUED_UNITS_MAX = 256  # then the lane's partition is paused; what one read of the consumer holds may still come
QUEUED_BYTES_MAX = 32 * 1024 * 1024
GROUP_BYTES_MAX = 8 * 1024 * 1024
IDLE_S = 0.1
STALL_S = 0.1
HOLD_S = 2.0  # between two signs of life of a large transaction that waits for its next part
REPEAT_S = 1.0  # a failure is reported until the planner has heard of it
MAPPING_STATES = ("42P01", "42703")  # the target's catalogue, as it was when the lane connected, lacks something
PARKING_LANE = 0  # where the planner sends what may be parked


class LaneWorker(threading.Thread):
    """Applies the units of one (stream, lane). `connect` opens the target; `publish` sends progress.

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
        self.fatal: Exception | None = None
        self.done_offset = -1  # everything before it is applied or refused; safe to commit
        self._bytes_in = 0  # each is written by one thread
        self._bytes_out = 0
        self._stopping = threading.Event()
        self._publish = publish
        self._letters = letters
        self._board = board
        self.merge = merge
        self._turn = turn
        self._limited = False  # the limit kept the next unit out of the group at work
        self._queue: queue.SimpleQueue[QueuedUnit | Damage] = queue.SimpleQueue()
        self._ahead: QueuedUnit | Damage | None = None
        self._target = TargetConnection(connect, self._stopping.wait)
        self._row = LaneRow(0, 0, 0)
        self._failure: Progress | None = None  # as reported; units of its epoch are dropped
        self._open: tuple[int, int] | None = None  # epoch and first seq of a large transaction that has begun
        self._due_s = 0.0
        self._begun_us = 0  # when the waits of the group at work were met

    # -- called by the consuming thread ----------------------------------------------------------

    def put(self, unit: QueuedUnit | Damage) -> None:
        """Queue a unit. The caller pauses the partition while `full`."""
        self._bytes_in += unit.size
        self._queue.put(unit)

    @property
    def full(self) -> bool:
        """Whether the caller should stop reading this lane's partition."""
        units, size = self.queued
        return units >= QUEUED_UNITS_MAX or size >= QUEUED_BYTES_MAX

    @property
    def queued(self) -> tuple[int, int]:
        """Units and bytes in the queue."""
        return self._queue.qsize(), self._bytes_in - self._bytes_out

    def stop(self) -> None:
        """Ask the thread to end after the commit it is at."""
        self._stopping.set()

    # -- the thread ---------------------------------------------------------------------------

    def run(self) -> None:
        """Apply until stopped or failed; see `fatal`."""
        try:
            while not self._stopping.is_set():
                unit = self._take(IDLE_S)
                if isinstance(unit, Damage):
                    self._skip(unit)
                elif unit is not None:
                    self._take_up(unit)
                elif self._open is not None:
                    self._hold_open()
                elif self._letters is not None and self.lane == PARKING_LANE:
                    self._letters.send(self._target)
                if self._failure is not None:
                    self._repeat_failure(self._failure)
        except (HeadraceError, SchemaError, RefusedError) as error:
            self.fatal = error
        except Exception as error:
            log.exception("lane %s failed", self.name)
            self.fatal = error
        finally:
            self._target.drop()

    def _take(self, timeout_s: float) -> QueuedUnit | Damage | None:
        if self._ahead is not None:
            unit, self._ahead = self._ahead, None
            return unit
        try:
            unit = self._queue.get(timeout=timeout_s) if timeout_s else self._queue.get_nowait()
        except queue.Empty:
            return None
        self._bytes_out += unit.size
        return unit

    def _take_up(self, first: QueuedUnit) -> None:
        if self._is_old(first):
            self.done_offset = first.offset + 1
            return
        if self._failure is not None:
            if first.unit.epoch <= self._failure.epoch:
                return
            self._failure = None
        if not self._wait(first):
            return
        with self._turn(self.lane):
            self._begun_us = time.time_ns() // 1000
            if first.unit.mode == PARK:
                self._settled([first], self._commit([first], serial=True))
            else:
                self._apply(self._collect(first))

    def _collect(self, first: QueuedUnit) -> list[QueuedUnit]:
        """`first` and the units behind it that may share its target transaction."""
        group, self._limited = [first], False
        while (unit := self._take(0)) is not None:
            if isinstance(unit, Damage):
                self._ahead = unit
                break
            ready = self._board.met(self.stream, unit.unit.epoch, unit.unit.waits)
            if not ready or not may_follow(group, unit, self.merge.limit, GROUP_BYTES_MAX):
                self._ahead = unit
                self._limited = ready and transactions_of([*group, unit]) > self.merge.limit
                break
            group.append(unit)
        return group

    def _is_old(self, queued: QueuedUnit) -> bool:
        unit = queued.unit
        return unit.epoch < self._row.epoch or (unit.epoch == self._row.epoch and unit.seq <= self._row.seq)

    def _wait(self, queued: QueuedUnit) -> bool:
        """Wait for the other lanes; False when the unit turned out to be stale. No transaction is open."""
        unit = queued.unit
        while not self._board.wait(self.stream, unit.epoch, unit.waits, STALL_S):
            if self._stopping.is_set():
                return False
            seqs = self._target.call(lambda target: target.lane_seqs(unit.epoch))
            for lane, seq in seqs.items():
                self._board.note(self.stream, unit.epoch, lane, seq)
            self._row = self._target.call(lambda target: target.lane_row())
            if self._is_old(queued):
                self.done_offset = queued.offset + 1
                return False
        return True

    def _apply(self, group: list[QueuedUnit]) -> None:
        begun_s = time.monotonic()
        try:
            applied = self._commit(group, serial=False)
            taken_s, now_us = time.monotonic() - begun_s, time.time_ns() // 1000
            self.merge.observe(transactions_of(group), taken_s, now_us, limited=self._limited)
        except RefusedError as error:
            if not group[0].batch.whole:
                # The target has tried a part in order, and everything before it is applied: no way is left.
                self._report_failure(group[0], error)
                return
            log.info("lane %s: the target refused a merged group, applying in order: %s", self.name, error)
            if error.sqlstate in MAPPING_STATES:
                self._target.drop()
            # Units that were applied already are refused by the rows they would repeat.
            self._row = self._target.call(lambda target: target.lane_row())
            for queued in group:
                if self._is_old(queued):
                    self.done_offset = queued.offset + 1
                elif not self._apply_alone(queued):
                    return
        else:
            self._settled(group, applied)

    def _apply_alone(self, queued: QueuedUnit) -> bool:
        """Row by row in source order; then once more when everything earlier is applied."""
        try:
            return self._settled([queued], self._commit([queued], serial=True))
        except RefusedError as error:
            log.info("lane %s: refused in order too, retrying at the head: %s", self.name, error)
        if not self._wait_for_head(queued):
            return False
        try:
            return self._settled([queued], self._commit([queued], serial=True))
        except RefusedError as error:
            self._report_failure(queued, error)
            return False

    def _wait_for_head(self, queued: QueuedUnit) -> bool:
        unit = queued.unit
        wanted = (unit.generation, unit.previous_position)
        while not self._stopping.is_set():
            row = self._target.call(lambda target: target.stream_row())
            if row.epoch != unit.epoch:
                return False
            if (row.generation, row.watermark) >= wanted or unit.previous_position == 0:
                return True
            time.sleep(STALL_S)
        return False

    def _report_failure(self, queued: QueuedUnit, error: RefusedError) -> None:
        """Ask the planner for a serial window; a serial unit that fails is poison and stops the stream."""
        unit, batch = queued.unit, queued.batch
        if self._may_park(queued, error):
            log.error("lane %s: parking what the target refuses: %s", self.name, error)
            self._settled([queued], self._commit([queued], serial=True, park=True))
            return
        poison = unit.mode == SERIAL or not batch.whole or batch.kind == "snapshot"
        text = f"stream {self.stream}: the target refuses position {batch.last_position}: {error}"
        self._fail([queued], unit.seq - 1, Failure(batch.last_position, error.sqlstate, text, poison))
        if poison:
            self._target.call(lambda target: target.stop_stream(text))
            raise StreamStoppedError(
                f"{text}. Nothing of this transaction was applied; correct the target or the data, then start again."
            )

    def _may_park(self, queued: QueuedUnit, error: RefusedError) -> bool:
        """Of what stops the stream otherwise, whole transactions; not what every transaction would meet."""
        if self._letters is None or queued.unit.mode != SERIAL or error.sqlstate in MAPPING_STATES:
            return False
        if isinstance(error, SchemaChangeError):
            return False
        return queued.batch.whole and queued.batch.kind == "live"

    def _fail(self, group: list[QueuedUnit], seq: int, failure: Failure) -> None:
        """Report a failure, and do nothing more in this epoch."""
        row = LaneRow(group[-1].unit.epoch, seq, 0)
        self._failure = trouble_report(self.stream, self.lane, row, self._queue.qsize(), failure=failure)
        self._due_s = time.monotonic() + REPEAT_S
        self._publish(self._failure)

    def _skip(self, damage: Damage) -> None:
        """A record that can't be read may have been a unit: have everything not applied planned again."""
        log.error("lane %s: %s", self.name, damage.text)
        self._row = self._target.call(lambda target: target.lane_row())
        self._due_s = time.monotonic() + REPEAT_S
        failure = Failure(0, "", damage.text, poison=False)
        self._failure = trouble_report(self.stream, self.lane, self._row, self._queue.qsize(), failure=failure)
        self._publish(self._failure)

    def _repeat_failure(self, failure: Progress) -> None:
        """Progress may be lost: report again until another epoch has begun."""
        if time.monotonic() < self._due_s:
            return
        self._due_s = time.monotonic() + REPEAT_S
        row = self._target.call(lambda target: target.lane_row())
        if row.epoch > failure.epoch:
            self._row, self._failure = row, None
        else:
            self._publish(failure)

    def _hold_open(self) -> None:
        """Keep a large transaction open between its parts, since the server ends idle ones; or give it up.

        Raises RetriableError when it is lost: its parts have to be read again.
        """
        if self._open is None or time.monotonic() < self._due_s:
            return
        self._due_s = time.monotonic() + HOLD_S
        row = self._target.open().lane_row()
        if row.epoch != self._open[0]:
            self._row, self._open = row, None
            self._target.drop()

    def _commit(self, group: list[QueuedUnit], *, serial: bool, park: bool = False) -> Applied:
        """Apply a group; on a lost connection read the lane row and decide. Raises RefusedError."""
        last = group[-1]
        attempt = 0
        while True:
            try:
                return self._call_target(self._unit_group(group, serial=serial), last, park=park)
            except RetriableError as error:
                log.warning("%s; reading the ledger to see whether it was committed", error)
                self._publish(trouble_report(self.stream, self.lane, self._row, self._queue.qsize(), alert=str(error)))
                self._target.drop()
                self._target.back_off(attempt, error)
                attempt += 1
                self._row = self._target.call(lambda target: target.lane_row())
                if self._row.epoch != last.unit.epoch:
                    return Applied(fenced=Fenced.STALE)
                if self._is_old(last):
                    return Applied()
                if not last.batch.whole:
                    raise

    def _call_target(self, group: UnitGroup, last: QueuedUnit, *, park: bool) -> Applied:
        target, batch = self._target.open(), last.batch
        begun = self._open if self._open is not None and self._open[0] == group.epoch else None
        if begun is not None:
            # Parts that came before belong to the same target transaction, or were given up by the capture.
            group = replace(group, first_seq=begun[1])
        elif batch.part > 0:
            raise RetriableError(f"lane {self.name}: a part of a large transaction came without its beginning")
        elif not batch.whole:
            self._open = (group.epoch, group.first_seq)
        if not batch.last_part:
            return target.apply_part(group, first=batch.part == 0)
        if last.unit.mode == PARK:
            applied = target.park(group)
        elif park:
            applied = target.apply_or_park(group)
        else:
            applied = target.apply(group) if batch.whole else target.apply_last(group)
        self._open = None
        return applied

    def _unit_group(self, group: list[QueuedUnit], *, serial: bool) -> UnitGroup:
        first, last = group[0].unit, group[-1].unit
        return UnitGroup(
            self.stream, last.generation, self.lane, last.epoch, first.seq, last.seq, group[-1].offset + 1,
            [queued.batch for queued in group], serial=serial or first.mode == SERIAL, behind=last.behind,
        )  # fmt: skip

    def _settled(self, group: list[QueuedUnit], applied: Applied) -> bool:
        """Note the outcome; whether the lane goes on in this epoch."""
        last = group[-1]
        if applied.fenced is not None:
            return self._fenced(group, applied.fenced)
        if not last.batch.last_part:
            return True
        self._row = LaneRow(last.unit.epoch, last.unit.seq, last.offset + 1)
        self.done_offset = last.offset + 1
        self._board.note(self.stream, last.unit.epoch, self.lane, last.unit.seq)
        self._publish(
            applied_report(self.stream, self.lane, group, applied, self._queue.qsize(), begun_us=self._begun_us)
        )
        hit("apply.after_progress")
        if self._letters is not None and (applied.closed or last.unit.mode == PARK):
            self._letters.send(self._target, now=True)
        if applied.closed:
            # What is planned already does not know of the parked keys: the planner takes over from the ledger.
            self._fail(group, last.unit.seq, Failure(0, "", "transactions were parked", poison=False))
        return not applied.closed

    def _fenced(self, group: list[QueuedUnit], fenced: Fenced) -> bool:
        last = group[-1]
        self._open = None
        self._row = self._target.call(lambda target: target.lane_row())
        log.info("lane %s: epoch %d seq %d refused: %s", self.name, last.unit.epoch, last.unit.seq, fenced.value)
        if fenced is Fenced.STALE:
            return self._apply_rest(group)
        text = f"units before seq {group[0].unit.seq} are missing"
        if fenced is Fenced.UNCHANGED:
            why = self._target.call(lambda target: target.closed_by(last.unit.epoch))
            text = f"the epoch is closed: {why or 'the target was restarted, and may have lost commits'}"
        if fenced is Fenced.AHEAD:
            text = f"the ledger is at epoch {self._row.epoch}: the target went back in time (restored from a backup?)"
            log.warning("lane %s: %s; waiting for a planner to take over", self.name, text)
        # No window is to blame (position 0): the planner takes over from the ledger.
        self._fail(group, self._row.seq, Failure(0, "", text, poison=False))
        return False

    def _apply_rest(self, group: list[QueuedUnit]) -> bool:
        """A group of which the first units or all were applied by someone else: go on with what is left."""
        for queued in group:
            if self._is_old(queued):
                self.done_offset = queued.offset + 1
            elif not self._settled([queued], self._commit([queued], serial=False)):
                return False
        return True
