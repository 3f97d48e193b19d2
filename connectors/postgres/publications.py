"""The publications of a stream: which tables they carry, and how a table joins and leaves them."""

from __future__ import annotations

from collections.abc import Collection

import psycopg
from psycopg import sql

from connectors.postgres.errors import translated
from connectors.postgres.source_tables import SourceTable, chosen_names
from connectors.settings import SourceSettings
from pipeline.catalogue import TableName
from pipeline.errors import ConfigError

_LOCK_TIMEOUT = "1s"


def publication_names(stream: str) -> tuple[str, str]:
    """Names of a stream's publications: of keyed tables, and of tables whose inserts alone can travel."""
    return f"headrace_{stream}", f"headrace_{stream}_inserts"


def ensure_publications(conn: psycopg.Connection, stream: str, tables: list[SourceTable]) -> list[str]:
    """Create or adjust the publications so that they carry exactly `tables`; return their names.

    Tables without a replica identity get a publication of inserts and truncates alone: published for
    updates, PostgreSQL would refuse the application's own UPDATE on them. Both are always there: the log of the time
    before a publication existed can't be decoded for it by every version.
    """
    keyed, inserts = publication_names(stream)
    wanted = {
        keyed: ([t.name for t in tables if t.keyed], "insert, update, delete, truncate"),
        inserts: ([t.name for t in tables if not t.keyed], "insert, truncate"),
    }
    with (
        translated(f"stream {stream}: creating its publications (the user must own the tables)"),
        conn.transaction(),
    ):
        for name, (members, publish) in wanted.items():
            _ensure_publication(conn, name, members, publish)
    return list(wanted)


def published_tables(conn: psycopg.Connection, stream: str) -> set[TableName]:
    """The tables that the stream's publications carry."""
    names = list(publication_names(stream))
    rows = conn.execute("SELECT schemaname, tablename FROM pg_publication_tables WHERE pubname = ANY (%s)", [names])
    return {(schema, table) for schema, table in rows}


def left_out_tables(conn: psycopg.Connection, stream: str, settings: SourceSettings) -> list[TableName]:
    """Tables that the patterns choose and the stream, once begun, does not carry: they had rows when they were found.

    One that was dropped and created again is another table: the old one's publication is gone with it.
    """
    if not publications_exist(conn, stream):
        return []
    return sorted(chosen_names(conn, settings) - published_tables(conn, stream))


def publications_exist(conn: psycopg.Connection, stream: str) -> bool:
    """Whether the stream's publications are there."""
    names = publication_names(stream)
    found = conn.execute("SELECT count(*) FROM pg_publication WHERE pubname = ANY (%s)", [list(names)]).fetchone()
    return found == (len(names),)


def publish_if_empty(conn: psycopg.Connection, stream: str, table: SourceTable) -> bool:
    """Have the running stream carry a table that has no rows yet, so that it will get them all; whether it did.

    One that has rows would have to be copied first.
    """
    with translated(f"stream {stream}: publishing the new table {'.'.join(table.name)}"), conn.transaction():
        if conn.execute(sql.SQL("SELECT FROM {} LIMIT 1").format(table.rows)).fetchone() is not None:
            return False  # without a lock, since it is asked again and again
        conn.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(_LOCK_TIMEOUT)))
        conn.execute(sql.SQL("LOCK TABLE {} IN SHARE MODE").format(table.rows))  # no writer until the commit
        if conn.execute(sql.SQL("SELECT FROM {} LIMIT 1").format(table.rows)).fetchone() is not None:
            return False
        publish(conn, stream, table)
    return True


_ATTACHED = """
SELECT n.nspname, c.relname, rn.nspname, rc.relname, p.pubname
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_class rc ON rc.oid = pg_partition_root(c.oid) JOIN pg_namespace rn ON rn.oid = rc.relnamespace
  LEFT JOIN pg_publication_rel r ON r.prrelid = c.oid
  LEFT JOIN pg_publication p ON p.oid = r.prpubid AND p.pubname = ANY (%s)
 WHERE c.relispartition AND (p.oid IS NOT NULL OR ARRAY[n.nspname, c.relname]::text[] = ANY (
       SELECT ARRAY[x.schema, x.name] FROM unnest(%s::text[], %s::text[]) x (schema, name)))
"""


def take_attached(
    conn: psycopg.Connection, stream: str, left_out: Collection[TableName]
) -> list[tuple[TableName, TableName]]:
    """Tables that were the stream's own (or left out of it) and became partitions since, each with its root; told once.

    Their rows of before are in the log of no root.
    """
    schemas, names = [name[0] for name in left_out], [name[1] for name in left_out]
    attached: dict[TableName, TableName] = {}
    with translated(f"stream {stream}: looking for attached partitions"), conn.transaction():
        rows = conn.execute(_ATTACHED, [list(publication_names(stream)), schemas, names]).fetchall()
        for schema, table, root_schema, root, publication in rows:
            attached[schema, table] = (root_schema, root)
            if publication is not None:
                drop = sql.SQL("ALTER PUBLICATION {} DROP TABLE {}")
                conn.execute(drop.format(sql.Identifier(publication), sql.Identifier(schema, table)))
    return sorted(attached.items())


def publish(conn: psycopg.Connection, stream: str, table: SourceTable) -> None:
    """Have the stream carry a table from the caller's commit on; nobody may write to it meanwhile."""
    publication = publication_names(stream)[0 if table.keyed else 1]
    conn.execute(
        sql.SQL("ALTER PUBLICATION {} ADD TABLE {}").format(sql.Identifier(publication), sql.Identifier(*table.name))
    )


def _ensure_publication(conn: psycopg.Connection, name: str, members: list[TableName], publish: str) -> None:
    quoted = sql.Identifier(name)
    if conn.execute("SELECT FROM pg_publication WHERE pubname = %s", [name]).fetchone() is None:
        options = sql.SQL("publish = {}, publish_via_partition_root = true").format(sql.Literal(publish))
        conn.execute(sql.SQL("CREATE PUBLICATION {} WITH ({})").format(quoted, options))
    else:
        _require_whole(conn, name, publish)
    rows = conn.execute("SELECT schemaname, tablename FROM pg_publication_tables WHERE pubname = %s", [name])
    there = {(schema, table) for schema, table in rows}
    for verb, tables in (("ADD", set(members) - there), ("DROP", there - set(members))):
        if tables:
            listed = sql.SQL(", ").join(sql.Identifier(*table) for table in sorted(tables))
            conn.execute(sql.SQL(f"ALTER PUBLICATION {{}} {verb} TABLE {{}}").format(quoted, listed))


_OPTIONS = """
SELECT pubviaroot AND NOT puballtables, concat_ws(', ', CASE WHEN pubinsert THEN 'insert' END, CASE WHEN pubupdate
       THEN 'update' END, CASE WHEN pubdelete THEN 'delete' END, CASE WHEN pubtruncate THEN 'truncate' END)
  FROM pg_publication WHERE pubname = %s
"""
# Filters came with PostgreSQL 15.
_FILTERED = """
SELECT r.prrelid::regclass::text FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
 WHERE p.pubname = %s AND (to_jsonb(r) ->> 'prqual' IS NOT NULL OR to_jsonb(r) ->> 'prattrs' IS NOT NULL) ORDER BY 1
"""


def _require_whole(conn: psycopg.Connection, name: str, publish: str) -> None:
    """Raise ConfigError where somebody else made or changed the publication so that changes would be missing."""
    filtered = [str(table) for (table,) in conn.execute(_FILTERED, [name])]
    if filtered:
        wrong = f"holds rows or columns of {', '.join(filtered)} back"
    elif conn.execute(_OPTIONS, [name]).fetchone() != (True, publish):
        wrong = f"was not made by Headrace: it must publish {publish}, via partition roots, of single tables"
    else:
        return
    raise ConfigError(
        f"publication {name} {wrong}. DROP PUBLICATION {name}, and start again: Headrace makes its own. If the stream "
        "has run with it, copy what is missing with `headrace resync`"
    )


def drop_publications(conn: psycopg.Connection, stream: str) -> list[str]:
    """Drop the stream's publications; return the names of those that existed."""
    dropped = []
    for name in publication_names(stream):
        if conn.execute("SELECT FROM pg_publication WHERE pubname = %s", [name]).fetchone() is not None:
            conn.execute(sql.SQL("DROP PUBLICATION {}").format(sql.Identifier(name)))
            dropped.append(name)
    return dropped
