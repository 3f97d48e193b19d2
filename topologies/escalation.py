"""The ways to apply a group of units, tried one after the other while the target refuses it.

Merged and set-based; each unit by itself and in source order; once more when everything before it is applied. What
is refused even then is left to `pipeline.refusal`.
"""

from __future__ import annotations

import logging
import threading
import time

from connectors.errors import RefusedError, SchemaChangeError
from connectors.failpoints import hit
from connectors.lane import Applied
from pipeline.errors import StreamStoppedError
from pipeline.fence import Fenced, LaneRow
from pipeline.merge_limit import MergeLimit
from pipeline.merging import QueuedUnit, transactions_of
from pipeline.refusal import LastResort, last_resort
from schemas.apply_unit import PARK
from schemas.progress import Failure
from topologies.lane_progress import LaneProgress
from topologies.lane_transactions import LaneTransactions
from topologies.letters import LetterBox
from topologies.target_connection import TargetConnection

log = logging.getLogger(__name__)
HEAD_S = 0.1  # between two looks whether everything before a refused unit is applied
MAPPING_STATES = ("42P01", "42703")  # the target's catalogue, as it was when the lane connected, lacks something


class Escalation:
    """Of one lane, called `name`; used by the lane's thread. Its methods tell whether the lane goes on in its epoch.

    With `letters`, transactions that the target refuses are parked and sent there; without, they stop the stream.
    """

    def __init__(
        self, name: str, target: TargetConnection, transactions: LaneTransactions, progress: LaneProgress,
        merge: MergeLimit, letters: LetterBox | None, stopping: threading.Event,
    ) -> None:  # fmt: skip
        self._name = name
        self._target = target
        self._transactions = transactions
        self._progress = progress
        self._merge = merge
        self._letters = letters
        self._stopping = stopping

    def apply(self, group: list[QueuedUnit], *, limited: bool) -> bool:
        """Apply a group, or report why not; `limited`: the merge limit kept a unit out of it.

        Raises StreamStoppedError for what only an operator can decide.
        """
        if group[0].unit.mode == PARK:
            return self._commit(group, serial=True)
        try:
            applied = self._merged(group, limited=limited)
        except RefusedError as error:
            return self._each_in_order(group, error)
        return self._settled(group, applied)

    def _merged(self, group: list[QueuedUnit], *, limited: bool) -> Applied:
        begun_s = time.monotonic()
        applied = self._transactions.commit(group, serial=False)
        taken_s, now_us = time.monotonic() - begun_s, time.time_ns() // 1000
        self._merge.observe(transactions_of(group), taken_s, now_us, limited=limited)
        return applied

    def _each_in_order(self, group: list[QueuedUnit], error: RefusedError) -> bool:
        if not group[0].batch.whole:
            # The target has tried a part in order, and everything before it is applied: no way is left.
            return self._give_up(group[0], error)
        log.info("lane %s: the target refused a merged group, applying in order: %s", self._name, error)
        if error.sqlstate in MAPPING_STATES:
            self._target.drop()
        # Units that were applied already are refused by the rows they would repeat.
        self._transactions.look()
        return all(self._transactions.drop_old(queued) or self._in_order(queued) for queued in group)

    def _in_order(self, queued: QueuedUnit) -> bool:
        """Row by row in source order; then once more when everything earlier is applied."""
        try:
            return self._commit([queued], serial=True)
        except RefusedError as error:
            log.info("lane %s: refused in order too, retrying at the head: %s", self._name, error)
        if not self._wait_for_head(queued):
            return False
        try:
            return self._commit([queued], serial=True)
        except RefusedError as error:
            return self._give_up(queued, error)

    def _wait_for_head(self, queued: QueuedUnit) -> bool:
        """Wait until everything earlier is applied; False when the lane ends, or the epoch."""
        unit = queued.unit
        wanted = (unit.generation, unit.previous_position)
        while not self._stopping.is_set():
            row = self._target.call(lambda target: target.stream_row())
            if row.epoch != unit.epoch:
                return False
            if (row.generation, row.watermark) >= wanted or unit.previous_position == 0:
                return True
            self._stopping.wait(HEAD_S)
        return False

    def _give_up(self, queued: QueuedUnit, error: RefusedError) -> bool:
        """Park the unit, or leave it to the planner or to an operator."""
        unit, batch = queued.unit, queued.batch
        everybodys = isinstance(error, SchemaChangeError) or error.sqlstate in MAPPING_STATES
        resort = last_resort(queued, may_park=self._letters is not None and not everybodys)
        if resort is LastResort.PARK:
            log.error("lane %s: parking what the target refuses: %s", self._name, error)
            return self._commit([queued], serial=True, park=True)
        poison = resort is LastResort.STOP
        text = f"stream {unit.stream}: the target refuses position {batch.last_position}: {error}"
        failure = Failure(batch.last_position, error.sqlstate, text, poison)
        self._progress.fail(LaneRow(unit.epoch, unit.seq - 1, 0), failure)
        if poison:
            self._target.call(lambda target: target.stop_stream(text))
            raise StreamStoppedError(
                f"{text}. Nothing of this transaction was applied; correct the target or the data, then start again."
            )
        return False

    # -- outcomes ----------------------------------------------------------------------------------

    def _commit(self, group: list[QueuedUnit], *, serial: bool, park: bool = False) -> bool:
        return self._settled(group, self._transactions.commit(group, serial=serial, park=park))

    def _settled(self, group: list[QueuedUnit], applied: Applied) -> bool:
        """Tell the outcome of a target transaction."""
        last = group[-1]
        if applied.fenced is not None:
            return self._fenced(group, applied.fenced)
        if not last.batch.last_part:
            return True
        self._progress.applied(group, applied)
        hit("apply.after_progress")
        if self._letters is not None and (applied.closed or last.unit.mode == PARK):
            self._letters.send(self._target, now=True)
        if applied.closed:
            # What is planned already does not know of the parked keys: the planner takes over from the ledger.
            failure = Failure(0, "", "transactions were parked", poison=False)
            self._progress.fail(LaneRow(last.unit.epoch, last.unit.seq, 0), failure)
        return not applied.closed

    def _fenced(self, group: list[QueuedUnit], fenced: Fenced) -> bool:
        epoch, row = group[-1].unit.epoch, self._transactions.row
        log.info("lane %s: epoch %d seq %d refused: %s", self._name, epoch, group[-1].unit.seq, fenced.value)
        if fenced is Fenced.STALE:
            # The first units or all were applied by someone else: go on with what is left.
            return all(self._transactions.drop_old(one) or self._commit([one], serial=False) for one in group)
        text = f"units before seq {group[0].unit.seq} are missing"
        if fenced is Fenced.UNCHANGED:
            why = self._target.call(lambda target: target.closed_by(epoch))
            text = f"the epoch is closed: {why or 'the target was restarted, and may have lost commits'}"
        if fenced is Fenced.AHEAD:
            text = f"the ledger is at epoch {row.epoch}: the target went back in time (restored from a backup?)"
            log.warning("lane %s: %s; waiting for a planner to take over", self._name, text)
        # No window is to blame (position 0): the planner takes over from the ledger.
        self._progress.fail(LaneRow(epoch, row.seq, 0), Failure(0, "", text, poison=False))
        return False
