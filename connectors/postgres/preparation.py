"""What a target needs to be before the rows of a snapshot, or of a table's copy, come."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from psycopg import sql

from connectors.errors import RefusedError
from connectors.postgres.copy_requests import forget_requests, note_copied
from connectors.postgres.mapping import require_table, table_rows
from connectors.postgres.schema import SchemaFollower
from pipeline.catalogue import Catalogue, TableName, TargetTable
from schemas.change_batch import Relation


def prepare_snapshot(
    conn: psycopg.Connection,
    stream: str,
    schema: SchemaFollower,
    catalogue: Catalogue,
    relations: Sequence[Relation],
    epoch: int,
) -> None:
    """Empty what an unfinished snapshot left, and only in tables that were found empty at its start.

    The ledger forgets what it knew of the source's columns and learns it anew. Raises RefusedError.
    """
    full = False
    schema.forget_all()
    forget_requests(conn, stream)
    names: list[sql.Composable] = []
    for relation in relations:
        rows = table_rows(require_table(relation, catalogue.tables.get(relation.name)))
        schema.follow(relation, catalogue, epoch, 0)
        names.append(rows)
        if conn.execute(sql.SQL("SELECT FROM {} LIMIT 1").format(rows)).fetchone() is None:
            conn.execute(
                "INSERT INTO headrace.snapshot_table VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
                [stream, *relation.name],
            )
        else:
            _check_ours(conn, stream, relation.name)
            full = True
    if full:
        # All in one statement: foreign keys between them would refuse a parent alone.
        conn.execute(sql.SQL("TRUNCATE {}").format(sql.SQL(", ").join(names)))


def empty_for_copy(conn: psycopg.Connection, stream: str, table: TargetTable, position: int) -> None:
    """Empty a table whose copy follows in the same transaction; readers see the old rows until its commit.

    DELETE, since TRUNCATE locks readers out, shows older snapshots an empty table, and fails for a referenced one.
    """
    _check_ours(conn, stream, table.name)
    conn.execute(sql.SQL("DELETE FROM {}").format(table_rows(table)))
    note_copied(conn, stream, table.name, position)


def _check_ours(conn: psycopg.Connection, stream: str, table: TableName) -> None:
    found = conn.execute(
        "SELECT FROM headrace.snapshot_table WHERE stream = %s AND schema_name = %s AND table_name = %s",
        [stream, *table],
    ).fetchone()
    if found is None:
        raise RefusedError(
            f"stream {stream}: table {'.'.join(table)} has rows, and they are not from a snapshot of this "
            'stream; empty it, or start the stream with snapshot = "never"',
            "HR002",
        )
