"""Comparing source and target, table by table.

Rows are compared as the hash of their text, grouped into buckets by a hash of the row: a table that
agrees costs one aggregate on each side. Only buckets that differ are counted row by row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

import psycopg
from psycopg import sql

from connectors.base import TableCheck
from connectors.postgres.errors import connect, translated
from connectors.postgres.source_tables import SourceTable, source_tables
from connectors.settings import SourceSettings, TargetSettings
from pipeline.catalogue import TableName
from pipeline.mapping import ColumnUse, TableMapping

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
            yield _compare(*_sides(left, right, table, source.mapping))


def _sides(
    left: psycopg.Connection, right: psycopg.Connection, table: SourceTable, mapping: TableMapping
) -> tuple[Side, Side]:
    """The two sides of a table: by the server's hash, or by one made here where columns are hashed."""
    name = table.name
    uses = {column: mapping.use(name, column) for column in _columns(left, name)}
    columns = [column for column, use in uses.items() if use is not ColumnUse.LEAVE_OUT]
    here, there = (Rows(left, name, table.rows), _target_rows(right, mapping.target_name(name)))
    if there.rows is None:
        return ServerSide(here, columns), NoSide(there.name)
    if ColumnUse.HASH not in uses.values():
        recode = left.info.parameter_status("server_encoding") != right.info.parameter_status("server_encoding")
        return ServerSide(here, columns, recode=recode), ServerSide(there, columns, recode=recode)
    hashed = [uses[column] is ColumnUse.HASH for column in columns]
    return ClientSide(here, columns, hashed, mapping), ClientSide(there, columns, [], mapping)


def _target_rows(conn: psycopg.Connection, name: TableName) -> Rows:
    """The target's table: with the rows of its partitions, without those of tables that inherit from it."""
    quoted = sql.Identifier(*name)
    query = "SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass(%s)"
    kind = conn.execute(query, [quoted.as_string(conn)]).fetchone()
    if kind is None:
        return Rows(conn, name, None)
    return Rows(conn, name, quoted if kind[0] else sql.SQL("ONLY {}").format(quoted))


def _columns(conn: psycopg.Connection, name: TableName) -> list[str]:
    rows = conn.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"
        " AND attgenerated = '' ORDER BY attnum",
        [sql.Identifier(*name).as_string(conn)],
    )
    return [str(row[0]) for row in rows]


def _compare(source: Side, target: Side) -> TableCheck:
    ours, theirs = source.buckets(), target.buckets()
    differing = [bucket for bucket in ours.keys() | theirs.keys() if ours.get(bucket) != theirs.get(bucket)]
    differences = 0
    for bucket in differing:
        one, other = source.hashes(bucket), target.hashes(bucket)
        differences += (one - other).total() + (other - one).total()
    counts = [sum(count for count, _ in side.values()) for side in (ours, theirs)]
    return TableCheck(".".join(source.name), counts[0], counts[1], differences)


class Side(Protocol):
    """One side of a table, as hashes of its rows."""

    name: TableName

    def buckets(self) -> dict[int, tuple[int, int]]:
        """Bucket -> number of rows, sum of their hashes."""

    def hashes(self, bucket: int) -> Counter[int]:
        """The hashes of a bucket's rows."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A table's rows on a connection; None: there is no such table."""

    conn: psycopg.Connection
    name: TableName
    rows: sql.Composable | None


class NoSide:
    """A table that is not there, compared as one without rows."""

    def __init__(self, name: TableName) -> None:
        self.name = name

    def buckets(self) -> dict[int, tuple[int, int]]:
        """No rows, hence no buckets."""
        return {}

    def hashes(self, bucket: int) -> Counter[int]:  # noqa: ARG002 - see `Side`
        """No rows, hence no hashes."""
        return Counter()


class ServerSide:
    """Rows hashed by their server; `recode`: as UTF-8, since the other side has another encoding."""

    def __init__(self, table: Rows, columns: list[str], *, recode: bool = False) -> None:
        self.name = table.name
        self._conn = table.conn
        fields = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(column)) for column in columns)
        text = sql.SQL("ROW({})::text").format(fields)
        if recode:
            text = sql.SQL("encode(convert_to({}, 'UTF8'), 'hex')").format(text)
        self._rows = sql.SQL("(SELECT hashtextextended({}, 0) AS h FROM {}) rows").format(
            text, table.rows or sql.SQL("")
        )

    def buckets(self) -> dict[int, tuple[int, int]]:
        """See `Side`."""
        query = sql.SQL("SELECT h & {}, count(*), sum(h::numeric) FROM {} GROUP BY 1").format(
            sql.Literal(BUCKETS - 1), self._rows
        )
        return {int(bucket): (int(count), int(total)) for bucket, count, total in self._conn.execute(query)}

    def hashes(self, bucket: int) -> Counter[int]:
        """See `Side`."""
        query = sql.SQL("SELECT h FROM {} WHERE h & {} = {}").format(
            self._rows, sql.Literal(BUCKETS - 1), sql.Literal(bucket)
        )
        return Counter(int(row[0]) for row in self._conn.execute(query))


class ClientSide:
    """Rows hashed here: the secret of hashed columns must not reach a server, whose log may keep parameters."""

    def __init__(self, table: Rows, columns: list[str], hashed: Sequence[bool], mapping: TableMapping) -> None:
        self.name = table.name
        self._conn = table.conn
        fields = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(column)) for column in columns)
        self._query = sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT").format(fields, table.rows or sql.SQL(""))
        self._hashed = [n for n, is_hashed in enumerate(hashed) if is_hashed]
        self._mapping = mapping
        self._width = len(columns)

    def _rows(self) -> Iterator[int]:
        with self._conn.cursor().copy(self._query) as copy:
            copy.set_types(["text"] * self._width)
            for row in copy.rows():
                fields = list(row)
                for n in self._hashed:
                    if fields[n] is not None:
                        fields[n] = self._mapping.hashed(str(fields[n]).encode()).decode()
                yield int.from_bytes(blake2b(repr(fields).encode(), digest_size=8).digest(), "big")

    def buckets(self) -> dict[int, tuple[int, int]]:
        """See `Side`."""
        found: dict[int, tuple[int, int]] = {}
        for value in self._rows():
            count, total = found.get(value % BUCKETS, (0, 0))
            found[value % BUCKETS] = (count + 1, total + value)
        return found

    def hashes(self, bucket: int) -> Counter[int]:
        """See `Side`."""
        return Counter(value for value in self._rows() if value % BUCKETS == bucket)
