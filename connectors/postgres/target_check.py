"""What `check` asks of a target: privileges, and tables that fit the rows of their source's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import psycopg
from psycopg import sql

from connectors.admin import Finding
from connectors.postgres.catalogue import read_catalogue
from connectors.postgres.errors import place
from connectors.postgres.findings import scalar
from connectors.postgres.mapping import table_rows
from connectors.settings import TargetSettings
from pipeline.catalogue import TargetTable
from pipeline.definitions import TableDefinition
from pipeline.misfits import misfits

_NEEDED = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE")
_MAY_CREATE = """
SELECT has_database_privilege(current_database(), 'CREATE')
    OR EXISTS (SELECT FROM pg_namespace WHERE nspname = 'headrace' AND pg_has_role(nspowner, 'USAGE'))
"""
_TRIGGERS = """
SELECT coalesce(string_agg(tgname, ', ' ORDER BY tgname), '') FROM pg_trigger
 WHERE tgrelid = %s::regclass AND NOT tgisinternal AND tgenabled = ANY (%s)
"""
_INDEXED = """
SELECT EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
                WHERE i.indrelid = %s::regclass AND i.indpred IS NULL AND a.attname = ANY (%s))
"""
_FIRING = {"replica": ["A", "R"], "origin": ["A", "O"]}  # pg_trigger.tgenabled by session_replication_role


def check_target(
    conn: psycopg.Connection, stream: str, settings: TargetSettings, tables: Sequence[TableDefinition], *, fresh: bool
) -> Iterator[Finding]:
    """Yield what keeps the stream from running; `fresh`: it begins with a snapshot, into empty tables."""
    where = f"target {place(settings.dsn)}"
    there = read_catalogue(conn).tables
    for table in tables:
        found = there.get(table.name)
        subject = f"{where}: {'.'.join(table.name)}"
        if found is not None:
            yield from _check_table(conn, settings, subject, table, found)
            if fresh:
                yield from _check_empty(conn, stream, subject, found)
        elif settings.create_tables == "missing":
            yield Finding(False, subject, "the table does not exist", "nothing to do: it will be created")
        else:
            yield Finding(True, subject, "the table does not exist", "create it with the source's columns, "
                          'or have it created: create_tables = "missing"')  # fmt: skip
    user = conn.info.user
    if not scalar(conn, _MAY_CREATE):
        yield Finding(True, where, "may not create the schema headrace", f"GRANT CREATE ON DATABASE ... TO {user}")
    if settings.session_replication_role == "replica" and not _may_set_role(conn):
        yield Finding(True, where, "may not set session_replication_role",
                      f"GRANT SET ON PARAMETER session_replication_role TO {user}, "
                      'or session_replication_role = "origin" in the configuration')  # fmt: skip


def _check_table(
    conn: psycopg.Connection, settings: TargetSettings, subject: str, table: TableDefinition, found: TargetTable
) -> Iterator[Finding]:
    quoted, user = sql.Identifier(*found.name).as_string(conn), conn.info.user
    lacking = [right for right in _NEEDED if not scalar(conn, "SELECT has_table_privilege(%s, %s)", [quoted, right])]
    if lacking:
        yield Finding(
            True, subject, f"{', '.join(lacking)} is not granted", f"GRANT {', '.join(lacking)} ON {quoted} TO {user}"
        )
    elif scalar(conn, "SELECT row_security_active(%s)", [quoted]):
        yield Finding(True, subject, f"row-level security holds for {user}", f"ALTER ROLE {user} BYPASSRLS")
    for misfit in misfits(table, found, adds=settings.schema_changes != "stop"):
        yield Finding(misfit.blocker, subject, misfit.text, misfit.remedy)
    key = next((list(unique.columns) for unique in table.uniques if unique.primary), [])
    if key and not scalar(conn, _INDEXED, [quoted, key]):
        yield Finding(False, subject, f"no index on the source's key ({', '.join(key)}): each UPDATE and DELETE reads "
                      "the whole table", f"ALTER TABLE {quoted} ADD PRIMARY KEY ({', '.join(key)})")  # fmt: skip
    triggers = scalar(conn, _TRIGGERS, [quoted, _FIRING[settings.session_replication_role]])
    if triggers:
        yield Finding(False, subject, f"triggers fire on replicated rows: {triggers}",
                      "nothing to do unless they change replicated rows: then disable them")  # fmt: skip


def _check_empty(conn: psycopg.Connection, stream: str, subject: str, found: TargetTable) -> Iterator[Finding]:
    ours = "SELECT FROM headrace.snapshot_table WHERE stream = %s AND schema_name = %s AND table_name = %s"
    if (
        scalar(conn, "SELECT to_regclass('headrace.snapshot_table') IS NOT NULL")
        and conn.execute(ours, [stream, *found.name]).fetchone()
    ):
        return
    rows = sql.SQL("SELECT true FROM {} LIMIT 1").format(table_rows(found))
    if scalar(conn, "SELECT has_table_privilege(%s, 'SELECT')", [sql.Identifier(*found.name).as_string(conn)]) and (
        conn.execute(rows).fetchone()
    ):
        yield Finding(True, subject, "the table has rows, and the stream begins with a snapshot",
                      'empty it, or set streams.source.snapshot = "never"')  # fmt: skip


def _may_set_role(conn: psycopg.Connection) -> bool:
    try:
        with conn.transaction():
            conn.execute("SET LOCAL session_replication_role = replica")
    except psycopg.errors.InsufficientPrivilege:
        return False
    return True
