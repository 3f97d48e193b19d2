"""Comparing source and target, table by table.

Rows are compared as the hash of their text, grouped into buckets by a hash of the row: a table that
agrees costs one aggregate on each side. Only buckets that differ are counted row by row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import psycopg
from psycopg import sql

from connectors.base import SourceSettings, TableCheck, TargetSettings
from connectors.postgres.errors import connect, translated
from connectors.postgres.slot import source_tables
from pipeline.catalogue import TableName

BUCKETS = 256
_SESSION = {"extra_float_digits": "3", "TimeZone": "UTC", "DateStyle": "ISO", "IntervalStyle": "postgres"}


def verify_tables(source: SourceSettings, target: TargetSettings) -> Iterator[TableCheck]:
    """Yield the comparison of each table. Each side is read in one snapshot."""
    with (
        connect(source.dsn, "headrace verify", **_SESSION) as left,
        connect(target.dsn, "headrace verify", **_SESSION) as right,
        translated("comparing source and target"),
    ):
        for conn in (left, right):
            conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        for table in source_tables(left, source):
            columns = _columns(left, table.name)
            yield _compare(left, right, table.name, columns)


def _columns(conn: psycopg.Connection, name: TableName) -> list[str]:
    rows = conn.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"
        " AND attgenerated = '' ORDER BY attnum",
        [sql.Identifier(*name).as_string(conn)],
    )
    return [str(row[0]) for row in rows]


def _compare(left: psycopg.Connection, right: psycopg.Connection, name: TableName, columns: list[str]) -> TableCheck:
    ours, theirs = _buckets(left, name, columns), _buckets(right, name, columns)
    differing = [bucket for bucket in ours.keys() | theirs.keys() if ours.get(bucket) != theirs.get(bucket)]
    differences = 0
    for bucket in differing:
        one, other = _hashes(left, name, columns, bucket), _hashes(right, name, columns, bucket)
        differences += (one - other).total() + (other - one).total()
    counts = [sum(count for count, _ in side.values()) for side in (ours, theirs)]
    return TableCheck(".".join(name), counts[0], counts[1], differences)


def _row_hash(columns: list[str]) -> sql.Composed:
    fields = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(column)) for column in columns)
    return sql.SQL("hashtextextended(ROW({})::text, 0)").format(fields)


def _buckets(conn: psycopg.Connection, name: TableName, columns: list[str]) -> dict[int, tuple[int, int]]:
    query = sql.SQL("SELECT h & {}, count(*), sum(h::numeric) FROM (SELECT {} AS h FROM {}) rows GROUP BY 1").format(
        sql.Literal(BUCKETS - 1), _row_hash(columns), sql.Identifier(*name)
    )
    return {int(bucket): (int(count), int(total)) for bucket, count, total in conn.execute(query)}


def _hashes(conn: psycopg.Connection, name: TableName, columns: list[str], bucket: int) -> Counter[int]:
    query = sql.SQL("SELECT h FROM (SELECT {} AS h FROM {}) rows WHERE h & {} = {}").format(
        _row_hash(columns), sql.Identifier(*name), sql.Literal(BUCKETS - 1), sql.Literal(bucket)
    )
    return Counter(int(row[0]) for row in conn.execute(query))
