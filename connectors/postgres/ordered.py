"""The ordered way: row by row in source order, as pipelined prepared statements.

Used for small units, where a COPY costs more round trips than it saves, and wherever merging can't be
right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import psycopg
from psycopg import sql

from connectors.errors import RefusedError
from connectors.postgres.mapping import TableMap, map_table
from connectors.postgres.pipelined import Statement, StatementPipeline
from connectors.postgres.types import type_name
from pipeline.catalogue import Catalogue, TableName
from schemas.change_batch import DELETE, INSERT, TRUNCATE, ChangeBatch, Relation, Section, iter_order
from schemas.rows import Field, key_fields, row_fields

CASCADE, RESTART_IDENTITY = 1, 2  # option bits of pgoutput's Truncate message


@dataclass(frozen=True, slots=True)
class RowChange:
    """One statement of a unit; `counted` says that it must touch exactly one row.

    `instead` makes the row what the change wants when an UPDATE finds none or an INSERT finds one.
    """

    statement: Statement
    table: str
    op: str
    position: int
    counted: bool
    instead: Statement | None = None


class _RowStatements:
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


class RowWriter:
    """Applies changes row by row on one connection, inside the caller's transaction."""

    def __init__(
        self, conn: psycopg.Connection, pipeline: StatementPipeline, catalogue: Catalogue, *, enforced: bool
    ) -> None:
        self._conn = conn
        # Where the target enforces foreign keys, the change of a parent may have deleted or moved the row already.
        self._cascading = {
            name for name, table in catalogue.tables.items() if enforced and any(key.acts for key in table.foreign_keys)
        }
        self._acting = catalogue.acting_parents() if enforced else frozenset[TableName]()
        self._pipeline = pipeline
        self._catalogue = catalogue
        self._statements: dict[Relation, _RowStatements] = {}

    def changes(
        self, batches: Sequence[ChangeBatch], ranks: range | None = None, *, tolerant: bool = False
    ) -> Iterator[RowChange]:
        """Yield the statements of the batches (of the given ranks) in source order.

        Those of a `tolerant` INSERT do nothing where the key is there; changes have an `instead` if they can.
        Raises RefusedError, SchemaError.
        """
        for batch in batches:
            cuts = [_SectionCut(section) for section in batch.sections]
            truncated = -1
            for rank, number, row in iter_order(batch):
                cut = cuts[number]
                if ranks is not None and rank not in ranks:
                    continue
                if cut.section.ops[row] == TRUNCATE:
                    if rank != truncated:
                        yield self._truncate(batch, rank)
                    truncated = rank
                else:
                    for change in self._change(cut, row, batch.positions[cut.section.tx[row]]):
                        yield self._tolerant(change, cut, row) if tolerant else change

    def check(self, changes: Sequence[RowChange], counts: Sequence[int]) -> int:
        """Return the rows changed. Raises RefusedError for an UPDATE or DELETE that did not find its row."""
        for change, count in zip(changes, counts, strict=True):
            if change.counted and count != 1:
                raise RefusedError(
                    f"table {change.table}: {change.op} at position {change.position} found {count} rows, not 1; "
                    "was the target changed by someone else?",
                    "HR001",
                )
        return len(changes)

    def _change(self, cut: _SectionCut, row: int, position: int) -> Iterator[RowChange]:
        relation = cut.section.relation
        statements = self._for(relation)
        op, width = cut.section.ops[row], len(relation.columns)
        table = f"{relation.schema}.{relation.table}"
        if op == INSERT:
            fields = row_fields(cut.rows[row], width)
            yield RowChange(Statement(statements.insert, fields, statements.formats), table, "INSERT", position, True)
            return
        key = key_fields(cut.old_keys.get(row, cut.keys[row]), len(statements.keys))
        if op == DELETE:
            statement = Statement(statements.delete, key, statements.key_formats)
            yield RowChange(statement, table, "DELETE", position, relation.name not in self._cascading)
            return
        fields = row_fields(cut.rows[row], width)
        if statements.fixed:
            fixed = [fields[n] for n in statements.fixed]
            formats = [statements.formats[n] for n in statements.fixed] + statements.key_formats
            yield RowChange(Statement(statements.move(), [*fixed, *key], formats), table, "UPDATE", position, False)
            key = [fields[n] if n in statements.fixed else old for n, old in zip(statements.keys, key, strict=True)]
        text, columns = statements.update(cut.masks.get(row, b""), moves=row in cut.old_keys)
        values: list[Field] = [fields[n] for n in columns] + key
        formats = [statements.formats[n] for n in columns] + statements.key_formats
        statement = Statement(text, values, formats)
        yield RowChange(statement, table, "UPDATE", position, relation.name not in self._cascading)

    def _tolerant(self, change: RowChange, cut: _SectionCut, row: int) -> RowChange:
        statements = self._for(cut.section.relation)
        if change.op == "DELETE" or cut.masks.get(row) or not statements.unique:
            return change
        fields = row_fields(cut.rows[row], len(statements.everything))
        if change.op == "UPDATE":
            return replace(change, instead=Statement(statements.insert, fields, statements.formats))
        key = key_fields(cut.keys[row], len(statements.keys))
        text, columns = statements.update(b"", moves=False)
        update = Statement(
            text, [fields[n] for n in columns] + key, [statements.formats[n] for n in columns] + statements.key_formats
        )
        insert = replace(change.statement, sql=statements.insert + statements.unless_there)
        return replace(change, statement=insert, instead=update)

    def _truncate(self, batch: ChangeBatch, rank: int) -> RowChange:
        tables: list[Relation] = []
        options = 0
        for section in batch.sections:
            for row, (op, order) in enumerate(zip(section.ops, section.order, strict=True)):
                if op == TRUNCATE and order == rank:
                    tables.append(section.relation)
                    options |= section.row_list()[row][0]
        names = sql.SQL(", ").join(self._for(relation).rows for relation in tables)
        text = sql.SQL("TRUNCATE {}{}{}").format(
            names,
            sql.SQL(" RESTART IDENTITY" if options & RESTART_IDENTITY else ""),
            sql.SQL(" CASCADE" if options & CASCADE else ""),
        )
        name = ", ".join(f"{relation.schema}.{relation.table}" for relation in tables)
        return RowChange(Statement(text.as_bytes(self._conn), [], []), name, "TRUNCATE", batch.last_position, False)

    def _for(self, relation: Relation) -> _RowStatements:
        found = self._statements.get(relation)
        if found is None:
            table = self._catalogue.tables.get(relation.name)
            mapped = map_table(relation, table, movable=relation.name not in self._acting)
            found = self._statements[relation] = _RowStatements(mapped, self._conn)
        return found


class _SectionCut:
    """A section's rows, cut once."""

    __slots__ = ("keys", "masks", "old_keys", "rows", "section")

    def __init__(self, section: Section) -> None:
        self.section = section
        self.keys = section.key_list()
        self.rows = section.row_list()
        self.old_keys = section.old_key_map()
        self.masks = section.mask_map()
