"""What an operator wants copied anew, in the ledger: single tables, or the stream as a whole.

A row in `headrace.table_copy` says that what the stream has of the table is superseded until its copy. The target
transaction that has the copy writes its position there, and the row goes once the watermark has passed that: until
then a planner that starts again reads changes from before the copy once more. `sent` says that Kafka has the copy.
A row in `headrace.resync` has the next capture begin a new snapshot of all tables.
"""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from connectors.postgres.catalogue import table_exists
from connectors.postgres.letters import close_epoch
from pipeline.catalogue import TableName
from pipeline.errors import ConfigError
from pipeline.table_copies import TableCopy

DDL = """
CREATE TABLE IF NOT EXISTS headrace.table_copy (
    stream text NOT NULL, schema_name text NOT NULL, table_name text NOT NULL,
    sent boolean NOT NULL DEFAULT false,
    position bigint,
    requested_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (stream, schema_name, table_name)
);
"""
_ONE = "stream = %s AND schema_name = %s AND table_name = %s"


def request_copies(conn: psycopg.Connection, stream: str, tables: Sequence[TableName]) -> None:
    """Ask for copies and close the epoch, in the caller's transaction. Raises ConfigError.

    Units that are planned already hold changes of the tables; the next epoch's planner leaves them out. The stream's
    row is locked, so that no takeover misses the request.
    """
    row = conn.execute(
        "SELECT s.generation FROM headrace.stream s WHERE s.stream = %s AND NOT EXISTS"
        " (SELECT FROM headrace.resync r WHERE r.stream = s.stream) FOR UPDATE OF s", [stream],
    ).fetchone()  # fmt: skip
    if row is None or row[0] == 0:
        raise ConfigError(f"stream {stream}: its snapshot has not begun yet, and will copy all tables")
    _allow_emptying(conn, stream, tables)
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO headrace.table_copy VALUES (%s, %s, %s)"
            " ON CONFLICT (stream, schema_name, table_name) DO UPDATE SET sent = false, position = NULL",
            [(stream, *name) for name in tables],
        )
    close_epoch(conn, stream, f"tables are to be copied anew: {', '.join(map('.'.join, tables))}")


def superseded_tables(conn: psycopg.Connection, stream: str) -> dict[TableName, int | None]:
    """The tables whose copy the watermark has not passed: its position, None where it is not applied."""
    rows = conn.execute("SELECT schema_name, table_name, position FROM headrace.table_copy WHERE stream = %s", [stream])
    return {(schema, table): position for schema, table, position in rows}


def requested_copies(conn: psycopg.Connection, stream: str) -> list[TableName]:
    """The tables whose copy is neither in Kafka nor applied; none in a ledger that never had any."""
    return [copy.table for copy in table_copies(conn, stream) if not copy.sent and copy.position is None]


def table_copies(conn: psycopg.Connection, stream: str) -> list[TableCopy]:
    """All copies that are not done with, in the order of their requests; none in a ledger that never had any."""
    if not table_exists(conn, ("headrace", "table_copy")):
        return []
    rows = conn.execute(
        "SELECT schema_name, table_name, sent, position FROM headrace.table_copy WHERE stream = %s"
        " ORDER BY requested_at, schema_name, table_name",
        [stream],
    )
    return [TableCopy((schema, table), sent, position) for schema, table, sent, position in rows]


def note_sent(conn: psycopg.Connection, stream: str, tables: Sequence[TableName]) -> None:
    """Note that Kafka has the copies."""
    with conn.cursor() as cursor:
        cursor.executemany(f"UPDATE headrace.table_copy SET sent = true WHERE {_ONE}", [(stream, *t) for t in tables])


def note_copied(conn: psycopg.Connection, stream: str, table: TableName, position: int) -> None:
    """The caller's transaction has the copy."""
    conn.execute(f"UPDATE headrace.table_copy SET position = %s WHERE {_ONE}", [position, stream, *table])


def forget_copies(conn: psycopg.Connection, stream: str, watermark: int) -> None:
    """Nothing from before these copies will be read again."""
    conn.execute("DELETE FROM headrace.table_copy WHERE stream = %s AND position <= %s", [stream, watermark])


def forget_requests(conn: psycopg.Connection, stream: str) -> None:
    """A new snapshot copies all tables."""
    conn.execute("DELETE FROM headrace.table_copy WHERE stream = %s", [stream])


def request_resync(conn: psycopg.Connection, stream: str, tables: Sequence[TableName], changes_offset: int) -> int:
    """Forget progress and dead letters and ask for a new snapshot, in the caller's transaction; see `Ledger`."""
    conn.execute(
        "UPDATE headrace.stream SET generation = 0, watermark = 0, watermark_time_us = 0, changes_offset = %s,"
        " stopped = '' WHERE stream = %s",
        [changes_offset, stream],
    )
    # A planner that was about to start, unseen, may have begun an epoch: nothing of it counts.
    conn.execute("DELETE FROM headrace.incarnation WHERE stream = %s", [stream])
    conn.execute("DELETE FROM headrace.applied WHERE stream = %s", [stream])
    forget_requests(conn, stream)
    letters = conn.execute("DELETE FROM headrace.parked WHERE stream = %s", [stream]).rowcount
    _allow_emptying(conn, stream, tables)
    conn.execute("INSERT INTO headrace.resync VALUES (%s) ON CONFLICT DO NOTHING", [stream])
    return letters


def resync_requested(conn: psycopg.Connection, stream: str) -> bool:
    """Whether a new snapshot is wanted; not in a ledger that was never asked for one."""
    if not table_exists(conn, ("headrace", "resync")):
        return False
    return conn.execute("SELECT FROM headrace.resync WHERE stream = %s", [stream]).rowcount > 0


def clear_resync(conn: psycopg.Connection, stream: str) -> None:
    """The new snapshot has begun."""
    conn.execute("DELETE FROM headrace.resync WHERE stream = %s", [stream])


def _allow_emptying(conn: psycopg.Connection, stream: str, tables: Sequence[TableName]) -> None:
    """The operator has said so: whatever rows these tables have, a copy may take their place."""
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO headrace.snapshot_table VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
            [(stream, *name) for name in tables],
        )
