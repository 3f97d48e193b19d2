"""What commands ask of a PostgreSQL source or target: preflight, markers, removal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import psycopg
from psycopg import sql

from connectors.admin import Finding
from connectors.postgres.definitions import create_missing, read_definitions
from connectors.postgres.errors import connect, place, translated
from connectors.postgres.replication import parse_lsn
from connectors.postgres.sequences import read_sequences, set_sequences
from connectors.postgres.slot import (
    FOREIGN_REMEDY,
    SourceTable,
    drop_publications,
    drop_slot,
    foreign_slot,
    left_out_tables,
    publications_exist,
    published_tables,
    slot_name,
    source_tables,
)  # fmt: skip
from connectors.postgres.target_check import check_target
from connectors.settings import SourceSettings, TargetSettings
from pipeline.definitions import SequenceState, TableDefinition, mapped_definition
from pipeline.errors import ConfigError
from pipeline.selection import selected

MARKER_PREFIX = "headrace"
VERSION_MIN = 140000
_MAY_CREATE = "SELECT has_database_privilege(current_database(), 'CREATE')"
# A copy of a server has its system identifier, but was not started in the same microsecond.
_DATABASE = "SELECT pg_postmaster_start_time()::text || oid FROM pg_database WHERE datname = current_database()"
_OWNS = "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = %s::regclass"


class PostgresSourceAdmin:
    """See `connectors.admin.SourceAdmin`."""

    def __init__(self, stream: str, settings: SourceSettings) -> None:
        self._stream = stream
        self._settings = settings

    def _connect(self) -> psycopg.Connection:
        return connect(self._settings.dsn, f"headrace {self._stream} admin")

    def tables(self) -> list[tuple[str, str]]:
        """The tables that the stream replicates, as the target calls them."""
        with self._connect() as conn, translated(f"stream {self._stream}: reading the source's catalogue"):
            mapping = self._settings.mapping
            return [mapping.target_name(table.name) for table in source_tables(conn, self._settings)]

    def database(self) -> str:
        """The server's start and the database's number."""
        with self._connect() as conn:
            return str(_value(conn, _DATABASE))

    def release(self) -> str:
        """The major version: a type keeps its binary form within it."""
        with self._connect() as conn:
            return _release(conn)

    def definitions(self) -> list[TableDefinition]:
        """What a target needs to have of the tables."""
        with self._connect() as conn, translated(f"stream {self._stream}: reading the source's definitions"):
            found = read_definitions(conn, source_tables(conn, self._settings))
        return [mapped_definition(table, self._settings.mapping) for table in found]

    def sequences(self) -> list[SequenceState]:
        """The sequences of the tables, and those beside them."""
        with self._connect() as conn, translated(f"stream {self._stream}: reading the source's sequences"):
            return read_sequences(conn, source_tables(conn, self._settings), self._settings.mapping)

    def check(self) -> list[Finding]:
        """Preflight: version, wal_level, privileges, free slots, tables and their identities."""
        where = f"source {place(self._settings.dsn)}"
        with self._connect() as conn, translated(f"stream {self._stream}: checking the source"):
            findings = [*_check_server(conn, where), *self._check_slots(conn, where)]
            findings += _check_unlogged(conn, where, self._settings)
            try:
                tables = source_tables(conn, self._settings)
            except ConfigError as error:
                return [*findings, Finding(True, where, str(error), "correct streams.source.tables")]
            published = published_tables(conn, self._stream)
            if not publications_exist(conn, self._stream) and not _value(conn, _MAY_CREATE):
                findings.append(Finding(True, where, "may not create a publication",
                                        f"GRANT CREATE ON DATABASE ... TO {conn.info.user}"))  # fmt: skip
            for name in left_out_tables(conn, self._stream, self._settings):
                target_name = ".".join(self._settings.mapping.target_name(name))
                findings.append(Finding(
                    False, f"{where}: {'.'.join(name)}", "not replicated yet: no capture runs, or the table had rows "
                    "when it was found", f"headrace resync --stream {self._stream} --table {target_name}",
                ))  # fmt: skip
            for table in tables:
                findings += _check_source_table(conn, where, table, published=table.name in published)
        return findings

    def _check_slots(self, conn: psycopg.Connection, where: str) -> list[Finding]:
        if found := foreign_slot(conn, self._stream):
            return [Finding(True, where, found, FOREIGN_REMEDY)]
        active = _value(conn, "SELECT active FROM pg_replication_slots WHERE slot_name = %s", [slot_name(self._stream)])
        if active is not None:
            return []
        used = _value(conn, "SELECT count(*) FROM pg_replication_slots")
        limit = _value(conn, "SELECT current_setting('max_replication_slots')::int")
        if isinstance(used, int) and isinstance(limit, int) and used >= limit:
            return [Finding(True, where, f"all {limit} replication slots are in use",
                            "drop an unused slot or raise max_replication_slots")]  # fmt: skip
        return []

    def slot_exists(self) -> bool:
        """Whether the slot is there."""
        with self._connect() as conn, translated(f"stream {self._stream}: looking for its slot"):
            found = _value(
                conn, "SELECT true FROM pg_replication_slots WHERE slot_name = %s", [slot_name(self._stream)]
            )
        return found is True

    def mark(self) -> int:
        """Write a logical message and return its LSN, which lies below its own commit's."""
        with self._connect() as conn, translated(f"stream {self._stream}: writing a marker"):
            row = conn.execute("SELECT pg_logical_emit_message(true, %s, 'mark')::text", [MARKER_PREFIX]).fetchone()
            if row is None:
                raise AssertionError("pg_logical_emit_message returns its LSN")
            # The marker has to be flushed before it is decoded; do not depend on the session's setting.
            conn.execute("SELECT pg_logical_emit_message(false, %s, '')", [MARKER_PREFIX])
        return parse_lsn(row[0])

    def left_out(self) -> list[tuple[str, str]]:
        """Tables that are not published."""
        with self._connect() as conn, translated(f"stream {self._stream}: reading the source's publications"):
            names = left_out_tables(conn, self._stream, self._settings)
        return [self._settings.mapping.target_name(name) for name in names]

    def current_position(self) -> int:
        """The newest flushed LSN; what is committed and not flushed yet lies above it."""
        with self._connect() as conn, translated(f"stream {self._stream}: reading the WAL position"):
            return parse_lsn(str(_value(conn, "SELECT pg_current_wal_flush_lsn()::text")))

    def drop(self) -> list[str]:
        """Drop slot and publications."""
        with self._connect() as conn, translated(f"stream {self._stream}: dropping slot and publications"):
            removed = [f"publication {name}" for name in drop_publications(conn, self._stream)]
        return [*removed, *self.drop_slot()]

    def drop_slot(self) -> list[str]:
        """Drop the slot; a capture that is connected to it is cut off first."""
        with self._connect() as conn, translated(f"stream {self._stream}: dropping its slot"):
            dropped = drop_slot(conn, slot_name(self._stream))
        return [f"replication slot {slot_name(self._stream)}"] if dropped else []


class PostgresTargetAdmin:
    """See `connectors.admin.TargetAdmin`."""

    def __init__(self, stream: str, settings: TargetSettings) -> None:
        self._stream = stream
        self._settings = settings

    def check(self, tables: Sequence[TableDefinition], *, fresh: bool) -> list[Finding]:
        """Preflight: version, privileges, session_replication_role, tables there and fit for the source's rows."""
        where = f"target {place(self._settings.dsn)}"
        with (
            connect(self._settings.dsn, f"headrace {self._stream} check") as conn,
            translated(f"stream {self._stream}: checking the target"),
        ):
            return [
                *_check_version(conn, where),
                *check_target(conn, self._stream, self._settings, tables, fresh=fresh),
            ]

    def database(self) -> str:
        """See `PostgresSourceAdmin.database`."""
        with connect(self._settings.dsn, f"headrace {self._stream} check") as conn:
            return str(_value(conn, _DATABASE))

    def release(self) -> str:
        """The major version: a type keeps its binary form within it."""
        with connect(self._settings.dsn, f"headrace {self._stream} check") as conn:
            return _release(conn)

    def create_missing(self, tables: Sequence[TableDefinition]) -> list[str]:
        """Create the tables that are not there. Raises ConfigError."""
        with (
            connect(self._settings.dsn, f"headrace {self._stream} tables", lock_timeout="30s") as conn,
            translated(f"stream {self._stream}: target {place(self._settings.dsn)}: creating tables"),
        ):
            return create_missing(conn, tables)

    def set_sequences(self, states: Sequence[SequenceState]) -> list[str]:
        """Set the sequences; one that is ahead stays."""
        with (
            connect(self._settings.dsn, f"headrace {self._stream} sequences") as conn,
            translated(f"stream {self._stream}: target {place(self._settings.dsn)}: setting sequences"),
        ):
            return set_sequences(conn, states)


def _release(conn: psycopg.Connection) -> str:
    return f"PostgreSQL {conn.info.server_version // 10000}"


def _check_source_table(
    conn: psycopg.Connection, where: str, table: SourceTable, *, published: bool
) -> Iterator[Finding]:
    subject, quoted = f"{where}: {'.'.join(table.name)}", sql.Identifier(*table.name).as_string(conn)
    user = conn.info.user
    if not _value(conn, "SELECT has_table_privilege(%s, 'SELECT')", [quoted]):
        yield Finding(True, subject, "no SELECT privilege", f"GRANT SELECT ON {quoted} TO {user}")
    elif _value(conn, "SELECT row_security_active(%s)", [quoted]):
        yield Finding(True, subject, f"row-level security hides rows from {user}", f"ALTER ROLE {user} BYPASSRLS")
    if not published and not _value(conn, _OWNS, [quoted]):
        remedy = f"ALTER TABLE {quoted} OWNER TO {user}, or GRANT its owner TO {user}"
        yield Finding(True, subject, f"{user} does not own the table, so it can't be published", remedy)
    if table.partitioned:
        yield _about_partitions(subject)
    if not table.keyed:
        yield Finding(False, subject, "no replica identity: only inserts travel",
                      "add a primary key, or ALTER TABLE ... REPLICA IDENTITY FULL")  # fmt: skip


def _about_partitions(subject: str) -> Finding:
    """Source: PostgreSQL manual, CREATE PUBLICATION, "publish_via_partition_root"."""
    return Finding(
        False, subject,
        "a TRUNCATE of one partition does not travel, nor do the rows of one that is attached, detached or dropped",
        "DELETE the rows instead, or copy the table anew afterwards: headrace resync --table",
    )  # fmt: skip


def _check_unlogged(conn: psycopg.Connection, where: str, settings: SourceSettings) -> list[Finding]:
    """Tables that the patterns choose and no log carries."""
    rows = conn.execute(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind = 'r' AND c.relpersistence = 'u' ORDER BY 1, 2"
    )
    return [
        Finding(False, f"{where}: {schema}.{table}", "an unlogged table: its changes are in no log, so it is left out",
                "ALTER TABLE ... SET LOGGED, or exclude it")
        for schema, table in rows
        if selected((schema, table), settings.tables, settings.exclude)
    ]  # fmt: skip


def _check_server(conn: psycopg.Connection, where: str) -> list[Finding]:
    findings = _check_version(conn, where)
    level = _value(conn, "SHOW wal_level")
    if level != "logical":
        findings.append(Finding(True, where, f"wal_level is {level}, logical decoding needs logical",
                                "ALTER SYSTEM SET wal_level = logical, then restart the server"))  # fmt: skip
    if not _value(conn, "SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user"):
        findings.append(Finding(True, where, f"user {conn.info.user} has no REPLICATION attribute",
                                f"ALTER ROLE {conn.info.user} REPLICATION"))  # fmt: skip
    return findings


def _check_version(conn: psycopg.Connection, where: str) -> list[Finding]:
    version = conn.info.server_version
    if version >= VERSION_MIN:
        return []
    return [Finding(True, where, f"PostgreSQL {version // 10000} is too old", "use PostgreSQL 14 or newer")]


def _value(conn: psycopg.Connection, query: str, parameters: Sequence[object] = ()) -> object:
    row = conn.execute(query.encode(), parameters).fetchone()
    return None if row is None else row[0]
