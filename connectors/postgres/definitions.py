"""Reading the definitions of the source's tables, and creating those that the target lacks.

Names and types are composed from the catalogue's entries; no SQL text of the source runs on the target. So what
only exists as text (expressions of defaults, checks, generated columns, partial indexes) is left out, and said.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import psycopg
from psycopg import sql

from connectors.postgres.catalogue import table_exists
from connectors.postgres.source_tables import SourceTable
from connectors.postgres.type_names import split_type_name, sql_type, type_name, type_name_sql
from pipeline.catalogue import TableName
from pipeline.definitions import (
    ColumnDefinition,
    ReferenceDefinition,
    TableDefinition,
    TypeDefinition,
    UniqueDefinition,
)  # fmt: skip
from pipeline.errors import ConfigError

_NAME = type_name_sql("n", "t")
_COLUMNS = (
    """
SELECT a.attname, a.atttypid::bigint, """
    + _NAME
    + """, a.atttypmod, a.attnotnull,
       a.attidentity <> '' OR pg_get_serial_sequence(quote_ident(s.nspname) || '.' || quote_ident(c.relname), a.attname)
       IS NOT NULL, a.attgenerated <> '', a.atthasdef AND a.attgenerated = ''
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace s ON s.oid = c.relnamespace
  JOIN pg_type t ON t.oid = a.atttypid JOIN pg_namespace n ON n.oid = t.typnamespace
 WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
)
# Source: PostgreSQL manual, pg_index and pg_constraint. Exclusion constraints are unique indexes in no sense.
_UNIQUES = """
SELECT i.indexrelid::regclass::text, i.indisprimary, i.indpred IS NULL AND i.indexprs IS NULL AND NOT i.indisexclusion,
       array(SELECT a.attname::text FROM unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) WITH ORDINALITY k (n, o)
               JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.n ORDER BY k.o),
       coalesce(u.condeferrable, false), coalesce(u.condeferred, false),
       coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::bool, false)
  FROM pg_index i LEFT JOIN pg_constraint u ON u.conindid = i.indexrelid AND u.contype IN ('p', 'u')
 WHERE i.indrelid = %s::regclass AND (i.indisunique OR i.indisexclusion) ORDER BY i.indisprimary DESC, i.indexrelid
"""
_REFERENCES = """
SELECT array(SELECT a.attname::text FROM unnest(f.conkey) WITH ORDINALITY k (n, o)
               JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = k.n ORDER BY k.o),
       n.nspname::text, p.relname::text,
       array(SELECT a.attname::text FROM unnest(f.confkey) WITH ORDINALITY k (n, o)
               JOIN pg_attribute a ON a.attrelid = f.confrelid AND a.attnum = k.n ORDER BY k.o),
       f.confdeltype::text, f.confupdtype::text, f.condeferrable, f.condeferred
  FROM pg_constraint f JOIN pg_class p ON p.oid = f.confrelid JOIN pg_namespace n ON n.oid = p.relnamespace
 WHERE f.conrelid = %s::regclass AND f.contype = 'f' AND f.conparentid = 0 ORDER BY f.oid
"""
_TYPE = (
    "SELECT "
    + _NAME
    + """, t.typtype::text, t.typelem::bigint, t.typcategory = 'A' AND t.typelem <> 0, t.typbasetype::bigint,
       t.typtypmod, t.typnotnull, t.typrelid::bigint, n.nspname = 'pg_catalog',
       EXISTS (SELECT FROM pg_constraint x WHERE x.contypid = t.oid AND x.contype = 'c'),
       array(SELECT e.enumlabel::text FROM pg_enum e WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder)
  FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.oid = %s
"""
)
_FIELDS = (
    "SELECT attname, atttypid::bigint, atttypmod FROM pg_attribute WHERE attrelid = %s AND attnum > 0 ORDER BY attnum"
)
_TYPE_THERE = """
SELECT FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE n.nspname = %s AND t.typname = %s
"""
_ACTIONS = {"r": "RESTRICT", "c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}


class _Types:
    """Type definitions by number, each read once."""

    def __init__(self, conn: psycopg.Connection) -> None:
        self._conn = conn
        self._names: dict[int, str] = {}
        self._needs: dict[int, tuple[TypeDefinition, ...]] = {}

    def needs(self, oid: int) -> tuple[TypeDefinition, ...]:
        """The types that have to exist for a column of this one, in order of creation."""
        if oid not in self._needs:
            self._needs[oid] = ()  # a composite of its own array
            self._needs[oid] = tuple(dict.fromkeys(self._read(oid)))
        return self._needs[oid]

    def _read(self, oid: int) -> Iterator[TypeDefinition]:
        row = self._conn.execute(_TYPE, [oid]).fetchone()
        if row is None:
            return
        name, kind, element, is_array, base, modifier, not_null, relation, built_in, checked, labels = row
        self._names[oid] = name
        if is_array:
            yield from self.needs(element)
        elif built_in:
            return
        elif kind == "e":
            yield TypeDefinition(name, labels=tuple(labels))
        elif kind == "d":
            yield from self.needs(base)
            problem = "is a domain with checks" if checked else ""
            yield TypeDefinition(
                name, base=self._name(base), modifier=modifier, not_null=not_null, problem=problem
            )  # fmt: skip
        elif kind == "c":
            fields = self._conn.execute(_FIELDS, [relation]).fetchall()
            for _, of, _ in fields:
                yield from self.needs(of)
            yield TypeDefinition(name, fields=tuple((field, self._name(of), mod) for field, of, mod in fields))
        else:
            yield TypeDefinition(name, problem="comes from an extension, or is a range")

    def _name(self, oid: int) -> str:
        self.needs(oid)
        return self._names[oid]


def read_definitions(conn: psycopg.Connection, tables: Sequence[SourceTable]) -> list[TableDefinition]:
    """The definitions of the source's tables, by the source's names."""
    types = _Types(conn)
    return [_read_table(conn, table.name, types) for table in tables]


def _read_table(conn: psycopg.Connection, name: TableName, types: _Types) -> TableDefinition:
    quoted = [sql.Identifier(*name).as_string(conn)]
    columns: list[ColumnDefinition] = []
    left_out: list[str] = []
    computed: list[str] = []
    for column, oid, kind, modifier, not_null, sequence, generated, default in conn.execute(
        _COLUMNS, quoted
    ).fetchall():
        if generated:
            left_out.append(f"generated column {column}")
            computed.append(column)
            continue
        if default and not sequence:
            left_out.append(f"default of {column}")
        columns.append(ColumnDefinition(column, kind, modifier, not_null, sequence, types.needs(oid)))
    uniques: list[UniqueDefinition] = []
    for index, primary, plain, key, deferrable, deferred, nulls_equal in conn.execute(_UNIQUES, quoted):
        if plain and {*key} <= {c.name for c in columns}:
            uniques.append(UniqueDefinition(tuple(key), primary, deferrable, deferred, nulls_equal))
        else:
            left_out.append(f"index {index}")
    references = tuple(
        ReferenceDefinition(tuple(own), (schema, table), tuple(parent), *more)
        for own, schema, table, parent, *more in conn.execute(_REFERENCES, quoted)
    )
    return TableDefinition(name, tuple(columns), tuple(uniques), references, tuple(left_out), tuple(computed))


def create_missing(conn: psycopg.Connection, tables: Sequence[TableDefinition]) -> list[str]:
    """Create the tables that are not there, with the types and schemas that they need; returns what was done.

    Raises ConfigError for a type that can't be created.
    """
    missing = [table for table in tables if not table_exists(conn, table.name)]
    done: list[str] = []
    with conn.transaction():
        conn.execute("SELECT pg_advisory_xact_lock(hashtext('headrace create tables'))")
        for table in missing:
            _create_schema(conn, table.name[0])
            for kind in dict.fromkeys(kind for column in table.columns for kind in column.needs):
                if conn.execute(_TYPE_THERE, split_type_name(kind.name)).fetchone() is None:
                    _create_type(conn, kind, table)
                    done.append(f"type {kind.name}")
            conn.execute(_create_table(table))
            left_out = f" without {', '.join(table.left_out)}" if table.left_out else ""
            done.append(f"table {'.'.join(table.name)}{left_out}")
        there = {table.name for table in tables}
        for table in missing:
            for reference in table.references:
                if reference.parent in there:
                    conn.execute(_add_reference(table.name, reference))
                else:
                    done.append(
                        f"no foreign key of {'.'.join(table.name)} to {'.'.join(reference.parent)}: not replicated"
                    )
    return done


def _create_schema(conn: psycopg.Connection, name: str) -> None:
    if conn.execute("SELECT FROM pg_namespace WHERE nspname = %s", [name]).fetchone() is None:
        conn.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))


def _create_type(conn: psycopg.Connection, kind: TypeDefinition, table: TableDefinition) -> None:
    if kind.problem:
        raise ConfigError(
            f"create_tables: table {'.'.join(table.name)} needs type {kind.name}, which {kind.problem}: create it on "
            "the target (CREATE EXTENSION, CREATE TYPE, CREATE DOMAIN), then start again"
        )
    _create_schema(conn, split_type_name(kind.name)[0])
    name = type_name(kind.name)
    if kind.base:
        not_null = sql.SQL(" NOT NULL" if kind.not_null else "")
        conn.execute(sql.SQL("CREATE DOMAIN {} AS {}{}").format(name, sql_type(kind.base, kind.modifier), not_null))
    elif kind.fields:
        fields = _list(sql.SQL("{} {}").format(sql.Identifier(f), sql_type(of, mod)) for f, of, mod in kind.fields)
        conn.execute(sql.SQL("CREATE TYPE {} AS ({})").format(name, fields))
    else:
        conn.execute(sql.SQL("CREATE TYPE {} AS ENUM ({})").format(name, _list(map(sql.Literal, kind.labels))))


def _create_table(table: TableDefinition) -> sql.Composed:
    parts = [_column(column) for column in table.columns]
    for key in table.uniques:
        kind = sql.SQL("PRIMARY KEY" if key.primary else "UNIQUE NULLS NOT DISTINCT" if key.nulls_equal else "UNIQUE")
        columns = _list(map(sql.Identifier, key.columns))
        parts.append(sql.SQL("{} ({}){}").format(kind, columns, _deferrable(key.deferrable, key.deferred)))
    return sql.SQL("CREATE TABLE {} ({})").format(sql.Identifier(*table.name), _list(parts))


def _column(column: ColumnDefinition) -> sql.Composed:
    # Not GENERATED ALWAYS: no UPDATE could set it.
    identity = sql.SQL(" GENERATED BY DEFAULT AS IDENTITY" if column.sequence else "")
    not_null = sql.SQL(" NOT NULL" if column.not_null else "")
    return sql.SQL("{} {}{}{}").format(
        sql.Identifier(column.name), sql_type(column.type, column.modifier), not_null, identity
    )


def _add_reference(name: TableName, key: ReferenceDefinition) -> sql.Composed:
    delete, update = (
        sql.SQL(f" ON {event} {_ACTIONS[action]}") if action in _ACTIONS else sql.SQL("")
        for event, action in (("DELETE", key.on_delete), ("UPDATE", key.on_update))
    )
    return sql.SQL("ALTER TABLE {} ADD FOREIGN KEY ({}) REFERENCES {} ({}){}{}{}").format(
        sql.Identifier(*name), _list(map(sql.Identifier, key.columns)), sql.Identifier(*key.parent),
        _list(map(sql.Identifier, key.parent_columns)), delete, update, _deferrable(key.deferrable, key.deferred),
    )  # fmt: skip


def _deferrable(deferrable: bool, deferred: bool) -> sql.SQL:
    if not deferrable:
        return sql.SQL("")
    return sql.SQL(" DEFERRABLE INITIALLY DEFERRED" if deferred else " DEFERRABLE")


def _list(items: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(items)
