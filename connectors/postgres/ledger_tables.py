"""The tables of the ledger: schema `headrace` in the target, made before a stream starts, removed with the last one."""

from __future__ import annotations

import psycopg
from psycopg import sql

from connectors.ledger import StreamRow
from connectors.postgres.copy_requests import DDL as COPIES_DDL
from connectors.postgres.letters import DDL as LETTERS_DDL
from connectors.postgres.letters import DISCARDED_DDL
from schemas.apply_unit import LANES_MAX

_DDL = """
CREATE SCHEMA IF NOT EXISTS headrace;
CREATE TABLE IF NOT EXISTS headrace.stream (
    stream text PRIMARY KEY,
    epoch bigint NOT NULL,
    generation bigint NOT NULL,
    watermark bigint NOT NULL,
    watermark_time_us bigint NOT NULL,
    changes_offset bigint NOT NULL,
    stopped text NOT NULL DEFAULT '',
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS headrace.lane (
    stream text NOT NULL REFERENCES headrace.stream ON DELETE CASCADE,
    lane int NOT NULL,
    epoch bigint NOT NULL,
    seq bigint NOT NULL,
    next_offset bigint NOT NULL,
    transactions bigint NOT NULL DEFAULT 0,
    rows bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (stream, lane)
) WITH (fillfactor = 20);
CREATE TABLE IF NOT EXISTS headrace.applied (
    stream text NOT NULL,
    generation bigint NOT NULL,
    last_position bigint NOT NULL,
    lane int NOT NULL,
    positions bytea NOT NULL,
    PRIMARY KEY (stream, generation, last_position, lane)
);
ALTER TABLE headrace.applied ALTER COLUMN positions SET STORAGE EXTERNAL;
CREATE TABLE IF NOT EXISTS headrace.snapshot_table (
    stream text NOT NULL, schema_name text NOT NULL, table_name text NOT NULL,
    PRIMARY KEY (stream, schema_name, table_name)
);
CREATE TABLE IF NOT EXISTS headrace.relation (
    stream text NOT NULL, schema_name text NOT NULL, table_name text NOT NULL,
    columns text NOT NULL,
    PRIMARY KEY (stream, schema_name, table_name)
);
CREATE TABLE IF NOT EXISTS headrace.refused_change (
    stream text NOT NULL, schema_name text NOT NULL, table_name text NOT NULL,
    columns text NOT NULL,
    epoch bigint NOT NULL,
    PRIMARY KEY (stream, schema_name, table_name)
);
CREATE UNLOGGED TABLE IF NOT EXISTS headrace.incarnation (stream text PRIMARY KEY, epoch bigint NOT NULL);
"""
_LATER_DDL = """
ALTER TABLE headrace.lane ADD COLUMN IF NOT EXISTS missing_rows bigint NOT NULL DEFAULT 0;
ALTER TABLE headrace.lane ADD COLUMN IF NOT EXISTS existing_rows bigint NOT NULL DEFAULT 0;
CREATE TABLE IF NOT EXISTS headrace.resync (stream text PRIMARY KEY, requested_at timestamptz NOT NULL DEFAULT now());
ALTER TABLE headrace.incarnation ADD COLUMN IF NOT EXISTS closed_by text NOT NULL DEFAULT '';
"""
# What was added last: where it is, everything is.
_NEWEST = "SELECT FROM pg_attribute WHERE attrelid = to_regclass('headrace.incarnation') AND attname = 'closed_by'"
# Those with rows of a stream; its own row goes last, since its lanes refer to it.
_OF_A_STREAM = (
    "applied", "parked", "discarded", "resync", "table_copy", "snapshot_table", "relation", "refused_change",
    "incarnation", "lane", "stream",
)  # fmt: skip


def make_ledger(conn: psycopg.Connection, stream: str) -> None:
    """Create the tables and the stream's rows that are missing, in the caller's transaction.

    Safe to call from several processes at once: a lock held to the end of the transaction keeps them apart.
    """
    conn.execute("SELECT pg_advisory_xact_lock(hashtext('headrace ledger'))")
    if conn.execute(_NEWEST).fetchone() is None:
        conn.execute(_DDL + LETTERS_DDL + COPIES_DDL + DISCARDED_DDL + _LATER_DDL)
    conn.execute("INSERT INTO headrace.stream VALUES (%s, 0, 0, 0, 0, 0) ON CONFLICT DO NOTHING", [stream])
    conn.execute(
        "INSERT INTO headrace.lane SELECT %s, n, 0, 0, 0 FROM generate_series(0, %s) n ON CONFLICT DO NOTHING",
        [stream, LANES_MAX - 1],
    )


def read_stream_row(conn: psycopg.Connection, stream: str) -> StreamRow | None:
    """The stream's row, None when it has none."""
    row = conn.execute(
        "SELECT epoch, generation, watermark, watermark_time_us, changes_offset, stopped"
        " FROM headrace.stream WHERE stream = %s",
        [stream],
    ).fetchone()
    return StreamRow(*row) if row is not None else None


def drop_from_ledger(conn: psycopg.Connection, stream: str) -> list[str]:
    """Remove the stream's rows, and the schema with its last stream, in the caller's transaction; a line for each."""
    for table in _OF_A_STREAM:
        conn.execute(sql.SQL("DELETE FROM headrace.{} WHERE stream = %s").format(sql.Identifier(table)), [stream])
    if conn.execute("SELECT FROM headrace.stream LIMIT 1").fetchone() is None:
        conn.execute("DROP SCHEMA headrace CASCADE")
        return [f"ledger of stream {stream} and schema headrace"]
    return [f"ledger of stream {stream}"]
