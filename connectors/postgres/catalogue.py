"""Reading the target's catalogue: columns, keys, foreign keys."""

from __future__ import annotations

import psycopg
from psycopg import sql

from connectors.postgres.type_names import type_name_sql
from pipeline.catalogue import BYTEWISE_TYPES, Catalogue, ForeignKey, TableName, TargetColumn, TargetTable

_TABLES = """
SELECT c.oid, n.nspname, c.relname, c.relkind = 'p' FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
   AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname NOT IN ('information_schema', 'headrace')
"""
_COLUMNS = f"""
SELECT a.attrelid, a.attnum, a.attname, {type_name_sql("tn", "t")},
       a.attgenerated <> '', coalesce(l.collisdeterministic, true), a.attidentity = 'a',
       a.atttypmod,
       a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AND t.typdefault IS NULL
  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid JOIN pg_namespace tn ON tn.oid = t.typnamespace
  LEFT JOIN pg_collation l ON l.oid = a.attcollation
 WHERE a.attrelid = ANY (%s) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attrelid, a.attnum
"""
_KEYS = """
SELECT i.indrelid, i.indisprimary, (i.indkey::int2[])[0:i.indnkeyatts - 1],
       i.indpred IS NULL AND i.indexprs IS NULL AND NOT i.indisexclusion
       AND NOT coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::bool, false)
  FROM pg_index i WHERE i.indrelid = ANY (%s) AND (i.indisunique OR i.indisexclusion)
 ORDER BY i.indrelid, i.indisprimary DESC, i.indexrelid
"""
_FOREIGN = """
SELECT f.conrelid, f.conkey, f.confrelid, f.confkey,
       f.confdeltype IN ('c', 'n', 'd') OR f.confupdtype IN ('c', 'n', 'd')
  FROM pg_constraint f
 WHERE f.contype = 'f' AND f.conrelid = ANY (%s) AND f.confrelid = ANY (%s) ORDER BY f.oid
"""


def read_catalogue(conn: psycopg.Connection) -> Catalogue:
    """Return all user tables of the database with their keys."""
    tables = conn.execute(_TABLES).fetchall()
    names: dict[int, TableName] = {oid: (schema, table) for oid, schema, table, _ in tables}
    partitioned = {oid for oid, *_, is_partitioned in tables if is_partitioned}
    oids = list(names)
    columns: dict[int, list[TargetColumn]] = {oid: [] for oid in oids}
    numbers: dict[tuple[int, int], str] = {}
    for oid, number, name, kind, generated, deterministic, fixed, modifier, needed in conn.execute(_COLUMNS, [oids]):
        bytewise = kind in BYTEWISE_TYPES and deterministic
        columns[oid].append(TargetColumn(name, kind, generated, bytewise, fixed, modifier, needed))
        numbers[oid, number] = name
    primary, uniques, opaque = _keys(conn, oids, numbers)
    foreign: dict[int, list[ForeignKey]] = {oid: [] for oid in oids}
    for oid, key, parent, parent_key, acts in conn.execute(_FOREIGN, [oids, oids]):
        own = tuple(numbers[oid, n] for n in key)
        foreign[oid].append(ForeignKey(own, names[parent], tuple(numbers[parent, n] for n in parent_key), acts))
    return Catalogue({
        name: TargetTable(
            name, tuple(columns[oid]), primary.get(oid, ()), tuple(uniques.get(oid, ())),
            tuple(foreign[oid]), oid in opaque, oid in partitioned,
        )
        for oid, name in names.items()
    })  # fmt: skip


def table_exists(conn: psycopg.Connection, name: TableName) -> bool:
    """Whether there is a table of that name."""
    found = conn.execute("SELECT to_regclass(%s)", [sql.Identifier(*name).as_string(conn)]).fetchone()
    return found is not None and found[0] is not None


def column_types(conn: psycopg.Connection, table: TableName) -> dict[str, str]:
    """The table's columns with their types as they are now."""
    oid = sql.Identifier(*table).as_string(conn)
    rows = conn.execute(_COLUMNS.replace("ANY (%s)", "to_regclass(%s)"), [oid])
    return {name: kind for _, _, name, kind, *_ in rows}


def _keys(
    conn: psycopg.Connection, oids: list[int], numbers: dict[tuple[int, int], str]
) -> tuple[dict[int, tuple[str, ...]], dict[int, list[tuple[str, ...]]], set[int]]:
    """Return primary keys, other unique keys, and the tables with uniqueness that no column list states."""
    primary: dict[int, tuple[str, ...]] = {}
    uniques: dict[int, list[tuple[str, ...]]] = {}
    opaque: set[int] = set()
    for oid, is_primary, key, plain in conn.execute(_KEYS, [oids]):
        if not plain:
            opaque.add(oid)
            continue
        columns = tuple(numbers[oid, n] for n in key)
        if is_primary:
            primary[oid] = columns
        else:
            uniques.setdefault(oid, []).append(columns)
    return primary, uniques, opaque
