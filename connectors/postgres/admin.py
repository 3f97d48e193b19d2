"""What commands ask of a PostgreSQL source or target: preflight, markers, removal."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from connectors.admin import Finding
from connectors.postgres.definitions import create_missing, read_definitions
from connectors.postgres.errors import connect, place, translated
from connectors.postgres.findings import check_version, scalar
from connectors.postgres.publications import drop_publications, left_out_tables
from connectors.postgres.replication import parse_lsn
from connectors.postgres.sequences import read_sequences, set_sequences
from connectors.postgres.slot import drop_slot, slot_name
from connectors.postgres.source_check import check_source
from connectors.postgres.source_tables import source_tables
from connectors.postgres.target_check import check_target
from connectors.settings import SourceSettings, TargetSettings
from pipeline.definitions import SequenceState, TableDefinition, mapped_definition

MARKER_PREFIX = "headrace"
# A copy of a server has its system identifier, but was not started in the same microsecond.
_DATABASE = "SELECT pg_postmaster_start_time()::text || oid FROM pg_database WHERE datname = current_database()"


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
            return str(scalar(conn, _DATABASE))

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
            return check_source(conn, where, self._stream, self._settings)

    def slot_exists(self) -> bool:
        """Whether the slot is there."""
        with self._connect() as conn, translated(f"stream {self._stream}: looking for its slot"):
            found = scalar(
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
            return parse_lsn(str(scalar(conn, "SELECT pg_current_wal_flush_lsn()::text")))

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
                *check_version(conn, where),
                *check_target(conn, self._stream, self._settings, tables, fresh=fresh),
            ]

    def database(self) -> str:
        """See `PostgresSourceAdmin.database`."""
        with connect(self._settings.dsn, f"headrace {self._stream} check") as conn:
            return str(scalar(conn, _DATABASE))

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
