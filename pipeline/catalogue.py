"""The target's catalogue as planning and applying need it: plain data, read by a connector."""

from __future__ import annotations

from dataclasses import dataclass, field

TableName = tuple[str, str]

# Types whose equality is equality of their binary (and text) representation. For any other type two
# unequal byte strings may be equal values (numeric 1.0 and 1.00, citext, padded char, -0.0), so a key
# with such a column conflicts with the whole table instead of one key.
BYTEWISE_TYPES = frozenset({
    "bool", "bytea", "char", "date", "int2", "int4", "int8", "name", "oid", "text", "time", "timestamp",
    "timestamptz", "uuid", "varchar",
})  # fmt: skip
INTEGER_TYPES = frozenset({"int2", "int4", "int8", "oid"})


@dataclass(frozen=True, slots=True)
class TargetColumn:
    """A column of a target table.

    `bytewise`: equal values have equal bytes (type and collation). `fixed`: an UPDATE can't set it
    (GENERATED ALWAYS AS IDENTITY).
    """

    name: str
    type: str
    generated: bool = False
    bytewise: bool = True
    fixed: bool = False


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """`columns` of this table reference `parent_columns` of `parent`."""

    columns: tuple[str, ...]
    parent: TableName
    parent_columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TargetTable:
    """A target table: columns in order, its primary key (empty: none), unique keys, foreign keys."""

    name: TableName
    columns: tuple[TargetColumn, ...]
    primary_key: tuple[str, ...] = ()
    uniques: tuple[tuple[str, ...], ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    # A unique index on an expression, a partial one or an exclusion constraint: conflicts unseen by keys.
    opaque_unique: bool = False

    def column(self, name: str) -> TargetColumn | None:
        """The column of that name, or None."""
        return next((column for column in self.columns if column.name == name), None)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The tables of a stream on its target."""

    tables: dict[TableName, TargetTable] = field(default_factory=dict)

    def referenced(self) -> set[tuple[TableName, tuple[str, ...]]]:
        """The (table, columns) that some foreign key refers to."""
        return {(key.parent, key.parent_columns) for table in self.tables.values() for key in table.foreign_keys}
