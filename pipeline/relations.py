"""The columns of a source table as the target knows them: what the ledger remembers of each relation.

A relation whose columns differ from those is a schema change, at the very place in the stream where its first
row is. Keys, replica identity and the format of fields don't count: they change nothing on the target.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pipeline.catalogue import TableName
from schemas.change_batch import ChangeBatch, Column, Relation, iter_order

_TYPMOD_HEADER = 4  # VARHDRSZ: what PostgreSQL adds to the modifiers of types with a length


@dataclass(frozen=True, slots=True)
class ShapeColumn:
    """A column: name, type, type modifier (-1: none), the source's number of it (0: not known)."""

    name: str
    type: str
    modifier: int = -1
    number: int = 0

    @property
    def sql_type(self) -> str:
        """The type with its modifier."""
        return type_text(self.type, self.modifier)


@dataclass(frozen=True, slots=True)
class Shape:
    """A source table's columns in order, and its number (oid) at the source."""

    oid: int
    columns: tuple[ShapeColumn, ...]

    def same(self, other: Shape) -> bool:
        """Whether both are one table with the same columns; a number that is not known equals any."""
        if len(self.columns) != len(other.columns) or (self.oid and other.oid and self.oid != other.oid):
            return False
        return all(map(_same_column, self.columns, other.columns))


class Shapes(dict[TableName, Shape]):
    """Table -> its columns. Whether a relation fits is asked for every batch, mostly about the same objects."""

    def __init__(self, shapes: Mapping[TableName, Shape] | None = None) -> None:
        super().__init__(shapes or {})
        self._fitting: dict[TableName, Relation] = {}

    def fit(self, relation: Relation) -> bool:
        """Whether the relation has the columns that are known."""
        name = relation.name
        if self._fitting.get(name) is relation:
            return True
        known = self.get(name)
        if known is None or not known.same(shape_of(relation)):
            return False
        self._fitting[name] = relation
        return True

    def learn(self, relation: Relation) -> None:
        """Note the columns of a relation; a number that is known is not forgotten."""
        shape, known = shape_of(relation), self.get(relation.name)
        self._fitting.pop(relation.name, None)
        if known is None or not known.same(shape) or not any(column.number for column in known.columns):
            self[relation.name] = shape
        for name in [name for name, other in self.items() if other.oid == shape.oid and name != relation.name]:
            del self[name]  # it has another name now
            self._fitting.pop(name, None)


def _same_column(one: ShapeColumn, other: ShapeColumn) -> bool:
    known = one.number and other.number
    return (one.name, one.type, one.modifier) == (other.name, other.type, other.modifier) and (
        not known or one.number == other.number
    )


def shape_of(relation: Relation) -> Shape:
    """The shape of a relation."""
    return Shape(relation.oid, tuple(map(_shape_column, relation.columns)))


def _shape_column(column: Column) -> ShapeColumn:
    return ShapeColumn(column.name, column.type, column.modifier, column.number)


def encode_shape(shape: Shape) -> str:
    """The shape as JSON, for the ledger."""
    return json.dumps([shape.oid, [[c.name, c.type, c.modifier, c.number] for c in shape.columns]], ensure_ascii=False)


def decode_shape(text: str) -> Shape:
    """The shape in the ledger's text."""
    oid, columns = json.loads(text)
    return Shape(oid, tuple(ShapeColumn(*column) for column in columns))


def type_text(kind: str, modifier: int) -> str:
    """The name of a type with its modifier, as in `numeric(12,2)`.

    Source: PostgreSQL's typmodout functions. The modifiers of other types are left out: a wider column does no
    harm.
    """
    if modifier < 0:
        return kind
    if kind in ("varchar", "bpchar"):
        return f"{kind}({modifier - _TYPMOD_HEADER})"
    if kind == "numeric":
        bits = modifier - _TYPMOD_HEADER
        scale = bits & 0x7FF
        return f"numeric({bits >> 16 & 0xFFFF},{scale - 0x800 if scale & 0x400 else scale})"
    if kind in ("bit", "varbit", "time", "timetz", "timestamp", "timestamptz"):
        return f"{kind}({modifier})"
    return kind


def has_news(batch: ChangeBatch, shapes: Shapes, but: Collection[TableName] = ()) -> bool:
    """Whether a relation of the batch (`but` for some tables) has other columns than `shapes` says."""
    return any(not shapes.fit(s.relation) and s.relation.name not in but for s in batch.sections)


def changes_of(batch: ChangeBatch, shapes: Shapes) -> list[tuple[int, Relation]]:
    """The schema changes of a batch: rank of the first row that has other columns than those before, its relation."""
    if not has_news(batch, shapes):
        return []
    known = Shapes(shapes)
    found: list[tuple[int, Relation]] = []
    current: dict[TableName, Relation] = {}
    for rank, number, _ in iter_order(batch):
        relation = batch.sections[number].relation
        if current.get(relation.name) is relation:
            continue
        current[relation.name] = relation
        if not known.fit(relation):
            found.append((rank, relation))
            known.learn(relation)
    return found
