"""Partitions that leave a table, detached or dropped: their rows go with them, and no log has that.

Changes travel under the partitioned table's name; `watch` tells of partitions that come with rows.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import psycopg

from connectors.postgres.source_tables import SourceTable
from pipeline.catalogue import TableName

log = logging.getLogger(__name__)
Partitions = Mapping[TableName, Mapping[int, TableName]]  # table -> those of its partitions that have rows, by number
# Read without a lock on any of them: whoever detaches one must not wait for this.
_LEAVES = """
WITH RECURSIVE tree AS (
    SELECT oid AS root, oid FROM pg_class WHERE relkind = 'p' AND NOT relispartition
    UNION ALL
    SELECT tree.root, i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid WHERE NOT i.inhdetachpending
)
SELECT rn.nspname, r.relname, array_agg(l.oid), array_agg(ln.nspname::text), array_agg(l.relname::text)
  FROM tree JOIN pg_class r ON r.oid = tree.root JOIN pg_namespace rn ON rn.oid = r.relnamespace
  JOIN pg_class l ON l.oid = tree.oid AND l.relkind = 'r' JOIN pg_namespace ln ON ln.oid = l.relnamespace
 GROUP BY 1, 2
"""


def read_partitions(conn: psycopg.Connection) -> Partitions:
    """Read them from the catalogue."""
    return {
        (schema, table): dict(zip(numbers, zip(schemas, names, strict=True), strict=True))
        for schema, table, numbers, schemas, names in conn.execute(_LEAVES)
    }


class PartitionWatch:
    """Says once that rows have gone with a partition, of the tables that a stream carries."""

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._before: Partitions = {}

    def look(self, conn: psycopg.Connection, tables: Sequence[SourceTable]) -> None:
        """Compare with the last look; the first has nothing to compare with."""
        now = read_partitions(conn)
        for name in {table.name for table in tables} & now.keys() & self._before.keys():
            for number in self._before[name].keys() - now[name].keys():
                self._tell(name, self._before[name][number])
        self._before = now

    def _tell(self, table: TableName, partition: TableName) -> None:
        name = ".".join(table)
        log.warning(
            "stream %s: the partition %s has left %s; its rows stay on the target: delete them there, or copy all with "
            "`headrace resync --stream %s --table %s --yes`",
            self._stream, ".".join(partition), name, self._stream, name,
        )  # fmt: skip
