"""One lane's connection to a PostgreSQL target.

**Guarantee:** a group's data, its positions and its lane row are one commit, and the lane row admits each
(epoch, seq) once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
from psycopg import pq

from connectors.errors import RefusedError, SchemaChangeError
from connectors.failpoints import hit
from connectors.lane import Applied, UnitGroup
from connectors.ledger import StreamRow
from connectors.postgres.errors import place, translated
from connectors.postgres.lane_ledger import LaneLedger
from connectors.postgres.lane_session import open_session
from connectors.postgres.pipelined import StatementPipeline
from connectors.postgres.steps import NotAdmittedError, Steps
from connectors.postgres.unit_writer import UnitWriter, begins_snapshot
from connectors.settings import TargetSettings
from pipeline.errors import RetriableError
from pipeline.fence import LaneRow, admits, judge
from schemas.errors import SchemaError

# Below this many rows a pipeline of single-row statements takes no more than one of arrays.
ROW_BY_ROW_MAX = 64
DAMAGED = "HR003"  # the sqlstate of rows that can't be read
NO_LANE = -1  # a session of its own beside those of the lanes


class PostgresLane:
    """See `connectors.lane.LaneTarget`."""

    def __init__(self, stream: str, lane: int, settings: TargetSettings) -> None:
        self._stream = stream
        who = "dead letters" if lane == NO_LANE else f"lane {lane}"
        self._where = f"stream {stream}, {who}: target {place(settings.dsn)}"
        self._conn = open_session(stream, who, settings, self._where)
        self._ledger = LaneLedger(self._conn, stream, lane, self._where)
        self._pipeline = StatementPipeline(self._conn)
        with translated(f"{self._where}: preparing the session"):
            self._writer = UnitWriter(self._conn, self._pipeline, stream, settings, self._where)
        self._part_rows = 0

    def lane_row(self) -> LaneRow:
        """Read the lane's row."""
        return self._ledger.lane_row()

    def closed_by(self, epoch: int) -> str | None:
        """What closed `epoch`."""
        return self._ledger.closed_by(epoch)

    def lane_seqs(self, epoch: int) -> dict[int, int]:
        """Read the applied seq of all lanes in `epoch`."""
        return self._ledger.lane_seqs(epoch)

    def stream_row(self) -> StreamRow:
        """Read the stream's row."""
        return self._ledger.stream_row()

    def apply(self, group: UnitGroup) -> Applied:
        """Apply and commit; see `connectors.lane.LaneTarget`."""
        writer, batches = self._writer, group.batches
        preparation = begins_snapshot(batches)
        rows = 0 if preparation else sum(batch.rows() for batch in batches)
        self._refresh(group)
        if not preparation and writer.schema.has_news(batches):
            if group.serial:
                return self._apply_by(group, rows, lambda steps: writer.write_changed(batches, group.epoch, steps))
            writer.schema.require_known(batches, writer.catalogue)
        if preparation or (rows > ROW_BY_ROW_MAX and not group.serial):
            return self._apply_by(group, rows, lambda steps: writer.write(batches, group.epoch, steps))
        try:
            return self._apply_rows(group, rows)
        except RefusedError:
            # One statement of the source may have changed rows that are in each other's way one by one.
            try:
                return self._apply_by(
                    group, rows, lambda steps: writer.write(batches, group.epoch, steps, deletes_last=True)
                )
            except RefusedError:
                return self._apply_by(group, rows, lambda steps: writer.write_each(batches, steps))

    def _apply_by(self, group: UnitGroup, rows: int, write: Callable[[Steps], int]) -> Applied:
        with self._transaction(f"applying {extent(group)}", group.epoch):
            steps = self._fenced_steps(group, rows)
            try:
                applied = Applied(write(steps))
                steps.finish()
            except NotAdmittedError:
                return self._refused(group)
            self._end()
            return applied

    def _apply_rows(self, group: UnitGroup, rows: int) -> Applied:
        """Begin, fence and write in one pipeline, a statement a row."""
        writer = self._writer
        with self._transaction(f"applying {extent(group)}"):
            changes = list(writer.rows.changes(group.batches))
            try:
                counts = self._fenced_steps(group, rows).run(change.statement for change in changes)
            except NotAdmittedError:
                return self._refused(group)
            writer.rows.check(changes, counts)
            self._end()
            return Applied(rows=len(changes))

    def _fenced_steps(self, group: UnitGroup, rows: int) -> Steps:
        """The beginning of the group's transaction, and its ledger entries."""
        self._roll_back_unfinished()
        steps = Steps(self._pipeline, self._where)
        for statement in self._writer.begin:
            steps.add(statement)
        steps.add_fence(self._ledger.fence(group, rows))
        steps.add(self._ledger.positions(group))
        return steps

    def _refresh(self, group: UnitGroup) -> None:
        """Read what another lane has changed, where this one knows nothing of it. No transaction is open."""
        schema = self._writer.schema
        if schema.stale or (schema.has_news(group.batches) and not begins_snapshot(group.batches)):
            with translated(f"{self._where}: reading the target's catalogue"):
                self._roll_back_unfinished()
                self._writer.load()

    def apply_part(self, group: UnitGroup, *, first: bool) -> Applied:
        """Apply a part and leave the transaction open; the last part goes through `apply_last`."""
        with self._transaction(f"applying a part of {extent(group)}", group.epoch):
            if first:
                self._roll_back_unfinished()
                self._refresh(group)
                self._pipeline.run(self._writer.begin)
                self._part_rows = 0
            self._require_begun()
            # Looked at, not locked: a planner that takes over must not wait for parts that never come.
            if not admits(self.lane_row(), group.epoch, group.first_seq):
                return self._refused(group)
            applied = Applied(self._writer.write_part(group.batches, group.epoch))
            self._part_rows += applied.rows
            return applied

    def apply_last(self, group: UnitGroup) -> Applied:
        """Apply the last part of a large transaction and commit all of it."""
        with self._transaction(f"applying the end of {extent(group)}", group.epoch):
            self._require_begun()
            applied = Applied(self._part_rows + self._writer.write_part(group.batches, group.epoch))
            if self._pipeline.run([self._ledger.fence(group, applied.rows)])[0] != 1:
                return self._refused(group)
            self._pipeline.run([self._ledger.positions(group)])
            self._end()
            return applied

    def _begin_fenced(self, group: UnitGroup, rows: int) -> bool:
        self._roll_back_unfinished()
        return self._pipeline.run([*self._writer.begin, self._ledger.fence(group, rows)])[-1] == 1

    def _end(self) -> None:
        self._ledger.add(self._writer.anomalies)
        self._writer.schema.note_first_seen()
        hit("apply.before_commit")
        self._conn.execute("COMMIT")
        hit("apply.after_commit")
        self._writer.committed()

    def _require_begun(self) -> None:
        if self._conn.info.transaction_status == pq.TransactionStatus.IDLE:
            raise RetriableError(f"{self._where}: the transaction of the earlier parts is gone; reading them again")

    def _refused(self, group: UnitGroup) -> Applied:
        self._roll_back()
        return Applied(fenced=judge(self.lane_row(), group.epoch, group.first_seq, group.last_seq))

    @contextmanager
    def _transaction(self, doing: str, epoch: int = 0) -> Iterator[None]:
        """Translate driver errors of the block and leave no failed transaction behind."""
        with translated(f"{self._where}: {doing}", applying=True):
            try:
                yield
            except (psycopg.Error, RefusedError, SchemaError) as error:
                if not self._conn.closed and not self._conn.broken:
                    self._roll_back()
                if isinstance(error, SchemaChangeError):
                    self._writer.schema.note_refusal(error.relation, epoch)
                if isinstance(error, SchemaError):
                    raise RefusedError(f"{self._where}: {doing}: {error}", DAMAGED) from error
                raise

    def _roll_back_unfinished(self) -> None:
        """Give up a large transaction that the capture or another planner has begun anew."""
        if self._conn.info.transaction_status != pq.TransactionStatus.IDLE:
            self._roll_back()

    def _roll_back(self) -> None:
        self._writer.rolled_back()
        if self._conn.info.transaction_status != pq.TransactionStatus.IDLE:
            self._conn.execute("ROLLBACK")

    def stop_stream(self, reason: str) -> None:
        """Write the reason into the stream's ledger row."""
        self._ledger.stop_stream(reason)

    def close(self) -> None:
        """Drop the connection."""
        self._conn.close()


def extent(group: UnitGroup) -> str:
    return f"positions {group.batches[0].positions[0]}..{group.batches[-1].last_position} (seq {group.last_seq})"
