"""The initial snapshot: binary COPY of every table under the slot's exported snapshot, in chunks.

Each chunk is one ChangeBatch of kind "snapshot" with one pseudo-transaction. Its position is its part
number (1, 2, ...): below any LSN, so the chain, the ledger and takeovers work on it unchanged. Part 1
carries a TRUNCATE of all tables: the target empties what an earlier, unfinished snapshot left.
"""

from __future__ import annotations

import struct
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
from psycopg import sql

from connectors.postgres.errors import connect, translated
from connectors.postgres.source_tables import SourceTable
from connectors.postgres.type_names import type_name_sql
from connectors.postgres.types import TEXT_SESSION, LocalColumns
from connectors.settings import SourceSettings
from pipeline.builder import BatchBuilder
from pipeline.mapping import HASH_TYPE, ColumnUse, TableMapping
from schemas.change_batch import INSERT, TRUNCATE, ChangeBatch, Column, Relation, Section
from schemas.packed import INT32, offsets
from schemas.rows import pack_row, row_fields

_COPY_HEADER = b"PGCOPY\n\xff\r\n\0"
_COPY_END = b"\xff\xff"
_EXTENSION = struct.Struct("!i")
CHUNK_ROWS_MAX = 10_000


def snapshot_batches(
    stream: str,
    generation: int,
    snapshot: str,
    tables: list[SourceTable],
    local: LocalColumns,
    settings: SourceSettings,
) -> Iterator[ChangeBatch]:
    """Yield the snapshot's batches, the TRUNCATE first. Raises ConfigError, RetriableError."""
    builder = BatchBuilder(stream, generation, 0)
    with (
        connect(settings.dsn, f"headrace {stream} snapshot", **TEXT_SESSION) as conn,
        translated(f"stream {stream}: snapshot"),
    ):
        conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        conn.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot)))
        copies = [table_rows_of(conn, table, local, settings.mapping) for table in tables]
        builder.begin(1, _now_us(), 0)
        truncate = builder.close("snapshot", 0, _now_us())
        truncate.sections = truncates([copy.relation for copy in copies])
        yield truncate
        for copy in copies:
            for section in copied_rows(conn, copy, settings):
                builder.begin(builder.previous_position + 1, _now_us(), 0)
                batch = builder.close("snapshot", 0, _now_us())
                batch.sections = [section]
                yield batch


@dataclass(frozen=True, slots=True)
class TableRows:
    """A table to copy, and its relation as the target shall see it.

    `hashed` are the places of the columns to hash.
    """

    relation: Relation
    source: SourceTable
    hashed: tuple[int, ...]


def table_rows_of(
    conn: psycopg.Connection, table: SourceTable, local: LocalColumns, mapping: TableMapping
) -> TableRows:
    """The table with the columns that travel, as the source's catalogue has them now."""
    rows = conn.execute(
        f"SELECT a.attname, {type_name_sql('n', 't')},"
        "       t.typsend <> 0, a.atttypmod, a.attnum, a.attrelid"
        "  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid JOIN pg_namespace n ON n.oid = t.typnamespace"
        " WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''"
        " ORDER BY a.attnum",
        [sql.Identifier(*table.name).as_string(conn)],
    ).fetchall()
    columns: list[Column] = []
    hashed: list[int] = []
    for name, kind, binary, modifier, number, _ in rows:
        use = mapping.use(table.name, name)
        if use is ColumnUse.HASH:
            hashed.append(len(columns))
            columns.append(Column(name, HASH_TYPE, False, True, -1, number))
        elif use is ColumnUse.KEEP:
            travels = binary and (table.name, name) not in local
            # No keys: the parts are disjoint, and what follows the snapshot waits for all of it.
            columns.append(Column(name, kind, False, travels, modifier, number))
    oid = int(rows[0][-1]) if rows else 0
    return TableRows(Relation(oid, *mapping.target_name(table.name), "n", tuple(columns)), table, tuple(hashed))


def truncates(relations: list[Relation]) -> list[Section]:
    """Sections that empty tables."""
    return [_section(relation, TRUNCATE, [b"\0"]) for relation in relations]


def copied_rows(conn: psycopg.Connection, table: TableRows, settings: SourceSettings) -> Iterator[Section]:
    """The rows of a table as the connection's snapshot sees them, in chunks."""
    relation, bytes_max = table.relation, settings.batch_bytes_max
    columns = [
        sql.Identifier(c.name)
        if c.binary and n not in table.hashed
        else sql.SQL("{}::text").format(sql.Identifier(c.name))
        for n, c in enumerate(relation.columns)
    ]
    query = sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT (FORMAT binary)").format(
        sql.SQL(", ").join(columns), table.source.rows
    )
    rows: list[bytes] = []
    size = 0
    with conn.cursor().copy(query) as copy:
        for data in copy:
            row = _strip_header(bytes(data))
            if row in (b"", _COPY_END):
                continue
            if table.hashed:
                row = _hash_fields(row, table, settings.mapping)
            rows.append(row)
            size += len(row)
            if size >= bytes_max or len(rows) >= CHUNK_ROWS_MAX:
                yield _section(relation, INSERT, rows)
                rows, size = [], 0
    if rows:
        yield _section(relation, INSERT, rows)


def _hash_fields(row: bytes, table: TableRows, mapping: TableMapping) -> bytes:
    fields = row_fields(row, len(table.relation.columns))
    for n in table.hashed:
        text = fields[n]
        fields[n] = None if text is None else mapping.hashed(text)
    return pack_row(fields)


def _strip_header(data: bytes) -> bytes:
    """The server sends one message a row; the first begins with the file header."""
    if not data.startswith(_COPY_HEADER):
        return data
    extension = _EXTENSION.unpack_from(data, len(_COPY_HEADER) + 4)[0]
    return data[len(_COPY_HEADER) + 8 + extension :]


def _section(relation: Relation, op: int, rows: list[bytes]) -> Section:
    """Changes of one kind without keys, packed without a Python step a row beyond the join."""
    count = len(rows)
    return Section(
        relation=relation,
        ops=bytes([op]) * count,
        tx=array(INT32, bytes(4 * count)),
        order=array(INT32, range(count)),
        keys=b"",
        key_offsets=array(INT32, bytes(4 * (count + 1))),
        rows=b"".join(rows),
        row_offsets=offsets(rows),
    )


def _now_us() -> int:
    return time.time_ns() // 1000
