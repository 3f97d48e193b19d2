"""Single tables copied anew, at an exact place in the stream of changes.

A short lock keeps writers out of the tables while a snapshot is exported and the log's end is read: every transaction
that wrote to them has its commit record below that end and is in the snapshot, or above it and is not. The rows travel
as one transaction right below that place. Source: PostgreSQL manual, "Snapshot Synchronization Functions".
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator

import psycopg
from psycopg import sql

from connectors.errors import RefusedError
from connectors.postgres.errors import connect, translated
from connectors.postgres.publications import publish, published_tables
from connectors.postgres.replication import lsn_text, parse_lsn
from connectors.postgres.snapshot import copied_rows, table_rows_of, truncates
from connectors.postgres.source_tables import SourceTable, source_tables
from connectors.postgres.types import TEXT_SESSION, local_columns
from connectors.settings import SourceSettings
from pipeline.builder import BatchBuilder
from pipeline.catalogue import TableName
from pipeline.errors import ConfigError, RetriableError
from pipeline.slicing import split
from schemas.change_batch import ChangeBatch, Section

log = logging.getLogger(__name__)
TRY_S = 2.0  # between two attempts to get the lock
# Others that write to the table queue behind the lock while it is waited for.
LOCK_TIMEOUT = "300ms"
MARK = "SELECT pg_logical_emit_message(true, 'headrace', 'copy')"


class TableCopier:
    """Copies the tables that are wanted. Used by the capture's thread."""

    def __init__(self, stream: str, settings: SourceSettings) -> None:
        self._stream = stream
        self._settings = settings
        self._wanted: set[TableName] = set()  # as the target calls them
        self._tried_s = float("-inf")
        self._conn: psycopg.Connection | None = None  # holds the snapshot
        self._tables: list[SourceTable] = []
        self.place: int | None = None  # the copy goes before the first transaction at or beyond it

    def want(self, tables: Collection[TableName]) -> None:
        """Note that these tables, by their names on the target, are to be copied; `begin_if_due` begins."""
        self._wanted |= set(tables)

    def begin_if_due(self, now_s: float) -> None:
        """Take a snapshot of wanted tables, unless one is taken. Tables that others write to are tried again later."""
        if not self._wanted or self.place is not None or now_s - self._tried_s < TRY_S:
            return
        self._tried_s = now_s
        try:
            with connect(self._settings.dsn, f"headrace {self._stream} copy") as conn:
                self._begin(conn)
        except (RetriableError, ConfigError, RefusedError) as error:
            self.give_up()
            log.warning("%s; the copy of tables waits", error)

    def _begin(self, conn: psycopg.Connection) -> None:
        with translated(f"stream {self._stream}: locking tables to copy"), conn.transaction():
            mapping = self._settings.mapping
            tables = [t for t in source_tables(conn, self._settings) if mapping.target_name(t.name) in self._wanted]
            missing = self._wanted - {mapping.target_name(table.name) for table in tables}
            if missing:
                names = ", ".join(sorted(map(".".join, missing)))
                raise ConfigError(f"stream {self._stream}: {names} is not (or no longer) a table of the stream")
            conn.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(LOCK_TIMEOUT)))
            published = published_tables(conn, self._stream)
            for table in tables:
                conn.execute(sql.SQL("LOCK TABLE {} IN SHARE MODE").format(table.rows))
                if table.name not in published:
                    publish(conn, self._stream, table)
            conn.execute(MARK)  # its commit is beyond the place, so the stream gets there even when nobody writes
            row = conn.execute("SELECT pg_current_wal_insert_lsn()::text, pg_export_snapshot()").fetchone()
            if row is None:
                raise AssertionError("a SELECT without FROM has a row")
            self._hold(row[1], tables)
            self.place = parse_lsn(row[0])
        log.info("stream %s: copying %s anew, as of %s", self._stream, self._names(), lsn_text(self.place or 0))

    def _hold(self, snapshot: str, tables: list[SourceTable]) -> None:
        """Open the snapshot in a session of its own, and keep DDL from the tables: it is not bound to snapshots."""
        conn = self._conn = connect(
            self._settings.dsn, f"headrace {self._stream} copy", idle_in_transaction_session_timeout="0",
            lock_timeout=LOCK_TIMEOUT, **TEXT_SESSION,
        )  # fmt: skip
        conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        conn.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot)))
        for table in tables:
            conn.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(table.rows))
        self._tables = tables

    def _names(self) -> str:
        return ", ".join(".".join(table.name) for table in self._tables)

    def with_copy(self, batch: ChangeBatch, keepalive: Callable[[], None]) -> Iterator[ChangeBatch]:
        """Yield `batch`, and the copy at its place in there. `keepalive` is called between the parts of the copy."""
        if self.place is None or not batch.positions or batch.last_position < self.place:
            yield batch
            return
        before, rest = split(batch, bisect_left(batch.positions, self.place))
        if before is not None:
            yield before
        for part in self.batches(rest.generation, rest.previous_position):
            keepalive()
            rest.previous_position = part.last_position
            yield part
        yield rest

    def batches(self, generation: int, previous_position: int) -> Iterator[ChangeBatch]:
        """Yield the copy as the parts of one transaction. Raises RetriableError, ConfigError."""
        if self._conn is None or self.place is None:
            raise AssertionError("no snapshot is taken")
        builder = BatchBuilder(self._stream, generation, previous_position)
        with translated(f"stream {self._stream}: copying {self._names()}"):
            local = local_columns(self._conn, self._tables, every=self._settings.as_text)
            tables = [table_rows_of(self._conn, table, local, self._settings.mapping) for table in self._tables]
            yield _part(builder, self.place, truncates([table.relation for table in tables]))
            for table in tables:
                for section in copied_rows(self._conn, table, self._settings):
                    yield _part(builder, self.place, [section])
        yield _part(builder, self.place, [], last=True)
        self._wanted -= {table.relation.name for table in tables}
        self.give_up()

    def give_up(self) -> None:
        """Let go of the snapshot."""
        if self._conn is not None:
            self._conn.close()
        self._conn, self.place = None, None


def _part(builder: BatchBuilder, place: int, sections: list[Section], *, last: bool = False) -> ChangeBatch:
    """A part of the copy. Commit records begin at multiples of 8, so no transaction has this position."""
    now_us = time.time_ns() // 1000
    builder.begin(place - 1, now_us, 0)
    batch = builder.close("snapshot", 0, now_us, last_part=last)
    batch.sections = sections
    return batch
