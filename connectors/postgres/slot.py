"""Slot and publications of a stream, and the tables they carry."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import networkx as nx
import psycopg
from psycopg import sql

from connectors.postgres.errors import translated
from connectors.settings import SourceSettings
from pipeline.catalogue import TableName
from pipeline.errors import ConfigError, RetriableError
from pipeline.selection import select_tables, selected


@dataclass(frozen=True, slots=True)
class SourceTable:
    """A source table: `keyed` says that updates and deletes can be published."""

    name: TableName
    keyed: bool
    parents: tuple[TableName, ...]
    partitioned: bool = False

    @property
    def rows(self) -> sql.Composable:
        """The table's own rows: those of its partitions, not those of tables that inherit from it."""
        name = sql.Identifier(*self.name)
        return name if self.partitioned else sql.SQL("ONLY {}").format(name)


_LOCK_TIMEOUT = "1s"
FOREIGN_REMEDY = "Give this stream another name: a server has one slot of a name for all its databases"


def slot_name(stream: str) -> str:
    """The stream's replication slot, one a server, so streams of one source need names of their own."""
    return f"headrace_{stream}"


def publication_names(stream: str) -> tuple[str, str]:
    """Names of a stream's publications: of keyed tables, and of tables whose inserts alone can travel."""
    return f"headrace_{stream}", f"headrace_{stream}_inserts"


_TABLES = """
SELECT n.nspname, c.relname,
       c.relreplident IN ('f') OR (c.relreplident = 'd' AND EXISTS (
           SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary AND i.indimmediate))
       OR (c.relreplident = 'i' AND EXISTS (
           SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisreplident)),
       coalesce(array_agg(DISTINCT ARRAY[pn.nspname, p.relname]::text[]) FILTER (WHERE p.oid IS NOT NULL), '{}'),
       c.relkind = 'p'
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_constraint f ON f.conrelid = c.oid AND f.contype = 'f' AND f.confrelid <> c.oid
  LEFT JOIN pg_class p ON p.oid = f.confrelid
  LEFT JOIN pg_namespace pn ON pn.oid = p.relnamespace
 WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p'
   AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname NOT IN ('information_schema', 'headrace')
 GROUP BY n.nspname, c.relname, c.relreplident, c.oid, c.relkind
"""


def source_tables(conn: psycopg.Connection, settings: SourceSettings) -> list[SourceTable]:
    """Return the stream's tables, parents before children. Raises ConfigError."""
    rows = conn.execute(_TABLES).fetchall()
    there = {
        (schema, table): SourceTable((schema, table), bool(keyed), tuple((p[0], p[1]) for p in parents), partitioned)
        for schema, table, keyed, parents, partitioned in rows
    }
    chosen = select_tables(there, settings.tables, settings.exclude)
    settings.mapping.require_distinct(chosen)
    graph: nx.DiGraph[TableName] = nx.DiGraph()
    graph.add_nodes_from(chosen)
    graph.add_edges_from((p, name) for name in chosen for p in there[name].parents if p in graph)
    condensed = nx.condensation(graph)
    order = (sorted(condensed.nodes[c]["members"]) for c in nx.lexicographical_topological_sort(condensed))
    return [there[name] for members in order for name in members]


def check_wal_level(conn: psycopg.Connection) -> None:
    """Raise ConfigError unless the source writes logical WAL."""
    row = conn.execute("SHOW wal_level").fetchone()
    if row is None or row[0] != "logical":
        raise ConfigError(
            f"the source has wal_level={row[0] if row else '?'}, logical decoding needs wal_level=logical: "
            "ALTER SYSTEM SET wal_level = logical, then restart the server"
        )


_OWN = "plugin = 'pgoutput' AND database = current_database()"  # slots have one space of names in a server
_FOREIGN = f"""
SELECT coalesce('plugin ' || plugin, 'a physical slot'), database FROM pg_replication_slots
 WHERE slot_name = %s AND ({_OWN}) IS NOT TRUE
"""


def foreign_slot(conn: psycopg.Connection, stream: str) -> str:
    """Whose slot it is that has the stream's name without being the stream's; empty when there is none."""
    row = conn.execute(_FOREIGN.encode(), [slot_name(stream)]).fetchone()
    if row is None:
        return ""
    return f"replication slot {slot_name(stream)} is somebody else's ({row[0]}, database {row[1] or 'none'})"


def require_no_foreign_slot(conn: psycopg.Connection, stream: str) -> None:
    """Raise ConfigError when somebody else has the slot of the stream's name."""
    if found := foreign_slot(conn, stream):
        raise ConfigError(f"stream {stream}: {found}. {FOREIGN_REMEDY}")


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
    names = {(str(schema), str(table)) for schema, table, *_ in conn.execute(_TABLES)}
    chosen = {name for name in names if selected(name, settings.tables, settings.exclude)}
    return sorted(chosen - published_tables(conn, stream))


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


def claim_snapshot(conn: psycopg.Connection, stream: str) -> None:
    """Make this session the one that takes the stream's snapshot; drop the slot of an unfinished one.

    Raises RetriableError while another capture takes it or streams: its slot is not taken away.
    """
    locked = conn.execute("SELECT pg_try_advisory_lock(hashtext('headrace snapshot'), hashtext(%s))", [stream])
    if locked.fetchone() != (True,):
        raise RetriableError(
            f"stream {stream}: another process takes its snapshot. Is a second capture of this stream running?"
        )
    slot = slot_name(stream)
    active = conn.execute("SELECT FROM pg_replication_slots WHERE slot_name = %s AND active", [slot])
    if active.fetchone() is not None:
        raise RetriableError(f"stream {stream}: another process uses the slot {slot}. Is a second capture running?")
    drop_slot(conn, slot)


def drop_slot(conn: psycopg.Connection, slot: str) -> bool:
    """Drop the slot if it exists and is Headrace's, ending a walsender that still holds it; whether it existed."""
    conn.execute(
        "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots"
        f" WHERE slot_name = %s AND active_pid IS NOT NULL AND {_OWN}".encode(), [slot],
    )  # fmt: skip
    dropped = conn.execute(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
        f" WHERE slot_name = %s AND {_OWN}".encode(), [slot],
    )  # fmt: skip
    return dropped.rowcount > 0


def drop_publications(conn: psycopg.Connection, stream: str) -> list[str]:
    """Drop the stream's publications; return the names of those that existed."""
    dropped = []
    for name in publication_names(stream):
        if conn.execute("SELECT FROM pg_publication WHERE pubname = %s", [name]).fetchone() is not None:
            conn.execute(sql.SQL("DROP PUBLICATION {}").format(sql.Identifier(name)))
            dropped.append(name)
    return dropped


def type_names(conn: psycopg.Connection) -> dict[int, str]:
    """Return OID -> type name: bare for built-in types, schema.name for others."""
    rows = conn.execute(
        "SELECT t.oid, CASE WHEN n.nspname = 'pg_catalog' THEN t.typname ELSE n.nspname || '.' || t.typname END"
        "  FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace"
    )
    return {int(oid): str(name) for oid, name in rows}


def primary_key(conn: psycopg.Connection, schema: str, table: str) -> tuple[str, ...] | None:
    """Return the primary key's columns, None when the table has none.

    A deferrable one does not count: its values may repeat within a transaction.
    """
    rows = conn.execute(
        "SELECT a.attname FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid"
        "  JOIN pg_namespace n ON n.oid = c.relnamespace"
        "  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)"
        " WHERE i.indisprimary AND i.indimmediate AND n.nspname = %s AND c.relname = %s ORDER BY a.attnum",
        [schema, table],
    ).fetchall()
    return tuple(str(row[0]) for row in rows) or None
