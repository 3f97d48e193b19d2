"""The statements that apply the net change of one relation, and where they take its rows from.

Arrays as parameters, where every column's type allows it; else a temporary table that COPY fills (`ON COMMIT
DELETE ROWS` was 6 % better than TRUNCATE).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import psycopg
from psycopg import sql

from connectors.postgres.arrays import arrays
from connectors.postgres.mapping import TableMap
from connectors.postgres.pipelined import Statement
from connectors.postgres.type_names import type_name

_BINARY = 1


class SetStatements:
    """The statements of one relation on this connection; `types` are those that arrays can carry."""

    def __init__(self, conn: psycopg.Connection, number: int, mapped: TableMap, types: Mapping[str, int]) -> None:
        self._conn = conn
        self.mapped = mapped
        self.keys = [n for n, column in enumerate(mapped.relation.columns) if column.key]
        self.everything = list(range(len(mapped.relation.columns)))
        self.types: list[int] | None = None  # of the target's columns, as a query describes them
        self.row_stage = f"headrace_rows_{number}"
        self.key_stage = f"headrace_keys_{number}"
        elements = [types.get(kind, 0) for kind in mapped.staged]
        self._elements = elements if elements and all(elements) else None
        self._texts: dict[tuple[str, bytes], bytes] = {}

    @property
    def by_arrays(self) -> bool:
        """Whether rows travel as arrays."""
        return self._elements is not None

    # -- statements; without rows they take those of the temporary table -------------------------

    def delete(self, keys: list[bytes] | None = None) -> Statement:
        """The DELETE of `keys`."""
        text = self._text("delete", b"", lambda: sql.SQL("DELETE FROM {} t USING {} WHERE {}").format(
            self.mapped.rows, self._source(self.key_stage, self.keys), self._matches()
        ))  # fmt: skip
        return self._statement(text, keys, self.keys, tuples=False)

    def update(self, mask: bytes, rows: list[bytes] | None = None) -> Statement:
        """The UPDATE by `rows` that leaves the columns of `mask` alone."""
        columns = [n for n in self.everything if self._is_set(n, mask)] or self.keys[:1]
        used = sorted({*columns, *self.keys})
        text = self._text("update", mask, lambda: sql.SQL("UPDATE {} t SET {} FROM {} WHERE {}").format(
            self.mapped.rows, self._sets(columns), self._source(self.row_stage, used), self._matches()
        ))  # fmt: skip
        return self._statement(text, rows, used)

    def insert(self, rows: list[bytes] | None = None) -> Statement:
        """The INSERT of `rows`."""
        return self._statement(self._text("insert", b"", self._compose_insert), rows, self.everything)

    def move(self, rows: list[bytes] | None = None) -> Statement | None:
        """The statement that gives columns which are always generated their new values, where they differ."""
        fixed = [n for n in self.mapped.fixed() if n not in self.keys]
        if not fixed:
            return None
        return self._statement(self._text("move", b"", lambda: self._compose_move(fixed)), rows, self.everything)

    # -- COPY --------------------------------------------------------------------------------------

    def create(self, stage: str, columns: list[int]) -> sql.Composed:
        """The temporary table for these columns."""
        fields = sql.SQL(", ").join(
            sql.SQL("{} {}").format(_field(n), type_name(self.mapped.staged[n])) for n in columns
        )
        return sql.SQL("CREATE TEMPORARY TABLE {} ({}) ON COMMIT DELETE ROWS").format(sql.Identifier(stage), fields)

    def copy_direct(self) -> sql.Composed:
        """COPY into the target's table."""
        names = _names(self.mapped, self.everything)
        return sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(self.mapped.target, names)

    def look(self) -> sql.Composed:
        """A query of no rows. Its description has the columns' types, which its lock keeps until the end."""
        return sql.SQL("SELECT {} FROM {} LIMIT 0").format(_names(self.mapped, self.everything), self.mapped.rows)

    # -- texts -------------------------------------------------------------------------------------

    def _statement(self, text: bytes, rows: list[bytes] | None, used: list[int], *, tuples: bool = True) -> Statement:
        if rows is None or self._elements is None:
            return Statement(text, [], [])
        columns = self.everything if tuples else used
        _, found = arrays(rows, [self._elements[n] for n in columns], tuples)
        chosen = [found[n] for n in used] if tuples else found
        return Statement(text, chosen, [_BINARY] * len(chosen))

    def _text(self, what: str, mask: bytes, compose: Callable[[], sql.Composed]) -> bytes:
        found = self._texts.get((what, mask))
        if found is None:
            found = self._texts[what, mask] = compose().as_bytes(self._conn)
        return found

    def _source(self, stage: str, columns: list[int]) -> sql.Composed:
        """What stands for the rows in FROM."""
        if self._elements is None:
            return sql.SQL("{} s").format(temporary(stage))
        lists = sql.SQL(", ").join(
            sql.SQL("$" + str(place) + "::{}[]").format(type_name(self.mapped.staged[n]))
            for place, n in enumerate(columns, start=1)
        )
        return sql.SQL("unnest({}) s({})").format(lists, sql.SQL(", ").join(map(_field, columns)))

    def _is_set(self, n: int, mask: bytes) -> bool:
        return n not in self.keys and self.mapped.settable(n) and not (mask and mask[n >> 3] >> (n & 7) & 1)

    def _sets(self, columns: list[int]) -> sql.Composed:
        return sql.SQL(", ").join(
            sql.SQL("{} = {}").format(
                sql.Identifier(self.mapped.relation.columns[n].name), self.mapped.assigned(n, _staged(n))
            )
            for n in columns
        )

    def _compose_insert(self) -> sql.Composed:
        values = sql.SQL(", ").join(self.mapped.assigned(n, _staged(n)) for n in self.everything)
        return sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {}").format(
            self.mapped.target, _names(self.mapped, self.everything), values,
            self._source(self.row_stage, self.everything),
        )  # fmt: skip

    def _compose_move(self, fixed: list[int]) -> sql.Composed:
        new = {n: sql.Identifier(f"headrace new {n}") for n in fixed}
        differs = sql.SQL(" OR ").join(
            sql.SQL("t.{} IS DISTINCT FROM {}").format(
                sql.Identifier(self.mapped.relation.columns[n].name), self.mapped.assigned(n, _staged(n))
            )
            for n in fixed
        )
        values = sql.SQL(", ").join(
            sql.SQL("{} AS {}").format(self.mapped.assigned(n, _staged(n)), name) for n, name in new.items()
        )
        old = sql.SQL("DELETE FROM {} t USING {} WHERE {} AND ({}) RETURNING t.*, {}").format(
            self.mapped.rows, self._source(self.row_stage, self.everything), self._matches(), differs, values
        )
        return self.mapped.moved(old, {n: sql.SQL("o.{}").format(name) for n, name in new.items()})

    def _matches(self) -> sql.Composed:
        return sql.SQL(" AND ").join(
            sql.SQL("t.{} = {}").format(
                sql.Identifier(self.mapped.relation.columns[n].name), self.mapped.assigned(n, _staged(n))
            )
            for n in self.keys
        )


def temporary(stage: str) -> sql.Identifier:
    """The name of a temporary table."""
    return sql.Identifier("pg_temp", stage)


def _field(n: int) -> sql.Identifier:
    return sql.Identifier(f"c{n}")


def _staged(n: int) -> sql.Composable:
    return sql.SQL("s.{}").format(_field(n))


def _names(mapped: TableMap, columns: list[int]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(mapped.relation.columns[n].name) for n in columns)
