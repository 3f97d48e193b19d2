"""How the data of a unit gets into the target's tables, inside a transaction that the lane begins and ends.

Set-based where that is right, else row by row in source order; in source order too where a table has changed its
columns on the way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import psycopg

from connectors.errors import RefusedError
from connectors.postgres.catalogue import read_catalogue
from connectors.postgres.errors import translated
from connectors.postgres.mapping import require_table
from connectors.postgres.ordered import RowWriter
from connectors.postgres.pipelined import Statement, StatementPipeline
from connectors.postgres.preparation import empty_for_copy, prepare_snapshot
from connectors.postgres.schema import SchemaFollower
from connectors.postgres.setbased import SetWriter
from connectors.postgres.steps import Steps
from connectors.postgres.tolerant import Anomalies, TolerantWriter
from connectors.settings import TargetSettings
from pipeline.netchange import Unmergeable, net_change
from pipeline.relations import changes_of
from pipeline.slicing import select
from pipeline.tables_graph import apply_ranks, cyclic_tables
from schemas.change_batch import ChangeBatch, Relation
from schemas.errors import SchemaError

_RANK_MAX = 2**31
BEGIN = Statement(b"BEGIN", [], [])
DEFER = Statement(b"SET CONSTRAINTS ALL DEFERRED", [], [])
CHECK = Statement(b"SET CONSTRAINTS ALL IMMEDIATE", [], [])


class UnitWriter:
    """The ways to write, as the target's catalogue and the ledger's columns of the source's tables have them.

    `begin` is how a transaction begins; `anomalies` are those of the open one. What writes returns the rows that
    the batches mean, and raises driver errors and RefusedError.
    """

    def __init__(
        self, conn: psycopg.Connection, pipeline: StatementPipeline, stream: str, settings: TargetSettings, where: str
    ) -> None:
        self._conn = conn
        self._pipeline = pipeline
        self._stream = stream
        self._settings = settings
        self._where = where
        self._enforced = settings.session_replication_role == "origin"
        self.schema = SchemaFollower(conn, stream, settings)
        self.anomalies = Anomalies()
        self.load()

    def load(self) -> None:
        """Learn the target's tables, and what the ledger knows of the source's, as they are now."""
        self.schema.load()
        catalogue = self.catalogue = read_catalogue(self._conn)
        deferrable = self._conn.execute("SELECT FROM pg_constraint WHERE condeferrable LIMIT 1").fetchone()
        # What the source could defer, or check at the end of a statement, the target checks at the end.
        self.begin = [BEGIN, DEFER] if self._enforced and deferrable is not None else [BEGIN]
        self._cyclic = cyclic_tables(catalogue) if self._enforced else set()
        ranks = apply_ranks(catalogue)
        self._sets = SetWriter(self._conn, catalogue, ranks, enforced=self._enforced)
        self.rows = RowWriter(self._conn, self._pipeline, catalogue, enforced=self._enforced)
        self.tolerant = TolerantWriter(self.rows, self._pipeline, self._settings)

    def write(self, batches: Sequence[ChangeBatch], epoch: int, steps: Steps, *, deletes_last: bool = False) -> int:
        """Write the batches set-based, or in order where merging can't be right. The caller finishes `steps`."""
        if begins_snapshot(batches):
            steps.flush()
            prepare_snapshot(self._conn, self._stream, self.schema, self.catalogue, _relations(batches), epoch)
            return 0
        return self._write_merged(batches, steps, deletes_last=deletes_last)

    def _write_merged(self, batches: Sequence[ChangeBatch], steps: Steps, *, deletes_last: bool) -> int:
        try:
            tables = net_change(batches)
            if not deletes_last and any(table.relation.name in self._cyclic for table in tables):
                raise Unmergeable("rows reference rows of the same table")
        except Unmergeable:
            return self.write_in_order(batches, steps=steps)
        self._sets.apply(tables, steps, deletes_last=deletes_last)
        return sum(table.rows for table in tables)

    def write_in_order(
        self, batches: Sequence[ChangeBatch], ranks: range | None = None, *, steps: Steps | None = None
    ) -> int:
        """Write the batches (of the given ranks) row by row, under the policies for missing and existing rows.

        What waits in `steps` goes first.
        """
        if steps is not None:
            steps.flush()
        if self.tolerant.active:
            return self.tolerant.write(batches, self.anomalies, ranks)
        changes = list(self.rows.changes(batches, ranks))
        return self.rows.check(changes, self._pipeline.run(change.statement for change in changes))

    def write_each(self, batches: Sequence[ChangeBatch], steps: Steps) -> int:
        """Write source transaction by source transaction, each in order or, where that is refused, set-based."""
        steps.flush()
        return sum(self.write_one(select(batch, [tx])) for batch in batches for tx in range(len(batch.positions)))

    def write_one(self, batch: ChangeBatch) -> int:
        """Write a source transaction in order or, where that is refused, set-based; nothing of it stays if both are."""
        doing = f"{self._where}: applying position {batch.last_position}"
        try:
            with self.whole(), translated(doing, applying=True):
                return self.write_in_order([batch])
        except RefusedError as refusal:
            try:
                with self.whole(), translated(doing, applying=True):
                    steps = Steps(self._pipeline, doing)
                    rows = self._write_merged([batch], steps, deletes_last=True)
                    steps.finish()
                    return rows
            except RefusedError:
                raise refusal from None

    @contextmanager
    def whole(self) -> Iterator[None]:
        """A savepoint: of a block that is refused nothing stays, nor of what it has counted."""
        before = replace(self.anomalies)
        self._conn.execute("SAVEPOINT headrace_whole")
        try:
            yield
        except (RefusedError, SchemaError):
            self._conn.execute("ROLLBACK TO SAVEPOINT headrace_whole")
            self._sets.rolled_back()
            self.anomalies = before
            raise
        self._conn.execute("RELEASE SAVEPOINT headrace_whole")

    def write_changed(self, batches: Sequence[ChangeBatch], epoch: int, steps: Steps | None = None) -> int:
        """Write in source order, and change the target's tables where the source's were changed.

        What waits in `steps` goes first.
        """
        if steps is not None:
            steps.flush()
        return sum(self._write_following(batch, epoch) for batch in batches)

    def _write_following(self, batch: ChangeBatch, epoch: int) -> int:
        """Write a batch in order, each row into the table as it is from its place on."""
        done = start = 0
        for rank, relation in changes_of(batch, self.schema.shapes):
            done += self.write_in_order([batch], range(start, rank))
            start = rank
            if self.schema.follow(relation, self.catalogue, epoch, batch.last_position):
                self.load()
        return done + self.write_in_order([batch], range(start, _RANK_MAX))

    def write_part(self, batches: Sequence[ChangeBatch], epoch: int) -> int:
        """Write a part set-based; what is refused so, in order. Earlier parts of the transaction stay."""
        if any(batch.table_copy and batch.truncates for batch in batches):
            self._begin_copy(_relations(batches), epoch, batches[0].last_position)
            return 0
        if self.schema.has_news(batches):
            return self.write_changed(batches, epoch)
        self._conn.execute("SAVEPOINT headrace_part")
        try:
            with translated(f"{self._where}: applying a part", applying=True):
                steps = Steps(self._pipeline, self._where)
                rows = self.write(batches, epoch, steps)
                steps.finish()
        except RefusedError:
            self._conn.execute("ROLLBACK TO SAVEPOINT headrace_part")
            self._sets.rolled_back()
            rows = self.write_in_order(batches)
        self._conn.execute("RELEASE SAVEPOINT headrace_part")
        return rows

    def _begin_copy(self, relations: Sequence[Relation], epoch: int, position: int) -> None:
        """Empty tables that are copied anew, with the columns that their rows will have."""
        for relation in relations:
            self.schema.forget_replaced(relation)
            if self.schema.follow(relation, self.catalogue, epoch, position):
                self.load()
        for relation in relations:
            table = require_table(relation, self.catalogue.tables.get(relation.name))
            empty_for_copy(self._conn, self._stream, table, position)

    def committed(self) -> None:
        """Note that the transaction is committed."""
        self._sets.forget()
        self.anomalies = Anomalies()

    def rolled_back(self) -> None:
        """Note that the transaction is rolled back."""
        self._sets.rolled_back()
        self.schema.rolled_back()
        self.anomalies = Anomalies()


def begins_snapshot(batches: Sequence[ChangeBatch]) -> bool:
    """Whether the batches prepare the tables of a snapshot, and hold no rows."""
    return any(batch.kind == "snapshot" and batch.truncates for batch in batches)


def _relations(batches: Sequence[ChangeBatch]) -> list[Relation]:
    return [section.relation for batch in batches for section in batch.sections]
