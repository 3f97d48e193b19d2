"""One lane's connection to a PostgreSQL target.

**Guarantee:** a group's data, its positions and its lane row are one commit, and the lane row admits each
(epoch, seq) once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import psycopg
from psycopg import pq, sql

from connectors.errors import RefusedError, SchemaChangeError
from connectors.failpoints import hit
from connectors.lane import Applied, UnitGroup
from connectors.ledger import StreamRow
from connectors.postgres.catalogue import read_catalogue
from connectors.postgres.errors import connect, place, translated
from connectors.postgres.mapping import require_table
from connectors.postgres.ordered import RowWriter
from connectors.postgres.pipelined import Statement, StatementPipeline
from connectors.postgres.preparation import empty_for_copy, prepare_snapshot
from connectors.postgres.schema import SchemaFollower
from connectors.postgres.setbased import SESSION, SetWriter
from connectors.postgres.tolerant import Anomalies, TolerantWriter
from connectors.settings import TargetSettings
from pipeline.errors import RetriableError
from pipeline.fence import LaneRow, admits, judge
from pipeline.netchange import Unmergeable, net_change
from pipeline.relations import changes_of
from pipeline.tables_graph import apply_ranks, cyclic_tables
from schemas.change_batch import TRUNCATE, ChangeBatch, Relation
from schemas.errors import SchemaError
from schemas.packed import pack

# Below this many rows a pipeline of single-row statements (2 round trips) beats COPY (2 a table and more).
ROW_BY_ROW_MAX = 64

_FENCE = (
    b"UPDATE headrace.lane SET seq = $1::int8, next_offset = $2::int8, transactions = transactions + $3::int8,"
    b" rows = rows + $4::int8 WHERE stream = $5::text AND lane = $6::int8 AND epoch = $7::int8 AND seq = $8::int8"
    b" AND EXISTS (SELECT FROM headrace.incarnation i WHERE i.stream = $5::text AND i.epoch = $7::int8)"
)
_APPLIED = b"INSERT INTO headrace.applied VALUES ($1::text, $2::int8, $3::int8, $4::int8, $5::bytea)"
# A frozen process can also stop in the middle of a COPY, which no limit of its session ends. Whoever opens a
# lane has been given it, so a session of the same lane that waits for its client is left from before.
STUCK_S = 5.0
_END_FROZEN = """
SELECT pg_terminate_backend(o.pid, 1000) FROM pg_stat_activity o
  JOIN pg_stat_activity s ON s.pid = pg_backend_pid()
   AND (o.application_name, o.datname, o.usename) = (s.application_name, s.datname, s.usename)
 WHERE o.pid <> s.pid AND o.xact_start IS NOT NULL AND o.wait_event = 'ClientRead'
   AND o.state_change < now() - make_interval(secs => %s)
"""
DAMAGED = "HR003"  # the sqlstate of rows that can't be read
_RANK_MAX = 2**31
_BEGIN = Statement(b"BEGIN", [], [])
DEFER = Statement(b"SET CONSTRAINTS ALL DEFERRED", [], [])
CHECK = Statement(b"SET CONSTRAINTS ALL IMMEDIATE", [], [])
_TEXT = {"DateStyle": "ISO", "IntervalStyle": "postgres", "lc_monetary": "C"}  # how the source writes text
# A frozen process must not keep rows locked for long after its session in the consumer group ended (6 s).
_LIMITS = {
    "idle_in_transaction_session_timeout": "10s", "tcp_keepalives_idle": "5", "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3", "tcp_user_timeout": "15s",
}  # fmt: skip


class PostgresLane:
    """See `connectors.lane.LaneTarget`."""

    def __init__(self, stream: str, lane: int, settings: TargetSettings) -> None:
        self._stream = stream
        self._lane = lane
        self._where = f"stream {stream}, lane {lane}: target {place(settings.dsn)}"
        self._conn = connect(
            settings.dsn, f"headrace {stream} lane {lane}",
            synchronous_commit=settings.synchronous_commit, **_LIMITS, **_TEXT, **SESSION,
        )  # fmt: skip
        with translated(f"{self._where}: ending frozen sessions"):
            self._conn.execute(_END_FROZEN, [STUCK_S])
        # psycopg answers a ROLLBACK with DEALLOCATE ALL once it has prepared anything: the pipeline prepares.
        self._conn.prepare_threshold = None
        self._enforced = settings.session_replication_role == "origin"
        with translated(f"{self._where}: preparing the session"):
            self._conn.execute(
                sql.SQL("SET session_replication_role = {}").format(sql.Literal(settings.session_replication_role))
            )
            self._settings = settings
            self._anomalies = Anomalies()  # of the open transaction
            self._pipeline = StatementPipeline(self._conn)
            self._schema = SchemaFollower(self._conn, stream, settings)
            self._read_catalogue()
        self._part_rows = 0

    def _read_catalogue(self) -> None:
        """Learn the target's tables, and what the ledger knows of the source's, as they are now."""
        self._schema.load()
        catalogue = self._catalogue = read_catalogue(self._conn)
        deferrable = self._conn.execute("SELECT FROM pg_constraint WHERE condeferrable LIMIT 1").fetchone()
        # What the source could defer, or check at the end of a statement, the target checks at the end.
        self._begin = [_BEGIN, DEFER] if self._enforced and deferrable is not None else [_BEGIN]
        self._cyclic = cyclic_tables(catalogue) if self._enforced else set()
        ranks = apply_ranks(catalogue)
        self._sets = SetWriter(self._conn, self._pipeline, catalogue, ranks, enforced=self._enforced)
        self._rows = RowWriter(self._conn, self._pipeline, catalogue, enforced=self._enforced)
        self._tolerant = TolerantWriter(self._rows, self._pipeline, self._settings)

    def lane_row(self) -> LaneRow:
        """Read the lane's row."""
        with translated(f"{self._where}: reading the ledger"):
            row = self._conn.execute(
                "SELECT epoch, seq, next_offset FROM headrace.lane WHERE stream = %s AND lane = %s",
                [self._stream, self._lane],
            ).fetchone()
        if row is None:
            raise RetriableError(f"{self._where}: the ledger has no row for this lane yet; has the planner started?")
        return LaneRow(*row)

    def lane_seqs(self, epoch: int) -> dict[int, int]:
        """Read the applied seq of all lanes in `epoch`."""
        with translated(f"{self._where}: reading the ledger"):
            rows = self._conn.execute(
                "SELECT lane, seq FROM headrace.lane WHERE stream = %s AND epoch = %s", [self._stream, epoch]
            ).fetchall()
        return dict(rows)

    def stream_row(self) -> StreamRow:
        """Read the stream's row."""
        with translated(f"{self._where}: reading the ledger"):
            row = self._conn.execute(
                "SELECT epoch, generation, watermark, watermark_time_us, changes_offset, stopped"
                " FROM headrace.stream WHERE stream = %s",
                [self._stream],
            ).fetchone()
        if row is None:
            raise RetriableError(f"{self._where}: the ledger has no row for this stream yet")
        return StreamRow(*row)

    def apply(self, group: UnitGroup) -> Applied:
        """Apply and commit; see `connectors.lane.LaneTarget`."""
        rows = 0 if _is_preparation(group) else sum(batch.rows() for batch in group.batches)
        self._refresh(group)
        if self._schema.has_news(group.batches) and not _is_preparation(group):
            if group.serial:
                return self._apply_changed(group, rows)
            self._schema.require_known(group.batches, self._catalogue)
        if _is_preparation(group) or (rows > ROW_BY_ROW_MAX and not group.serial):
            return self._apply_by(group, rows, lambda: self._write(group.batches, group.epoch))
        try:
            return self._apply_rows(group, rows)
        except RefusedError as refusal:
            # One statement of the source may have changed rows that are in each other's way one by one.
            try:
                return self._apply_by(group, rows, lambda: self._write(group.batches, group.epoch, deletes_last=True))
            except RefusedError:
                if self._tolerant.active:
                    return self._apply_by(group, rows, lambda: self._write_in_order(group.batches))
                raise refusal from None

    def _apply_by(self, group: UnitGroup, rows: int, write: Callable[[], Applied]) -> Applied:
        with self._transaction(f"applying {extent(group)}", group.epoch):
            if not self._begin_fenced(group, rows):
                return self._refused(group)
            applied = write()
            self._pipeline.run([self._positions(group)])
            self._end()
            self._sets.forget()
            return applied

    def _apply_rows(self, group: UnitGroup, rows: int) -> Applied:
        with self._transaction(f"applying {extent(group)}"):
            self._roll_back_unfinished()
            changes = list(self._rows.changes(group.batches))
            head = [*self._begin, self._fence(group, rows), self._positions(group)]
            counts = self._pipeline.run([*head, *(change.statement for change in changes)])
            if counts[len(self._begin)] != 1:
                return self._refused(group)
            self._rows.check(changes, counts[len(head) :])
            self._end()
            return Applied(rows=len(changes))

    def _refresh(self, group: UnitGroup) -> None:
        """Read what another lane has changed, where this one knows nothing of it. No transaction is open."""
        if self._schema.stale or (self._schema.has_news(group.batches) and not _is_preparation(group)):
            with translated(f"{self._where}: reading the target's catalogue"):
                self._roll_back_unfinished()
                self._read_catalogue()

    def _apply_changed(self, group: UnitGroup, rows: int) -> Applied:
        """Apply in source order, and change the target's tables where the source's were changed."""
        return self._apply_by(
            group, rows, lambda: Applied(sum(self._write_changed(batch, group.epoch) for batch in group.batches))
        )

    def _write_changed(self, batch: ChangeBatch, epoch: int) -> int:
        """Write a batch in order, each row into the table as it is from its place on; returns the rows."""
        done = start = 0
        for rank, relation in changes_of(batch, self._schema.shapes):
            done += self._write_in_order([batch], range(start, rank)).rows
            start = rank
            if self._schema.follow(relation, self._catalogue, epoch, batch.last_position):
                self._read_catalogue()
        return done + self._write_in_order([batch], range(start, _RANK_MAX)).rows

    def apply_part(self, group: UnitGroup, *, first: bool) -> Applied:
        """Apply a part and leave the transaction open; the last part goes through `apply_last`."""
        with self._transaction(f"applying a part of {extent(group)}", group.epoch):
            if first:
                self._roll_back_unfinished()
                self._refresh(group)
                self._pipeline.run(self._begin)
                self._part_rows = 0
            self._require_begun()
            # Looked at, not locked: a planner that takes over must not wait for parts that never come.
            if not admits(self.lane_row(), group.epoch, group.first_seq):
                return self._refused(group)
            applied = self._write_part(group)
            self._part_rows += applied.rows
            return applied

    def apply_last(self, group: UnitGroup) -> Applied:
        """Apply the last part of a large transaction and commit all of it."""
        with self._transaction(f"applying the end of {extent(group)}", group.epoch):
            self._require_begun()
            applied = Applied(self._part_rows + self._write_part(group).rows)
            if self._pipeline.run([self._fence(group, applied.rows)])[0] != 1:
                return self._refused(group)
            self._pipeline.run([self._positions(group)])
            self._end()
            self._sets.forget()
            return applied

    def _begin_fenced(self, group: UnitGroup, rows: int) -> bool:
        self._roll_back_unfinished()
        return self._pipeline.run([*self._begin, self._fence(group, rows)])[-1] == 1

    def _end(self) -> None:
        if self._anomalies.missing or self._anomalies.existing:
            self._conn.execute(
                "UPDATE headrace.lane SET missing_rows = missing_rows + %s, existing_rows = existing_rows + %s"
                " WHERE stream = %s AND lane = %s",
                [self._anomalies.missing, self._anomalies.existing, self._stream, self._lane],
            )
            self._anomalies = Anomalies()
        self._schema.note_first_seen()
        hit("apply.before_commit")
        self._conn.execute("COMMIT")
        hit("apply.after_commit")

    def _require_begun(self) -> None:
        if self._conn.info.transaction_status == pq.TransactionStatus.IDLE:
            raise RetriableError(f"{self._where}: the transaction of the earlier parts is gone; reading them again")

    def _write_part(self, group: UnitGroup) -> Applied:
        """Write a part set-based; what is refused so, in order. Earlier parts of the transaction stay."""
        batches = group.batches
        if any(batch.table_copy and _has_truncate(batch) for batch in batches):
            self._begin_copy([section.relation for batch in batches for section in batch.sections], group)
            return Applied()
        if self._schema.has_news(batches):
            return Applied(sum(self._write_changed(batch, group.epoch) for batch in batches))
        self._conn.execute("SAVEPOINT headrace_part")
        try:
            with translated(f"{self._where}: applying a part", applying=True):
                applied = self._write(batches, group.epoch)
        except RefusedError:
            self._conn.execute("ROLLBACK TO SAVEPOINT headrace_part")
            self._sets.rolled_back()
            applied = self._write_in_order(batches)
        self._conn.execute("RELEASE SAVEPOINT headrace_part")
        return applied

    def _begin_copy(self, relations: Sequence[Relation], group: UnitGroup) -> None:
        """Empty tables that are copied anew, with the columns that their rows will have."""
        position = group.batches[0].last_position
        for relation in relations:
            self._schema.forget_replaced(relation)
            if self._schema.follow(relation, self._catalogue, group.epoch, position):
                self._read_catalogue()
        for relation in relations:
            table = require_table(relation, self._catalogue.tables.get(relation.name))
            empty_for_copy(self._conn, self._stream, table, position)

    def _write_in_order(self, batches: Sequence[ChangeBatch], ranks: range | None = None) -> Applied:
        if self._tolerant.active:
            return Applied(self._tolerant.write(batches, self._anomalies, ranks))
        changes = list(self._rows.changes(batches, ranks))
        return Applied(self._rows.check(changes, self._pipeline.run(change.statement for change in changes)))

    def _write(self, batches: Sequence[ChangeBatch], epoch: int, *, deletes_last: bool = False) -> Applied:
        """Write the batches set-based, or in order where merging can't be right."""
        if any(batch.kind == "snapshot" and _has_truncate(batch) for batch in batches):
            relations = [section.relation for batch in batches for section in batch.sections]
            prepare_snapshot(self._conn, self._stream, self._schema, self._catalogue, relations, epoch)
            return Applied()
        try:
            tables = net_change(batches)
            if not deletes_last and any(table.relation.name in self._cyclic for table in tables):
                raise Unmergeable("rows reference rows of the same table")
        except Unmergeable:
            return self._write_in_order(batches)
        rows, missing = self._sets.apply(tables, deletes_last=deletes_last)
        if missing:
            raise RefusedError(f"{self._where}: {missing} rows to update or delete were not there", "HR001")
        return Applied(rows)

    def _fence(self, group: UnitGroup, rows: int) -> Statement:
        # The parts of a snapshot have positions, and are no transactions of the source.
        count = sum(len(batch.positions) for batch in group.batches if batch.kind == "live")
        numbers = [group.last_seq, group.next_offset, count, rows]
        parameters = [str(n).encode() for n in numbers] + [self._stream.encode()]
        parameters += [str(n).encode() for n in (self._lane, group.epoch, group.first_seq - 1)]
        return Statement(_FENCE, parameters, [0] * len(parameters))

    def _positions(self, group: UnitGroup) -> Statement:
        positions = b"".join([pack(batch.positions) for batch in group.batches])
        head = (self._stream, group.generation, group.batches[-1].last_position, self._lane)
        return Statement(_APPLIED, [*(str(value).encode() for value in head), positions], [0, 0, 0, 0, 1])

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
                    self._schema.note_refusal(error.relation, epoch)
                if isinstance(error, SchemaError):
                    raise RefusedError(f"{self._where}: {doing}: {error}", DAMAGED) from error
                raise

    def _roll_back_unfinished(self) -> None:
        """Give up a large transaction that the capture or another planner has begun anew."""
        if self._conn.info.transaction_status != pq.TransactionStatus.IDLE:
            self._roll_back()

    def _roll_back(self) -> None:
        self._sets.rolled_back()
        self._schema.rolled_back()
        self._anomalies = Anomalies()
        if self._conn.info.transaction_status != pq.TransactionStatus.IDLE:
            self._conn.execute("ROLLBACK")

    def stop_stream(self, reason: str) -> None:
        """Write the reason into the stream's ledger row."""
        with translated(f"{self._where}: stopping"):
            self._conn.execute("UPDATE headrace.stream SET stopped = %s WHERE stream = %s", [reason, self._stream])

    def close(self) -> None:
        """Drop the connection."""
        self._conn.close()


def _is_preparation(group: UnitGroup) -> bool:
    return any(batch.kind == "snapshot" and _has_truncate(batch) for batch in group.batches)


def _has_truncate(batch: ChangeBatch) -> bool:
    return any(TRUNCATE in section.ops for section in batch.sections)


def extent(group: UnitGroup) -> str:
    return f"positions {group.batches[0].positions[0]}..{group.batches[-1].last_position} (seq {group.last_seq})"
