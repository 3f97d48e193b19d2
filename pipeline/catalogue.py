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
# A foreign key may join columns of two types of one of these families; then equal values are compared as
# the parent's type (integers) or byte by byte (strings).
INTEGER_BYTES = {"int2": 2, "int4": 4, "int8": 8}
STRING_TYPES = frozenset({"text", "varchar"})


@dataclass(frozen=True, slots=True)
class TargetColumn:
    """A column of a target table.

    `bytewise`: equal values have equal bytes (type and collation). `fixed`: an UPDATE can't set it
    (GENERATED ALWAYS AS IDENTITY). `modifier` is the type's, -1: none. `needed`: a row must bring a value, since
    there is no default.
    """

    name: str
    type: str
    generated: bool = False
    bytewise: bool = True
    fixed: bool = False
    modifier: int = -1
    needed: bool = False


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """`columns` of this table reference `parent_columns` of `parent`.

    `acts`: a change of the parent changes or deletes the referencing rows (CASCADE, SET NULL, SET DEFAULT).
    """

    columns: tuple[str, ...]
    parent: TableName
    parent_columns: tuple[str, ...]
    acts: bool = False


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
    partitioned: bool = False

    @property
    def keys(self) -> list[tuple[str, ...]]:
        """Its primary key, if it has one, and its unique keys."""
        return [key for key in (self.primary_key, *self.uniques) if key]

    def column(self, name: str) -> TargetColumn | None:
        """The column of that name, or None."""
        return next((column for column in self.columns if column.name == name), None)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The tables of a stream on its target."""

    tables: dict[TableName, TargetTable] = field(default_factory=dict)

    def acting_parents(self) -> frozenset[TableName]:
        """Tables whose deleted rows take others with them: ON DELETE actions."""
        return frozenset(key.parent for table in self.tables.values() for key in table.foreign_keys if key.acts)
