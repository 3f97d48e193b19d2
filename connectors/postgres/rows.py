"""Reading single rows of a PostgreSQL target, with what the ledger says in the same snapshot."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import psycopg
from psycopg import pq, sql

from connectors.errors import KeyTextError
from connectors.postgres.catalogue import read_catalogue
from connectors.postgres.errors import connect, place, translated
from connectors.postgres.mapping import map_table
from connectors.postgres.type_names import type_name
from connectors.postgres.values import Json, decode_row, encode_key
from connectors.rows import RowRead
from connectors.settings import TargetSettings
from pipeline.cache.view import TargetView
from pipeline.catalogue import Catalogue, TableName, TargetTable
from pipeline.errors import RetriableError
from schemas.change_batch import Column, Relation
from schemas.packed import INT64, unpack
from schemas.rows import pack_row

ASKED_MAX = 10_000  # converted key values that are remembered
_TEXT_SESSION = {"DateStyle": "ISO", "IntervalStyle": "postgres", "extra_float_digits": "3", "bytea_output": "hex"}
_VIEW = """
SELECT s.generation, s.watermark, s.changes_offset, a.positions,
       ARRAY(SELECT p.position FROM headrace.parked p WHERE p.stream = s.stream AND p.generation = s.generation),
       coalesce(d.position, 0)
  FROM headrace.stream s
  LEFT JOIN headrace.discarded d ON d.stream = s.stream AND d.generation = s.generation
  LEFT JOIN headrace.applied a ON a.stream = s.stream AND a.generation = s.generation AND a.last_position > s.watermark
 WHERE s.stream = %s
"""


class PostgresRows:
    """See `connectors.rows.TargetRows`."""

    def __init__(self, stream: str, settings: TargetSettings) -> None:
        self._stream = stream
        self._where = f"stream {stream}: target {place(settings.dsn)}"
        self._conn = connect(settings.dsn, f"headrace {stream} cache", statement_timeout="10s", **_TEXT_SESSION)
        with translated(f"{self._where}: reading the catalogue"):
            self._catalogue: Catalogue = read_catalogue(self._conn)
        self._asked: dict[tuple[Column, str], bytes] = {}

    def tables(self) -> list[Relation]:
        """The target's tables that have a primary key, as relations of binary columns."""
        return [_relation(table) for table in self._catalogue.tables.values() if table.primary_key]

    def view(self) -> tuple[TargetView, int]:
        """What is applied, and the changes offset of the watermark. Raises RetriableError."""
        with translated(f"{self._where}: reading the ledger"):
            return self._view()

    def _view(self) -> tuple[TargetView, int]:
        try:
            rows = self._conn.execute(_VIEW, [self._stream]).fetchall()
        except psycopg.errors.UndefinedTable as error:
            raise RetriableError(f"{self._where}: there is no ledger yet; has the planner started?") from error
        if not rows:
            raise RetriableError(f"{self._where}: the ledger has no row for this stream yet")
        applied: set[int] = set()
        for row in rows:
            if row[3] is not None:
                positions: array[int] = unpack(INT64, row[3], "headrace.applied.positions")
                applied.update(positions)
        generation, watermark, offset, _, parked, discarded = rows[0]
        return TargetView(generation, watermark, applied, frozenset(parked), discarded), offset

    def read(self, table: TableName, key: Sequence[str], relation: Relation | None) -> RowRead:
        """Read the row of a key; see `connectors.rows.TargetRows`."""
        found = self._catalogue.tables.get(table)
        if found is None or not found.primary_key:
            raise KeyTextError(f"the target has no table {'.'.join(table)} with a primary key")
        same = relation is not None and map_table(relation, found).direct
        shown = relation if relation is not None and same else _relation(found)
        columns = [column.name for column in (relation or shown).columns if column.key]
        if len(columns) != len(key):
            raise KeyTextError(f"{len(key)} key values for {len(columns)} key columns ({', '.join(columns)})")
        query = _select(shown, found, columns).as_bytes(self._conn)
        with translated(f"{self._where}: reading a row of {'.'.join(table)}"):
            self._conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            try:
                view, _ = self._view()
                result = self._conn.pgconn.exec_params(query, [text.encode() for text in key], result_format=1)
                if result.status != pq.ExecStatus.TUPLES_OK:
                    raise KeyTextError(f"the target refuses the key: {result.get_error_message().strip()}")
            finally:
                self._conn.execute("ROLLBACK")
        fields = [result.get_value(0, n) for n in range(len(shown.columns))] if result.ntuples else None
        return RowRead(view, shown, None if fields is None else pack_row(fields), cacheable=same)

    def encode_key(self, key: Sequence[str], relation: Relation) -> bytes:
        """The key's bytes as the source logs them. Raises KeyTextError."""
        return encode_key(key, relation, self._ask)

    def _ask(self, column: Column, text: str) -> bytes:
        """Have the server convert a key value; answers are remembered."""
        found = self._asked.get((column, text))
        if found is None:
            query = sql.SQL("SELECT $1::{}").format(type_name(column.type)).as_bytes(self._conn)
            result = self._conn.pgconn.exec_params(query, [text.encode()], result_format=int(column.binary))
            value = result.get_value(0, 0) if result.status == pq.ExecStatus.TUPLES_OK else None
            if value is None:
                raise KeyTextError(f"column {column.name}: {text!r} is no {column.type}")
            if len(self._asked) >= ASKED_MAX:
                self._asked.clear()
            found = self._asked[column, text] = value
        return found

    def decode_row(self, relation: Relation, row: bytes) -> dict[str, Json]:
        """The row's columns as JSON values."""
        return decode_row(relation, row)

    def close(self) -> None:
        """Drop the connection."""
        self._conn.close()


def _relation(table: TargetTable) -> Relation:
    """A target table as a source of the same columns would log it."""
    columns = [Column(c.name, c.type, c.name in table.primary_key, binary=True) for c in table.columns]
    return Relation(0, *table.name, "d", tuple(columns))


def _select(shown: Relation, table: TargetTable, key: Sequence[str]) -> sql.Composed:
    names = sql.SQL(", ").join(sql.Identifier(column.name) for column in shown.columns)
    matches = []
    for number, name in enumerate(key, 1):
        target = table.column(name)
        kind = type_name(target.type) if target is not None else sql.SQL("text")
        matches.append(sql.SQL("{} = ${}::{}").format(sql.Identifier(name), sql.SQL(str(number)), kind))
    return sql.SQL("SELECT {} FROM {} WHERE {}").format(
        names, sql.Identifier(*table.name), sql.SQL(" AND ").join(matches)
    )
