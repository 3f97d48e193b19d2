"""What `headrace check` finds at a source."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
from psycopg import sql

from connectors.admin import Finding
from connectors.postgres.findings import check_version, scalar
from connectors.postgres.publications import left_out_tables, publications_exist, published_tables
from connectors.postgres.slot import FOREIGN_REMEDY, foreign_slot, slot_name
from connectors.postgres.source_tables import SourceTable, source_tables
from connectors.settings import SourceSettings
from pipeline.errors import ConfigError
from pipeline.selection import selected

_MAY_CREATE = "SELECT has_database_privilege(current_database(), 'CREATE')"
_OWNS = "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = %s::regclass"


def check_source(conn: psycopg.Connection, where: str, stream: str, settings: SourceSettings) -> list[Finding]:
    """Version, wal_level, privileges, free slots, tables and their identities; `where` names the source."""
    findings = [*_check_server(conn, where), *_check_slots(conn, where, stream)]
    findings += _check_unlogged(conn, where, settings)
    try:
        tables = source_tables(conn, settings)
    except ConfigError as error:
        return [*findings, Finding(True, where, str(error), "correct streams.source.tables")]
    published = published_tables(conn, stream)
    if not publications_exist(conn, stream) and not scalar(conn, _MAY_CREATE):
        findings.append(Finding(True, where, "may not create a publication",
                                f"GRANT CREATE ON DATABASE ... TO {conn.info.user}"))  # fmt: skip
    for name in left_out_tables(conn, stream, settings):
        target_name = ".".join(settings.mapping.target_name(name))
        findings.append(Finding(
            False, f"{where}: {'.'.join(name)}", "not replicated yet: no capture runs, or the table had rows "
            "when it was found", f"headrace resync --stream {stream} --table {target_name}",
        ))  # fmt: skip
    for table in tables:
        findings += _check_source_table(conn, where, table, published=table.name in published)
    return findings


def _check_slots(conn: psycopg.Connection, where: str, stream: str) -> list[Finding]:
    if found := foreign_slot(conn, stream):
        return [Finding(True, where, found, FOREIGN_REMEDY)]
    active = scalar(conn, "SELECT active FROM pg_replication_slots WHERE slot_name = %s", [slot_name(stream)])
    if active is not None:
        return []
    used = scalar(conn, "SELECT count(*) FROM pg_replication_slots")
    limit = scalar(conn, "SELECT current_setting('max_replication_slots')::int")
    if isinstance(used, int) and isinstance(limit, int) and used >= limit:
        return [Finding(True, where, f"all {limit} replication slots are in use",
                        "drop an unused slot or raise max_replication_slots")]  # fmt: skip
    return []


def _check_source_table(
    conn: psycopg.Connection, where: str, table: SourceTable, *, published: bool
) -> Iterator[Finding]:
    subject, quoted = f"{where}: {'.'.join(table.name)}", sql.Identifier(*table.name).as_string(conn)
    user = conn.info.user
    if not scalar(conn, "SELECT has_table_privilege(%s, 'SELECT')", [quoted]):
        yield Finding(True, subject, "no SELECT privilege", f"GRANT SELECT ON {quoted} TO {user}")
    elif scalar(conn, "SELECT row_security_active(%s)", [quoted]):
        yield Finding(True, subject, f"row-level security hides rows from {user}", f"ALTER ROLE {user} BYPASSRLS")
    if not published and not scalar(conn, _OWNS, [quoted]):
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
    findings = check_version(conn, where)
    level = scalar(conn, "SHOW wal_level")
    if level != "logical":
        findings.append(Finding(True, where, f"wal_level is {level}, logical decoding needs logical",
                                "ALTER SYSTEM SET wal_level = logical, then restart the server"))  # fmt: skip
    if not scalar(conn, "SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user"):
        findings.append(Finding(True, where, f"user {conn.info.user} has no REPLICATION attribute",
                                f"ALTER ROLE {conn.info.user} REPLICATION"))  # fmt: skip
    return findings
