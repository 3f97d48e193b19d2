"""The keyspaces of a target, and which source columns hold keys of them that can be compared byte for byte.

There is one for each primary or unique key and each key that a foreign key refers to. A keyspace whose equality
can't be decided on bytes is *coarse*: all its rows share one key.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.catalogue import INTEGER_BYTES, STRING_TYPES, Catalogue, ForeignKey, TableName, TargetTable
from schemas.change_batch import Column, Relation

COARSE = b""  # the key of all rows in a coarse keyspace
Keyspace = tuple[TableName, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class KeyColumns:
    """Where a relation holds the keys of a keyspace.

    `places` are the source columns' indexes, in the keyspace's order. `widths` says how many bytes an integer is
    compared as, 0: its bytes as they are.
    """

    places: tuple[int, ...]
    widths: tuple[int, ...]


class Keyspaces:
    """The keyspaces of one catalogue.

    Keys can be compared only if every relation writes a keyspace's values in one form. A relation that writes
    another (or lacks a column) makes the keyspace coarse from then on.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._references = {
            name: [(space, _own_columns(space, key)) for space, key in _foreign_keys(catalogue, table)]
            for name, table in catalogue.tables.items()
        }
        self._referenced = {space for references in self._references.values() for space, _ in references}
        self._coarse = self._without_bytewise_equality()
        self._forms: dict[Keyspace, tuple[str, ...]] = {}

    @property
    def coarse_count(self) -> int:
        """The number of coarse keyspaces; it only rises."""
        return len(self._coarse)

    def written(self, table: TargetTable) -> list[Keyspace]:
        """The keyspaces that a write of `table` takes keys of: its own keys, and others that are referred to."""
        keys = table.keys
        referred = sorted(key for parent, key in self._referenced if parent == table.name and key not in keys)
        return [(table.name, key) for key in (*keys, *referred)]

    def references(self, table: TargetTable) -> list[tuple[Keyspace, tuple[str, ...]]]:
        """The keyspaces that `table` refers to, with its own columns in the order of theirs."""
        return self._references[table.name]

    def find(self, relation: Relation, space: Keyspace, key: Sequence[str]) -> KeyColumns | None:
        """Where `relation` holds keys of `space`, None where that is coarse, or becomes so now.

        `key` names the relation's columns in the order of the keyspace's.
        """
        if space in self._coarse:
            return None
        numbers = {column.name: n for n, column in enumerate(relation.columns)}
        places = tuple(numbers.get(name, -1) for name in key)
        if -1 in places or not self._agrees(relation, space, places):
            self._coarse.add(space)
            return None
        return KeyColumns(places, self._widths(relation, space, places))

    def forget_forms(self) -> None:
        """Let the next relations of each keyspace say anew in which form its values are written."""
        self._forms.clear()

    def _agrees(self, relation: Relation, space: Keyspace, places: Sequence[int]) -> bool:
        """Whether the relation writes the values of `space` in the form that others do."""
        if space not in self._referenced:
            return True
        forms = tuple(_form(relation.columns[n], kind) for n, kind in zip(places, self._types(space), strict=True))
        return self._forms.setdefault(space, forms) == forms

    def _widths(self, relation: Relation, space: Keyspace, places: Sequence[int]) -> tuple[int, ...]:
        if space not in self._referenced:
            return (0,) * len(places)
        return tuple(_width(relation.columns[n], kind) for n, kind in zip(places, self._types(space), strict=True))

    def _types(self, space: Keyspace) -> list[str]:
        name, key = space
        columns = [self._catalogue.tables[name].column(column) for column in key]
        return [column.type if column is not None else "" for column in columns]

    def _without_bytewise_equality(self) -> set[Keyspace]:
        """Keyspaces with a column, on either side of a foreign key, whose equality isn't that of its bytes."""
        tables = self._catalogue.tables
        uses = [(table, (name, key), key) for name, table in tables.items() for key in table.keys]
        for name, references in self._references.items():
            uses += [(tables[name], space, own) for space, own in references]
        return {space for table, space, own in uses if not _comparable(table, own, tables[space[0]], space[1])}


def _foreign_keys(catalogue: Catalogue, table: TargetTable) -> Iterator[tuple[Keyspace, ForeignKey]]:
    """The table's foreign keys with the keyspaces that they refer to."""
    for reference in table.foreign_keys:
        if reference.parent in catalogue.tables:
            yield _parent_space(catalogue.tables[reference.parent], reference), reference


def _parent_space(parent: TargetTable, reference: ForeignKey) -> Keyspace:
    """The keyspace that a foreign key refers to; its columns may stand in another order than the parent's key."""
    same = (key for key in parent.keys if sorted(key) == sorted(reference.parent_columns))
    return reference.parent, next(same, reference.parent_columns)


def _own_columns(space: Keyspace, reference: ForeignKey) -> tuple[str, ...]:
    """The foreign key's own columns in the order of the keyspace's."""
    own = dict(zip(reference.parent_columns, reference.columns, strict=True))
    return tuple(own[column] for column in space[1])


def _comparable(table: TargetTable, own: Sequence[str], parent: TargetTable, key: Sequence[str]) -> bool:
    for mine, theirs in zip(own, key, strict=True):
        one, other = table.column(mine), parent.column(theirs)
        if one is None or other is None or not (one.bytewise and other.bytewise):
            return False
        if _family(one.type) != _family(other.type):
            return False
    return True


def _family(kind: str) -> str:
    if kind in INTEGER_BYTES:
        return "integer"
    return "string" if kind in STRING_TYPES else kind


def _form(column: Column, kind: str) -> str:
    """How a source column writes values of the parent's type `kind`; values of one form can be compared."""
    if _family(kind) in ("integer", "string") and (not column.binary or _family(column.type) == _family(kind)):
        return _family(kind)
    return f"{column.type} {'binary' if column.binary else 'text'}"


def _width(column: Column, kind: str) -> int:
    size = INTEGER_BYTES.get(kind, 0)
    as_it_is = column.binary and (column.type == kind or column.type not in INTEGER_BYTES)
    return 0 if as_it_is else size
