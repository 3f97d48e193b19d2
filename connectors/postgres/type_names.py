"""Names of types as the records have them: bare for built-in ones, else schema.type.

A schema that has a dot in its name, or begins with a quotation mark, is written in quotation marks: `"a.b".mood`.
"""

from __future__ import annotations

import re

import psycopg
from psycopg import sql

from pipeline.relations import type_text

_QUOTED = re.compile(r'"((?:[^"]|"")*)"\.(.*)', re.DOTALL)


def type_name_sql(namespace: str, kind: str) -> str:
    """The SQL expression of a type's name, of aliases of pg_namespace and pg_type."""
    schema = f"{namespace}.nspname"
    quoted = f"""'"' || replace({schema}, '"', '""') || '"'"""
    plain = f"strpos({schema}, '.') = 0 AND strpos({schema}, '\"') <> 1"
    return (
        f"CASE WHEN {schema} = 'pg_catalog' THEN {kind}.typname::text"
        f" WHEN {plain} THEN {schema} || '.' || {kind}.typname ELSE {quoted} || '.' || {kind}.typname END"
    )


def type_names(conn: psycopg.Connection) -> dict[int, str]:
    """The names of the types there are, by number."""
    kinds = "pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace"
    rows = conn.execute(f"SELECT t.oid, {type_name_sql('n', 't')} FROM {kinds}")
    return {int(oid): str(name) for oid, name in rows}


def split_type_name(name: str) -> tuple[str, str]:
    """Schema and name of a type."""
    quoted = _QUOTED.fullmatch(name)
    if quoted is not None:
        return quoted[1].replace('""', '"'), quoted[2]
    schema, dot, bare = name.partition(".")
    return (schema, bare) if dot else ("pg_catalog", name)


def type_name(name: str) -> sql.Identifier:
    """The quoted name of a type."""
    return sql.Identifier(*split_type_name(name))


def sql_type(kind: str, modifier: int) -> sql.Composable:
    """A type with its modifier, quoted."""
    return type_name(kind) + sql.SQL(type_text(kind, modifier)[len(kind) :])
