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
from connectors.postgres.mapping import kept_out, map_table
from connectors.postgres.pipelined import Statement, StatementPipeline
from connectors.postgres.row_statements import RowStatements
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
        self._statements: dict[Relation, RowStatements] = {}

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
                where = f"table {change.table}: {change.op} at position {change.position}"
                if change.op == "INSERT":
                    raise kept_out(where)
                raise RefusedError(
                    f"{where} found {count} rows, not 1; was the target changed by someone else, or does a BEFORE "
                    "trigger of it return NULL?",
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

    def _for(self, relation: Relation) -> RowStatements:
        found = self._statements.get(relation)
        if found is None:
            table = self._catalogue.tables.get(relation.name)
            mapped = map_table(relation, table, movable=relation.name not in self._acting)
            found = self._statements[relation] = RowStatements(mapped, self._conn)
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
