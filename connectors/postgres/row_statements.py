"""The statements that write single rows of one relation, as texts."""

from __future__ import annotations

import psycopg
from psycopg import sql

from connectors.postgres.mapping import TableMap
from connectors.postgres.type_names import type_name


class RowStatements:
    """Statement texts of one relation."""

    def __init__(self, mapped: TableMap, conn: psycopg.Connection) -> None:
        self._mapped = mapped
        self._conn = conn
        columns = mapped.relation.columns
        self.everything = list(range(len(columns)))
        self.keys = [n for n, column in enumerate(columns) if column.key]
        self.formats = [int(column.binary) for column in columns]
        self.key_formats = [self.formats[n] for n in self.keys]
        self.unique = bool(self.keys) and not (mapped.relation.identity == "f" and len(self.keys) == len(columns))
        self.rows = mapped.rows
        self.insert = self._insert()
        self.delete = self._delete()
        self.fixed = mapped.fixed()
        self._move = b""
        self.unless_there = self._unless_there()
        self._updates: dict[tuple[bytes, bool], tuple[bytes, list[int]]] = {}

    def _text(self, composed: sql.Composable) -> bytes:
        return composed.as_bytes(self._conn)

    def _value(self, n: int, place: int) -> sql.Composable:
        typed = sql.SQL("$" + str(place) + "::{}").format(type_name(self._mapped.staged[n]))
        return self._mapped.assigned(n, typed)

    def _name(self, n: int) -> sql.Identifier:
        return sql.Identifier(self._mapped.relation.columns[n].name)

    def _insert(self) -> bytes:
        names = sql.SQL(", ").join(self._name(n) for n in self.everything)
        values = sql.SQL(", ").join(self._value(n, n + 1) for n in self.everything)
        if not self.everything:
            return self._text(sql.SQL("INSERT INTO {} DEFAULT VALUES").format(self._mapped.target))
        return self._text(
            sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({})").format(
                self._mapped.target, names, values
            )
        )

    def _unless_there(self) -> bytes:
        """What makes an INSERT do nothing where its key is there: where the source's key is the target's."""
        names = tuple(self._mapped.relation.columns[n].name for n in self.keys)
        if not names or set(names) != set(self._mapped.table.primary_key):
            return b""
        columns = sql.SQL(", ").join(map(sql.Identifier, names))
        return self._text(sql.SQL(" ON CONFLICT ({}) DO NOTHING").format(columns))

    def _where(self, first: int) -> sql.Composed:
        if self.unique:
            tests = [
                sql.SQL("{} = {}").format(self._name(n), self._value(n, first + i)) for i, n in enumerate(self.keys)
            ]
            return sql.SQL(" AND ").join(tests)
        # Equal rows are interchangeable: any one of them. Compared as text, since not every type has "=".
        tests = [
            sql.SQL("{}::text IS NOT DISTINCT FROM ({})::text").format(self._name(n), self._value(n, first + i))
            for i, n in enumerate(self.keys)
        ]
        return sql.SQL("(tableoid, ctid) = (SELECT tableoid, ctid FROM {} WHERE {} LIMIT 1)").format(
            self._mapped.rows, sql.SQL(" AND ").join(tests)
        )

    def _delete(self) -> bytes:
        if not self.keys:
            return b""
        return self._text(sql.SQL("DELETE FROM {} WHERE {}").format(self._mapped.rows, self._where(1)))

    def update(self, mask: bytes, *, moves: bool) -> tuple[bytes, list[int]]:
        """The UPDATE that leaves the masked columns alone, and the columns it sets; the key's if it `moves`."""
        found = self._updates.get((mask, moves))
        if found is None:
            columns = [n for n in self.everything if self._is_set(n, mask, moves=moves)] or self.keys[:1]
            sets = sql.SQL(", ").join(
                sql.SQL("{} = {}").format(self._name(n), self._value(n, i + 1)) for i, n in enumerate(columns)
            )
            text = sql.SQL("UPDATE {} SET {} WHERE {}").format(self._mapped.rows, sets, self._where(len(columns) + 1))
            found = self._updates[mask, moves] = (self._text(text), columns)
        return found

    def _is_set(self, n: int, mask: bytes, *, moves: bool) -> bool:
        if mask and mask[n >> 3] >> (n & 7) & 1:
            return False
        return self._mapped.settable(n) and (moves or n not in self.keys)

    def move(self) -> bytes:
        """The statement that gives columns which are always generated their new values, where they differ.

        Parameters: those values, then the key.
        """
        if not self._move:
            values = {n: self._value(n, place) for place, n in enumerate(self.fixed, start=1)}
            differs = sql.SQL(" OR ").join(
                sql.SQL("{} IS DISTINCT FROM {}").format(self._name(n), value) for n, value in values.items()
            )
            old = sql.SQL("DELETE FROM {} WHERE {} AND ({}) RETURNING *").format(
                self._mapped.rows, self._where(len(values) + 1), differs
            )
            self._move = self._text(self._mapped.moved(old, values))
        return self._move
