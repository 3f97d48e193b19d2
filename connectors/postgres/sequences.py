"""Sequences at a cut-over: logical decoding does not carry them."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from psycopg import sql

from connectors.postgres.catalogue import table_exists
from connectors.postgres.source_tables import SourceTable
from pipeline.definitions import SequenceState
from pipeline.mapping import TableMapping

_OWNED = """
SELECT s.nspname, q.relname, n.nspname, c.relname, a.attname FROM pg_class q
  JOIN pg_namespace s ON s.oid = q.relnamespace
  JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = q.oid AND d.deptype IN ('a', 'i')
   AND d.refclassid = 'pg_class'::regclass
  JOIN pg_class c ON c.oid = d.refobjid JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid
 WHERE q.relkind = 'S' ORDER BY 1, 2
"""
_FREE = """
SELECT s.nspname, q.relname FROM pg_class q JOIN pg_namespace s ON s.oid = q.relnamespace
 WHERE q.relkind = 'S' AND s.nspname = ANY (%s) AND NOT EXISTS (
       SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = q.oid AND d.deptype IN ('a', 'i'))
 ORDER BY 1, 2
"""
_TARGET = """
SELECT coalesce(pg_get_serial_sequence(quote_ident(%(schema)s) || '.' || quote_ident(%(table)s), %(column)s),
                to_regclass(%(name)s)::text)
"""


def read_sequences(
    conn: psycopg.Connection, tables: Sequence[SourceTable], mapping: TableMapping
) -> list[SequenceState]:
    """The sequences of the tables' columns, and those of no column in the tables' schemas, by the target's names."""
    chosen = {table.name for table in tables}
    found = []
    for schema, name, of_schema, table, column in conn.execute(_OWNED).fetchall():
        if (of_schema, table) in chosen:
            target = mapping.target_name((of_schema, table))
            found.append(_state(conn, (schema, name), mapping, target, column))
    for schema, name in conn.execute(_FREE, [sorted({name[0] for name in chosen})]).fetchall():
        found.append(_state(conn, (schema, name), mapping, None, ""))
    return found


def _state(
    conn: psycopg.Connection, name: tuple[str, str], mapping: TableMapping, table: tuple[str, str] | None, column: str
) -> SequenceState:
    row = conn.execute(sql.SQL("SELECT last_value, is_called FROM {}").format(sql.Identifier(*name))).fetchone()
    value, called = row if row is not None else (1, False)
    return SequenceState(mapping.target_name(name), table, column, value, called)


def set_sequences(conn: psycopg.Connection, states: Sequence[SequenceState]) -> list[str]:
    """Set the target's sequences; one that is ahead stays. Returns a line for each."""
    return [_set(conn, state) for state in states]


def _set(conn: psycopg.Connection, state: SequenceState) -> str:
    schema, table = state.table if state.table is not None else ("", "")
    quoted = sql.Identifier(*state.name).as_string(conn)
    owned = state.table is not None and table_exists(conn, state.table)
    there = _TARGET if owned else "SELECT to_regclass(%(name)s)::text"
    row = conn.execute(
        there.encode(), {"schema": schema, "table": table, "column": state.column, "name": quoted}
    ).fetchone()
    if row is None or row[0] is None:
        return f"{'.'.join(state.name)}: MISSING on the target (source: {state.value})"
    found = conn.execute(
        "SELECT setval(%(name)s::regclass, CASE WHEN s.seqincrement > 0 THEN greatest(%(value)s, c.last) ELSE"
        " least(%(value)s, c.last) END, %(called)s OR c.last IS DISTINCT FROM NULL)"
        "  FROM pg_sequence s, LATERAL (SELECT pg_sequence_last_value(s.seqrelid) AS last) c"
        " WHERE s.seqrelid = %(name)s::regclass",
        {"name": row[0], "value": state.value, "called": state.called},
    ).fetchone()
    return f"{row[0]}: {found[0] if found is not None else '?'}"
