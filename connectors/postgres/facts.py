"""What the source's catalogue says now about a table in the stream, which is of an earlier moment.

pgoutput names columns and types, and no more. The rest is looked up when a table's description arrives, and is used
only for columns that the catalogue still shows as the stream describes them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import psycopg

from connectors.postgres.errors import connect, translated
from connectors.postgres.source_tables import primary_key
from connectors.postgres.type_names import type_names
from connectors.postgres.types import TEXT_SESSION, local_types


@dataclass(frozen=True, slots=True)
class ColumnFacts:
    """A column in the catalogue; `missing` and `unlogged` as in `schemas.change_batch.Column`.

    A column that was dropped keeps its number there, and no name.
    """

    name: str
    type_oid: int
    modifier: int
    number: int
    missing: str | None
    unlogged: bool
    dropped: bool = False


Described = tuple[str, int, int]  # name, type oid and type modifier, as pgoutput sends them
Identified = tuple[int, str | None, bool]  # number, missing, unlogged


def identify(described: Sequence[Described], facts: Sequence[ColumnFacts]) -> list[Identified]:
    """Return (number, missing, unlogged) of each column that the stream describes, as far as the catalogue tells.

    The catalogue is of a later moment. Columns keep their order and their numbers, so one that has no counterpart
    of its name and type is what lies between its neighbours: dropped since, renamed, or of another type.
    """
    places = {(fact.name, fact.type_oid, fact.modifier): n for n, fact in enumerate(facts) if not fact.dropped}
    found: list[int | None] = []
    last = -1
    for column in described:
        place = places.get(column)
        place = None if place is None or place <= last else place
        last = last if place is None else place
        found.append(place)
    return [_identified(n, described[n], found, facts) for n in range(len(described))]


def _identified(n: int, column: Described, found: Sequence[int | None], facts: Sequence[ColumnFacts]) -> Identified:
    place = found[n]
    if place is not None:
        return facts[place].number, facts[place].missing, facts[place].unlogged
    before = max((p for p in found[:n] if p is not None), default=-1)
    after = min((p for p in found[n:] if p is not None), default=len(facts))
    between = facts[before + 1 : after]
    alike = [fact for fact in between if fact.type_oid == column[1]]
    dropped = [fact for fact in between if fact.dropped]
    if not alike and dropped:
        # Whatever its rows had, it is gone at the source, and a later change says so.
        return dropped[0].number if len(dropped) == 1 else 0, None, False
    if len(alike) == len(between) == 1:
        return alike[0].number, alike[0].missing, alike[0].unlogged
    return 0, None, True


class Facts(Protocol):
    """What a decoder asks about its source."""

    def type_name(self, oid: int) -> str | None:
        """The type's name, bare for built-in ones; None for one that is not (or no more) there."""

    def travels(self, oid: int) -> bool:
        """Whether the type's binary form means the same on another server."""

    def primary_key(self, schema: str, table: str) -> tuple[str, ...] | None:
        """The primary key's columns; None when the table has none."""

    def columns(self, oid: int) -> Sequence[ColumnFacts]:
        """The table's columns in order, dropped ones too, generated ones not; none when the table is gone."""


# A column added with a constant default is not written into the rows that are there: their value is kept in
# attmissingval, of the leaves of a partitioned table. A volatile default is written into the table without a trace in
# the log. Source: PostgreSQL manual, pg_attribute; ALTER TABLE, "Notes".
_COLUMNS = """
SELECT a.attname, a.atttypid::bigint, a.atttypmod, a.attnum,
       CASE WHEN m.value IS NOT NULL THEN (m.value::text::text[])[1] END,
       m.value IS NULL AND (a.attidentity <> '' OR coalesce(v.volatile, false)
           OR EXISTS (SELECT FROM pg_type t WHERE t.oid = a.atttypid AND t.typtype = 'd' AND t.typdefault IS NOT NULL)),
       a.attisdropped
  FROM pg_attribute a
  LEFT JOIN LATERAL (
      SELECT x.attmissingval AS value FROM pg_attribute x
       WHERE x.attname = a.attname AND x.atthasmissing
         AND x.attrelid IN (SELECT a.attrelid UNION ALL SELECT p.relid FROM pg_partition_tree(a.attrelid) p)
       LIMIT 1) m ON true
  LEFT JOIN LATERAL (
      SELECT bool_or(p.provolatile = 'v') AS volatile FROM pg_attrdef d,
             regexp_matches(d.adbin::text, ':(?:funcid|opfuncid) (\\d+)', 'g') f (id)
             JOIN pg_proc p ON p.oid = f.id[1]::oid
       WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum) v ON true
 WHERE a.attrelid = %s AND a.attnum > 0 AND a.attgenerated = ''
 ORDER BY a.attnum
"""

# A commit is in the log, and on its way to us, a moment before other sessions see it: until it has given back its
# locks, the catalogue may be older than the stream. Source: PostgreSQL, CommitTransaction in xact.c.
_ALTERED = """
SELECT FROM pg_locks
 WHERE relation = %s AND mode = 'AccessExclusiveLock' AND granted
   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
SETTLE_S = 2.0  # an ALTER TABLE that takes longer is a later one
LOOK_S = 0.01


class SourceFacts:
    """Looks facts up on a connection of its own, opened when first needed."""

    def __init__(self, stream: str, dsn: str) -> None:
        self._stream = stream
        self._dsn = dsn
        self._conn: psycopg.Connection | None = None
        self._types: dict[int, str] = {}
        self._travels: dict[int, bool] = {}

    def _open(self) -> psycopg.Connection:
        if self._conn is None or self._conn.closed:
            self._conn = connect(self._dsn, f"headrace {self._stream} catalogue", **TEXT_SESSION)
        return self._conn

    def type_name(self, oid: int) -> str | None:
        """See `Facts`."""
        if oid not in self._types:
            with translated(f"stream {self._stream}: reading the source's types"):
                self._types = type_names(self._open())
        return self._types.get(oid)

    def travels(self, oid: int) -> bool:
        """See `Facts`."""
        found = self._travels.get(oid)
        if found is None:
            with translated(f"stream {self._stream}: reading the source's types"):
                there = self._open().execute("SELECT FROM pg_type WHERE oid = %s", [oid]).fetchone() is not None
                found = self._travels[oid] = there and not local_types(self._open(), [oid])
        return found

    def primary_key(self, schema: str, table: str) -> tuple[str, ...] | None:
        """See `Facts`."""
        with translated(f"stream {self._stream}: reading the source's keys"):
            return primary_key(self._open(), schema, table)

    def columns(self, oid: int) -> Sequence[ColumnFacts]:
        """See `Facts`. Waits for a running ALTER TABLE, but not longer than `SETTLE_S`."""
        deadline_s = time.monotonic() + SETTLE_S
        with translated(f"stream {self._stream}: reading the source's columns"):
            while self._open().execute(_ALTERED, [oid]).fetchone() is not None and time.monotonic() < deadline_s:
                time.sleep(LOOK_S)
            return [ColumnFacts(*row) for row in self._open().execute(_COLUMNS, [oid])]

    def close(self) -> None:
        """Drop the connection."""
        if self._conn is not None:
            self._conn.close()
