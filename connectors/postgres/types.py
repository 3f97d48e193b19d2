"""Types whose binary form does not travel to another server.

An array names its element type by OID and a composite those of its columns; for built-in types these are
the same everywhere, for others they are not. The `reg...` types are OIDs altogether. And an array or
composite of a type without a binary form has none either, which PostgreSQL notices too late.
"""

from __future__ import annotations

from collections.abc import Collection

import psycopg
from psycopg import sql

from connectors.postgres.source_tables import SourceTable
from pipeline.catalogue import TableName

LocalColumns = set[tuple[TableName, str]]
_FIRST_USER_OID = 16384  # FirstNormalObjectId in PostgreSQL's access/transam.h
# What the source's session must be so that text means the same on the target, whatever its settings
# (native logical replication sets the first three; `search_path` makes reg... names qualified).
TEXT_SESSION = {
    "DateStyle": "ISO", "IntervalStyle": "postgres", "extra_float_digits": "3", "lc_monetary": "C",
    "bytea_output": "hex", "search_path": "pg_catalog",
}  # fmt: skip

_LOCAL_TYPES = """
WITH RECURSIVE used (root, type, nested) AS (
    SELECT o, o, false FROM unnest(%(types)s::oid[]) o
  UNION
    SELECT u.root, inner_type.oid, true FROM used u JOIN pg_type t ON t.oid = u.type,
         LATERAL (
             SELECT t.typelem AS oid WHERE t.typelem <> 0
             UNION ALL SELECT t.typbasetype WHERE t.typbasetype <> 0
             UNION ALL SELECT r.rngsubtype FROM pg_range r WHERE t.oid IN (r.rngtypid, r.rngmultitypid)
             UNION ALL SELECT a.atttypid FROM pg_attribute a
                        WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
         ) inner_type
)
SELECT DISTINCT u.root::bigint FROM used u JOIN pg_type t ON t.oid = u.type
 WHERE (u.nested AND t.typsend = 0)
    OR (t.typcategory = 'A' AND t.typelem >= %(first)s)
    OR (t.typtype = 'c' AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0
                                       AND NOT a.attisdropped AND a.atttypid >= %(first)s))
    OR (t.typnamespace = 'pg_catalog'::regnamespace AND t.typname LIKE 'reg%%' AND t.typtype = 'b')
"""
_COLUMN_TYPES = """
SELECT n.nspname, c.relname, a.attname, a.atttypid::bigint
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE a.attrelid = ANY (%s::regclass[]::oid[]) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1, 2, a.attnum
"""


def local_types(conn: psycopg.Connection, oids: Collection[int]) -> set[int]:
    """Return those of the types whose values can travel to another server only as text."""
    rows = conn.execute(_LOCAL_TYPES, {"types": list(oids), "first": _FIRST_USER_OID})
    return {int(oid) for (oid,) in rows}


def local_columns(conn: psycopg.Connection, tables: list[SourceTable], *, every: bool = False) -> LocalColumns:
    """Return the columns that can travel to another server only as text (`every`: all, to one of another release)."""
    names = [sql.Identifier(*table.name).as_string(conn) for table in tables]
    columns = conn.execute(_COLUMN_TYPES, [names]).fetchall()
    local = local_types(conn, {oid for *_, oid in columns})
    return {((schema, table), column) for schema, table, column, oid in columns if every or oid in local}
