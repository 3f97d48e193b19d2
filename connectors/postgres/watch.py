"""Tables, and partitions of tables, that appear at the source while a stream runs."""

from __future__ import annotations

import logging

import psycopg

from connectors.errors import RefusedError
from connectors.postgres.errors import connect, translated
from connectors.postgres.partitions import PartitionWatch
from connectors.postgres.publications import publish_if_empty, published_tables, take_attached
from connectors.postgres.source_tables import SourceTable, source_tables
from connectors.settings import SourceSettings
from pipeline.catalogue import TableName
from pipeline.errors import ConfigError, RetriableError

log = logging.getLogger(__name__)
LOOK_S = 3.0


class TableWatch:
    """Has a stream carry the new tables that its patterns choose, from their first row on.

    A table that has rows when it is found would come without them: it is left out, and that is said once.
    """

    def __init__(self, stream: str, settings: SourceSettings) -> None:
        self._stream = stream
        self._settings = settings
        self._conn: psycopg.Connection | None = None
        self._looked_s = float("-inf")
        self._left_out: set[TableName] = set()
        self._partitions = PartitionWatch(stream)

    def carried(self, conn: psycopg.Connection, tables: list[SourceTable]) -> list[SourceTable]:
        """The tables that a stream which goes on can carry: those it did, and new ones without rows."""
        self._tell_attached(conn)
        before = published_tables(conn, self._stream)
        return [table for table in tables if table.name in before or self._adopt(conn, table)]

    def look_if_due(self, now_s: float) -> None:
        """Look for new tables every few seconds. A source that is away is no matter here."""
        if now_s - self._looked_s < LOOK_S:
            return
        first, self._looked_s = self._looked_s == float("-inf"), now_s
        if first:
            return
        try:
            if self._conn is None or self._conn.closed:
                self._conn = connect(self._settings.dsn, f"headrace {self._stream} tables")
            with translated(f"stream {self._stream}: looking for new tables"):
                tables = source_tables(self._conn, self._settings)
                self.carried(self._conn, tables)
                self._partitions.look(self._conn, tables)
        except (RetriableError, ConfigError, RefusedError) as error:
            log.debug("%s", error)

    def _tell_attached(self, conn: psycopg.Connection) -> None:
        for table, root in take_attached(conn, self._stream, self._left_out):
            self._left_out.discard(table)
            partition, name = ".".join(table), ".".join(root)
            log.warning(
                "stream %s: table %s is a partition of %s now, and the rows that it had before are in no log of %s: "
                "attach it on the target too, or copy all with `headrace resync --stream %s --table %s --yes`",
                self._stream, partition, name, name, self._stream, name,
            )  # fmt: skip

    def _adopt(self, conn: psycopg.Connection, table: SourceTable) -> bool:
        name = ".".join(table.name)
        try:
            published = publish_if_empty(conn, self._stream, table)
        except (ConfigError, RetriableError, RefusedError) as error:
            if conn.closed or conn.broken:
                raise
            log.warning("%s; it is NOT replicated yet", error)  # somebody writes to it, or we may not
            return False
        if published:
            log.info("stream %s: the new table %s is replicated from now on", self._stream, name)
            return True
        if table.name in self._left_out:
            return False
        self._left_out.add(table.name)
        log.warning(
            "stream %s: the new table %s has rows already and is NOT replicated yet; copy it with `headrace resync "
            "--stream %s --table %s --yes` (its name on the target), or exclude it",
            self._stream, name, self._stream, name,
        )  # fmt: skip
        return False

    def close(self) -> None:
        """Drop the connection."""
        if self._conn is not None:
            self._conn.close()
