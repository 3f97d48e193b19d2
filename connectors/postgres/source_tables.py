"""The tables of a source: which the stream's patterns choose, in which order, with which keys."""

from __future__ import annotations

from dataclasses import dataclass

import networkx as nx
import psycopg
from psycopg import sql

from connectors.settings import SourceSettings
from pipeline.catalogue import TableName
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


def chosen_names(conn: psycopg.Connection, settings: SourceSettings) -> set[TableName]:
    """The tables that the patterns choose."""
    names = {(str(schema), str(table)) for schema, table, *_ in conn.execute(_TABLES)}
    return {name for name in names if selected(name, settings.tables, settings.exclude)}


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
