"""A source connector for SQLite: an example of what a connector has to do, with nothing but the standard library.

Triggers write each change into a log table, in the transaction that makes it. The source reads the log: what it finds
in one look was committed, so it is handed on as one transaction, and confirmed changes leave the log. Values travel
as text, and the target's columns say what they become.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Collection, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

from connectors.admin import Finding
from connectors.base import Connector
from connectors.settings import SourceSettings
from connectors.source import Tail
from pipeline.builder import BatchBuilder
from pipeline.catalogue import TableName
from pipeline.definitions import SequenceState, TableDefinition
from pipeline.errors import ConfigError, RetriableError
from pipeline.selection import select_tables
from schemas.change_batch import DELETE, INSERT, TRUNCATE, UPDATE, ChangeBatch, Column, Relation
from schemas.rows import pack_fields, pack_row

SCHEMA = "public"  # SQLite has no schemas: the target's
LIVE_FROM = 1 << 32  # a change's position is this and its number in the log, above the parts of any snapshot
POLL_S = 0.02
SNAPSHOT_ROWS = 10_000  # in one record
TYPES = {"INTEGER": "int8", "REAL": "float8"}  # of declared types; all others are text
MARK = "M"
LOG = """
CREATE TABLE IF NOT EXISTS headrace_log (
    id INTEGER PRIMARY KEY AUTOINCREMENT, time_us INTEGER NOT NULL, "table" TEXT NOT NULL, op TEXT NOT NULL,
    "key" TEXT NOT NULL, "row" TEXT NOT NULL)
"""
NOW_US = "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)"


class SqliteSource:
    """See `connectors.source.Source`."""

    def __init__(self, stream: str, settings: SourceSettings) -> None:
        self._stream = stream
        self._settings = settings
        self._conn = _connect(settings)

    def batches(self, tail: Tail | None) -> Iterator[ChangeBatch | None]:
        """Copy the tables if the stream begins, then follow the log for ever."""
        with _translated(self._settings):
            relations = {relation.table: relation for relation in _relations(self._conn, self._settings)}
            _install(self._conn, relations.values())
        if tail is None or tail.snapshot_open:
            tail = yield from self._start_anew(list(relations.values()))
        seen = tail.end_position
        builder = BatchBuilder(self._stream, tail.generation, tail.position)
        while True:
            with _translated(self._settings):
                rows = self._conn.execute("SELECT * FROM headrace_log WHERE id > ? ORDER BY id", [seen]).fetchall()
            if not rows:
                yield None
                time.sleep(POLL_S)
                continue
            seen = rows[-1][0]
            builder.begin(LIVE_FROM + seen, rows[-1][1], 0)
            for _, _, table, op, key, row in rows:
                if table in relations:
                    _append(builder, relations[table], ord(op), json.loads(key), json.loads(row))
            yield builder.close("live", seen, time.time_ns() // 1000)

    def _start_anew(self, relations: list[Relation]) -> Generator[ChangeBatch, None, Tail]:
        """Empty the tables, copy them as one read transaction shows them, and say that this was all."""
        builder = BatchBuilder(self._stream, time.time_ns() // 1000, 0)
        self._conn.execute("BEGIN")
        seen = _newest(self._conn)
        try:
            if self._settings.snapshot == "initial":
                yield from self._copy(builder, relations)
        finally:
            self._conn.execute("ROLLBACK")
        last = builder.close("live", seen, time.time_ns() // 1000)  # a capture that finds it goes on from the log
        yield last
        return Tail(last.generation, last.last_position, snapshot_open=False, end_position=seen)

    def _copy(self, builder: BatchBuilder, relations: list[Relation]) -> Iterator[ChangeBatch]:
        now_us = time.time_ns() // 1000
        # Without keys: the parts are disjoint, and all that follows waits for them.
        bare = [replace(r, identity="n", columns=tuple(replace(c, key=False) for c in r.columns)) for r in relations]
        builder.begin(1, now_us, 0)
        for relation in bare:
            _append(builder, relation, TRUNCATE, [], None)
        yield builder.close("snapshot", 0, now_us)
        for relation in bare:
            cursor = self._conn.execute(f"SELECT {_texts(relation.columns)} FROM {_quoted(relation.table)}")
            while rows := cursor.fetchmany(SNAPSHOT_ROWS):
                builder.begin(builder.previous_position + 1, now_us, 0)
                for row in rows:
                    _append(builder, relation, INSERT, [], row)
                yield builder.close("snapshot", 0, now_us)

    def confirm(self, end_position: int) -> None:
        """Forget what Kafka has."""
        with _translated(self._settings):
            self._conn.execute("DELETE FROM headrace_log WHERE id <= ?", [end_position])

    def copy_tables(self, tables: Collection[TableName]) -> None:
        """Single tables can't be copied anew here; `headrace resync` of the stream copies all."""

    def keepalive(self) -> None:
        """A file has no connection that could time out."""

    def close(self) -> None:
        """Close the file."""
        self._conn.close()


class SqliteAdmin:
    """See `connectors.admin.SourceAdmin`."""

    def __init__(self, stream: str, settings: SourceSettings) -> None:
        self._stream = stream
        self._settings = settings

    def check(self) -> list[Finding]:
        """Each table needs a key."""
        with closing(_connect(self._settings)) as conn:
            return [
                Finding(True, f"table {relation.table}", "it has no primary key", "add one, or exclude the table")
                for relation in _relations(conn, self._settings)
                if not relation.key_columns
            ]

    def tables(self) -> list[tuple[str, str]]:
        """The chosen tables."""
        with closing(_connect(self._settings)) as conn:
            return [relation.name for relation in _relations(conn, self._settings)]

    def database(self) -> str:
        """The file."""
        return f"sqlite {self._settings.dsn}"

    def release(self) -> str:
        """The library's version."""
        return f"SQLite {sqlite3.sqlite_version}"

    def definitions(self) -> list[TableDefinition]:
        """Left to the operator: the target's tables are made by hand."""
        return []

    def sequences(self) -> list[SequenceState]:
        """SQLite has none."""
        return []

    def slot_exists(self) -> bool:
        """Whether the stream has begun: its log is there."""
        with closing(_connect(self._settings)) as conn:
            return conn.execute("SELECT 1 FROM sqlite_schema WHERE name = 'headrace_log'").fetchone() is not None

    def mark(self) -> int:
        """Write a marker into the log."""
        with closing(_connect(self._settings)) as conn:
            conn.execute(LOG)
            conn.execute(f"INSERT INTO headrace_log VALUES (NULL, {NOW_US}, '', '{MARK}', '[]', '[]')")
            return LIVE_FROM + _newest(conn)

    def left_out(self) -> list[tuple[str, str]]:
        """None: every chosen table has its triggers from the start on."""
        return []

    def current_position(self) -> int:
        """The newest change's position."""
        with closing(_connect(self._settings)) as conn:
            return LIVE_FROM + _newest(conn)

    def drop(self) -> list[str]:
        """Remove log and triggers."""
        with closing(_connect(self._settings)) as conn:
            triggers = conn.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger' AND name LIKE 'headrace_%'")
            removed = [str(name) for (name,) in triggers]
            for name in removed:
                conn.execute(f"DROP TRIGGER {_quoted(name)}")
            conn.execute("DROP TABLE IF EXISTS headrace_log")
        return [*(f"trigger {name}" for name in removed), "table headrace_log"]

    def drop_slot(self) -> list[str]:
        """The same: without its log the stream begins anew."""
        return self.drop()


CONNECTOR = Connector("sqlite", source=SqliteSource, source_admin=SqliteAdmin)


def _connect(settings: SourceSettings) -> sqlite3.Connection:
    """The file that the DSN names. Raises ConfigError, RetriableError."""
    path = settings.dsn.removeprefix("sqlite:///")
    if path == settings.dsn:
        raise ConfigError(f"streams.source.dsn: {path!r} is no sqlite:///PATH")
    with _translated(settings):
        return sqlite3.connect(f"file:{path}?mode=rw", uri=True, isolation_level=None, timeout=10)


@contextmanager
def _translated(settings: SourceSettings) -> Iterator[None]:
    """Say which file is locked, away or full; the role tries again."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise RetriableError(f"{settings.dsn}: {error}") from error


def _relations(conn: sqlite3.Connection, settings: SourceSettings) -> list[Relation]:
    """The chosen tables. Raises ConfigError where the patterns choose none."""
    names = conn.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name <> 'headrace_log'"
    )
    there = [(SCHEMA, str(name)) for (name,) in names]
    return [_relation(conn, table) for _, table in sorted(select_tables(there, settings.tables, settings.exclude))]


def _relation(conn: sqlite3.Connection, table: str) -> Relation:
    found = conn.execute(f"PRAGMA table_info({_quoted(table)})")
    columns = [
        Column(name, TYPES.get(kind.upper(), "text"), key > 0, binary=False) for _, name, kind, _, _, key in found
    ]
    return Relation(0, SCHEMA, table, "d", tuple(columns))


def _install(conn: sqlite3.Connection, relations: Collection[Relation]) -> None:
    """Make the log and the triggers, anew for the columns that the tables have now."""
    conn.execute(LOG)
    for relation in relations:
        keys = [column for column in relation.columns if column.key]
        for op, event, key, row in (
            ("I", "INSERT", _values("NEW", keys), _values("NEW", relation.columns)),
            ("U", "UPDATE", _values("OLD", keys), _values("NEW", relation.columns)),
            ("D", "DELETE", _values("OLD", keys), "'[]'"),
        ):
            trigger = _quoted(f"headrace_{relation.table}_{op}")
            conn.execute(f"DROP TRIGGER IF EXISTS {trigger}")
            conn.execute(
                f"CREATE TRIGGER {trigger} AFTER {event} ON {_quoted(relation.table)} BEGIN INSERT INTO headrace_log"
                f" VALUES (NULL, {NOW_US}, {_literal(relation.table)}, '{op}', {key}, {row}); END"
            )


def _append(
    builder: BatchBuilder, relation: Relation, op: int, key: list[str | None], row: Collection[str | None] | None
) -> None:
    """Add a change to the open transaction; `key` is the old one."""
    section = builder.section(relation)
    section.ops.append(op)
    section.tx.append(len(builder.positions) - 1)
    section.order.append(builder.rank)
    builder.rank += 1
    if row is None:
        section.keys.append(b"")
        section.rows.append(b"\0")  # TRUNCATE without options
        return
    fields = [None if value is None else value.encode() for value in row]
    old_key = pack_fields([None if value is None else value.encode() for value in key])
    if op == UPDATE:
        new_key = pack_fields([f for f, column in zip(fields, relation.columns, strict=True) if column.key])
        if new_key != old_key:
            section.old_keys[len(section.keys)] = old_key
        section.keys.append(new_key)
    else:
        section.keys.append(old_key)
    section.rows.append(b"" if op == DELETE else pack_row(fields))


def _newest(conn: sqlite3.Connection) -> int:
    """The last number that the log has given, whether its change is still there or not."""
    row = conn.execute("SELECT seq FROM sqlite_sequence WHERE name = 'headrace_log'").fetchone()
    return 0 if row is None else int(row[0])


def _texts(columns: Collection[Column], prefix: str = "") -> str:
    return ", ".join(f"CAST({prefix}{_quoted(column.name)} AS TEXT)" for column in columns)


def _values(row: str, columns: Collection[Column]) -> str:
    return f"json_array({_texts(columns, f'{row}.')})"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
