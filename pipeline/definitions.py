"""Table definitions: what a target needs to have of a source's table, to be created where it is missing."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline.catalogue import TableName
from pipeline.mapping import HASH_TYPE, ColumnUse, TableMapping


@dataclass(frozen=True, slots=True)
class TypeDefinition:
    """A type that columns use. `labels` of an enum; `base` and `modifier` of a domain; `fields` of a composite.

    `problem` says why it can't be copied; it then has to be there.
    """

    name: str
    labels: tuple[str, ...] = ()
    base: str = ""
    modifier: int = -1
    not_null: bool = False
    fields: tuple[tuple[str, str, int], ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ColumnDefinition:
    """A column: type as in a relation, whether its values come from a sequence of its own, and the types that it
    needs beside the built-in ones, each after those that it is made of."""

    name: str
    type: str
    modifier: int
    not_null: bool
    sequence: bool = False
    needs: tuple[TypeDefinition, ...] = ()


@dataclass(frozen=True, slots=True)
class UniqueDefinition:
    """A primary key or another unique key. `nulls_equal`: NULLS NOT DISTINCT."""

    columns: tuple[str, ...]
    primary: bool = False
    deferrable: bool = False
    deferred: bool = False
    nulls_equal: bool = False


@dataclass(frozen=True, slots=True)
class ReferenceDefinition:
    """A foreign key; the actions are PostgreSQL's letters (a, r, c, n, d)."""

    columns: tuple[str, ...]
    parent: TableName
    parent_columns: tuple[str, ...]
    on_delete: str = "a"
    on_update: str = "a"
    deferrable: bool = False
    deferred: bool = False


@dataclass(frozen=True, slots=True)
class TableDefinition:
    """A table; `left_out` names what of it can't be created from here, `generated` the columns among that."""

    name: TableName
    columns: tuple[ColumnDefinition, ...]
    uniques: tuple[UniqueDefinition, ...] = ()
    references: tuple[ReferenceDefinition, ...] = ()
    left_out: tuple[str, ...] = ()
    generated: tuple[str, ...] = ()


def mapped_definition(table: TableDefinition, mapping: TableMapping) -> TableDefinition:
    """The definition under the target's names, without what does not travel; hashed columns are text."""
    uses = {column.name: mapping.use(table.name, column.name) for column in table.columns}
    columns = tuple(
        replace(column, type=HASH_TYPE, modifier=-1, sequence=False, needs=())
        if uses[column.name] is ColumnUse.HASH
        else column
        for column in table.columns
        if uses[column.name] is not ColumnUse.LEAVE_OUT
    )
    there = {column.name for column in columns}
    as_it_is = {column.name for column in columns if uses[column.name] is ColumnUse.KEEP}
    return replace(
        table,
        name=mapping.target_name(table.name),
        columns=columns,
        uniques=tuple(key for key in table.uniques if there.issuperset(key.columns)),
        references=tuple(
            replace(key, parent=mapping.target_name(key.parent))
            for key in table.references
            if as_it_is.issuperset(key.columns)
            and all(mapping.use(key.parent, column) is ColumnUse.KEEP for column in key.parent_columns)
        ),
    )


@dataclass(frozen=True, slots=True)
class SequenceState:
    """A sequence by its name on the target, and the target's column that it belongs to (None: to none)."""

    name: TableName
    table: TableName | None
    column: str
    value: int
    called: bool
