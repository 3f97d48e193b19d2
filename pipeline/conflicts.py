"""Which keys a change touches. Two transactions conflict when they share a key that one of them writes.

Keyspaces come from the target's catalogue: one for each primary or unique key, and one for the rows of
a table without any. A write takes the keys of its new (and, where logged, old) image exclusively; a
foreign key takes its parent's key shared, so children of one parent do not conflict while a child and a
write of its parent do. A keyspace whose equality can't be decided on bytes is *coarse*: all its rows
share one key.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.catalogue import INTEGER_TYPES, Catalogue, TableName, TargetTable
from schemas.change_batch import DELETE, Relation, Section
from schemas.rows import key_fields, pack_fields, row_fields

COARSE = b""
_ALL = b"IUD"
Keyspace = tuple[TableName, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class KeyUse:
    """How the changes of one relation use one keyspace.

    `columns` are the source columns' indexes, in the keyspace's order; empty with `identity` set means
    that the batch's own keys are this keyspace's keys, byte for byte. `ops` are the operations that use
    the keyspace this way.
    """

    space: Keyspace
    exclusive: bool
    ops: bytes = _ALL
    columns: tuple[int, ...] = ()
    identity: bool = False
    integers: bool = False

    @property
    def coarse(self) -> bool:
        """Whether all rows share one key."""
        return not self.identity and not self.columns


class KeyRules:
    """The key uses of each relation of a stream, derived once from the target's catalogue."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._mixed = _mixed_spaces(catalogue)
        self._uses: dict[Relation, tuple[KeyUse, ...]] = {}
        self.has_foreign_keys = any(table.foreign_keys for table in catalogue.tables.values())

    def uses(self, relation: Relation) -> tuple[KeyUse, ...]:
        """Return how changes of `relation` use keys."""
        found = self._uses.get(relation)
        if found is None:
            found = self._uses[relation] = tuple(self._derive(relation))
        return found

    def _derive(self, relation: Relation) -> Iterator[KeyUse]:
        table = self._catalogue.tables.get(relation.name)
        if table is None:
            yield KeyUse((relation.name, ()), exclusive=True)
            return
        keys = [key for key in (table.primary_key, *table.uniques) if key]
        for key in keys:
            yield self._use(relation, table, (table.name, key), key, exclusive=True)
        if not keys:
            rows: Keyspace = (table.name, ())
            yield KeyUse(rows, exclusive=True, ops=b"UD")
            yield KeyUse(rows, exclusive=False, ops=b"I")
        if table.opaque_unique:
            yield KeyUse((table.name, ("*",)), exclusive=True)
        for reference in table.foreign_keys:
            if reference.parent in self._catalogue.tables:
                space = (reference.parent, reference.parent_columns)
                yield self._use(relation, table, space, reference.columns, exclusive=False)

    def _use(
        self,
        relation: Relation,
        table: TargetTable,
        space: Keyspace,
        key: tuple[str, ...],
        *,
        exclusive: bool,
    ) -> KeyUse:
        names = [column.name for column in relation.columns]
        mixed = self._mixed.get(space)
        if mixed is None or any(name not in names for name in key) or not _bytewise(table, key):
            return KeyUse(space, exclusive)
        if exclusive and not mixed and relation.key_columns == key:
            return KeyUse(space, exclusive, identity=True)
        return KeyUse(space, exclusive, columns=tuple(names.index(name) for name in key), integers=mixed)


def _bytewise(table: TargetTable, key: tuple[str, ...]) -> bool:
    columns = [table.column(name) for name in key]
    return all(column is not None and column.bytewise for column in columns)


def _mixed_spaces(catalogue: Catalogue) -> dict[Keyspace, bool]:
    """Keyspaces comparable by bytes: True where integers of several widths meet. Absent: coarse."""
    spaces: dict[Keyspace, bool] = {
        (table.name, key): False
        for table in catalogue.tables.values()
        for key in (table.primary_key, *table.uniques)
        if key and _bytewise(table, key)
    }
    for table in catalogue.tables.values():
        for reference in table.foreign_keys:
            parent = catalogue.tables.get(reference.parent)
            space = (reference.parent, reference.parent_columns)
            if parent is None or space not in spaces:
                continue
            pairs = zip(_types(table, reference.columns), _types(parent, reference.parent_columns), strict=True)
            for child_type, parent_type in pairs:
                if child_type == parent_type:
                    continue
                if {child_type, parent_type} <= INTEGER_TYPES:
                    spaces[space] = True
                else:
                    spaces.pop(space, None)
    return spaces


def _types(table: TargetTable, key: tuple[str, ...]) -> list[str]:
    columns = [table.column(name) for name in key]
    return [column.type if column is not None else "?" for column in columns]


def keys_of(section: Section, use: KeyUse) -> Iterator[tuple[int, bytes]]:
    """Yield (transaction index, key) for each key that the section's changes touch through `use`.

    Values that the source did not log (old unique values under the default replica identity) can't be
    yielded; the dependences they hide are found by the target and resolved by retrying in order.
    """
    if use.coarse:
        wanted = use.ops
        yield from ((tx, COARSE) for tx, op in zip(section.tx, section.ops, strict=True) if op in wanted)
    elif use.identity:
        yield from zip(section.tx, section.key_list(), strict=True)
        tx = section.tx
        yield from ((tx[row], key) for row, key in section.old_key_map().items())
    else:
        yield from _sliced_keys(section, use)


def _sliced_keys(section: Section, use: KeyUse) -> Iterator[tuple[int, bytes]]:
    relation = section.relation
    width = len(relation.columns)
    masks = section.mask_map()
    identity = [n for n, column in enumerate(relation.columns) if column.key]
    in_key = all(column in identity for column in use.columns)
    places = tuple(identity.index(column) for column in use.columns) if in_key else ()
    old_keys = section.old_key_map()
    keys = section.key_list()
    binary = tuple(relation.columns[column].binary for column in use.columns)
    for row, (tx, op, data) in enumerate(zip(section.tx, section.ops, section.row_list(), strict=True)):
        images: list[list[bytes | None]] = []
        mask = masks.get(row)
        if in_key:
            images.append(_pick(key_fields(keys[row], len(identity)), places))
        elif data and (op != DELETE or relation.identity == "f") and not _masked(mask, use.columns):
            images.append(_pick(row_fields(data, width), use.columns))
        if in_key and row in old_keys:
            images.append(_pick(key_fields(old_keys[row], len(identity)), places))
        for image in images:
            if None not in image:
                yield tx, _canonical(image, binary, integers=use.integers)


def _pick(fields: list[bytes | None], places: tuple[int, ...]) -> list[bytes | None]:
    return [fields[place] for place in places]


def _masked(mask: bytes | None, columns: tuple[int, ...]) -> bool:
    return mask is not None and any(mask[column >> 3] >> (column & 7) & 1 for column in columns)


def _canonical(fields: list[bytes | None], binary: tuple[bool, ...], *, integers: bool) -> bytes:
    if not integers:
        return pack_fields(fields)
    values = [
        str(int.from_bytes(value, "big", signed=True)).encode() if is_binary and value is not None else value
        for value, is_binary in zip(fields, binary, strict=True)
    ]
    return pack_fields(values)
