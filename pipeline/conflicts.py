"""Which keys a change touches. Two transactions conflict when they share a key that one of them writes.

Keyspaces come from the target's catalogue: one for each primary or unique key and each key that a foreign
key refers to, and one for the rows of a table without any. A write takes the keys of its new (and, where
logged, old) image exclusively; a foreign key takes its parent's key shared, so children of one parent do
not conflict while a child and a write of its parent do. A keyspace whose equality can't be decided on
bytes is *coarse*: all its rows share one key.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.catalogue import INTEGER_BYTES, STRING_TYPES, Catalogue, ForeignKey, TableName, TargetTable
from schemas.change_batch import DELETE, ChangeBatch, Column, Relation, Section
from schemas.rows import key_fields, pack_fields, row_fields

COARSE = b""
_ALL = b"IUD"
Keyspace = tuple[TableName, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class KeyUse:
    """How the changes of one relation use one keyspace.

    `columns` are the source columns' indexes, in the keyspace's order; empty with `identity` set means
    that the batch's own keys are this keyspace's keys, byte for byte. `widths` says how many bytes an
    integer is compared as, 0: its bytes as they are. `ops` are the operations that use the keyspace
    this way.
    """

    space: Keyspace
    exclusive: bool
    ops: bytes = _ALL
    columns: tuple[int, ...] = ()
    widths: tuple[int, ...] = ()
    identity: bool = False

    @property
    def coarse(self) -> bool:
        """Whether all rows share one key."""
        return not self.identity and not self.columns


class KeyRules:
    """The key uses of each relation of a stream, derived from the target's catalogue when it is first seen.

    Keys can be compared only if every relation writes a keyspace's values in one form. A relation that
    writes another (or lacks a column) makes the keyspace coarse from then on; `admit` tells.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._references = {
            name: [(_parent_space(catalogue, key), key) for key in table.foreign_keys if key.parent in catalogue.tables]
            for name, table in catalogue.tables.items()
        }
        self._referenced = {space for references in self._references.values() for space, _ in references}
        self._coarse = _coarse_spaces(catalogue, self._references)
        self._forms: dict[Keyspace, tuple[str, ...]] = {}
        self._uses: dict[Relation, tuple[KeyUse, ...]] = {}
        self._seen: dict[TableName, Relation] = {}
        self.version = 0  # rises when keys that were derived before no longer compare with those derived now
        self.has_foreign_keys = any(table.foreign_keys for table in catalogue.tables.values())

    @property
    def catalogue(self) -> Catalogue:
        """What the rules are derived from."""
        return self._catalogue

    def admit(self, batch: ChangeBatch) -> bool:
        """Note the batch's relations; whether its keys compare with those of the batches before.

        They do not when a table changed its columns or a keyspace became coarse: such a batch must wait
        for all before it, and all after it for the batch.
        """
        changed = fresh = False
        for section in batch.sections:
            relation = section.relation
            known = self._seen.get(relation.name)
            if known != relation:
                fresh, changed = True, changed or known is not None
                self._seen[relation.name] = relation
        if not fresh:
            return True
        if changed:
            self.version += 1
            self._forms.clear()
            self._uses.clear()
        coarse = len(self._coarse)
        for section in batch.sections:
            self.uses(section.relation)
        return not changed and len(self._coarse) == coarse

    def uses(self, relation: Relation) -> tuple[KeyUse, ...]:
        """Return how changes of `relation` use keys."""
        found = self._uses.get(relation)
        while found is None:
            coarse = len(self._coarse)
            derived = tuple(self._derive(relation))
            if len(self._coarse) == coarse:
                found = self._uses[relation] = derived
            else:
                self.version += 1
                self._uses.clear()
        return found

    def _derive(self, relation: Relation) -> Iterator[KeyUse]:
        table = self._catalogue.tables.get(relation.name)
        if table is None:
            yield KeyUse((relation.name, ()), exclusive=True)
            return
        keys = _keys(table)
        referred = sorted(key for parent, key in self._referenced if parent == table.name and key not in keys)
        for key in (*keys, *referred):
            yield self._use(relation, (table.name, key), key, exclusive=True)
        if not keys:
            rows: Keyspace = (table.name, ())
            yield KeyUse(rows, exclusive=True, ops=b"UD")
            yield KeyUse(rows, exclusive=False, ops=b"I")
        if table.opaque_unique:
            yield KeyUse((table.name, ("*",)), exclusive=True)
        for space, reference in self._references[table.name]:
            yield self._use(relation, space, _own_columns(space, reference), exclusive=False)

    def _use(self, relation: Relation, space: Keyspace, key: tuple[str, ...], *, exclusive: bool) -> KeyUse:
        """`key` names the relation's columns in the order of the keyspace's."""
        if space in self._coarse:
            return KeyUse(space, exclusive)
        places = {column.name: n for n, column in enumerate(relation.columns)}
        columns = tuple(places.get(name, -1) for name in key)
        if -1 in columns or not self._agree(relation, space, columns):
            self._coarse.add(space)
            return KeyUse(space, exclusive)
        widths = self._widths(relation, space, columns)
        if exclusive and relation.key_columns == key and not any(widths):
            return KeyUse(space, exclusive, identity=True)
        return KeyUse(space, exclusive, columns=columns, widths=widths)

    def _agree(self, relation: Relation, space: Keyspace, columns: Sequence[int]) -> bool:
        """Whether the relation writes the values of `space` in the form that others do."""
        if space not in self._referenced:
            return True
        forms = tuple(_form(relation.columns[n], kind) for n, kind in zip(columns, self._types(space), strict=True))
        return self._forms.setdefault(space, forms) == forms

    def _widths(self, relation: Relation, space: Keyspace, columns: Sequence[int]) -> tuple[int, ...]:
        if space not in self._referenced:
            return (0,) * len(columns)
        return tuple(_width(relation.columns[n], kind) for n, kind in zip(columns, self._types(space), strict=True))

    def _types(self, space: Keyspace) -> list[str]:
        name, key = space
        columns = [self._catalogue.tables[name].column(column) for column in key]
        return [column.type if column is not None else "" for column in columns]


def _keys(table: TargetTable) -> list[tuple[str, ...]]:
    return [key for key in (table.primary_key, *table.uniques) if key]


def _parent_space(catalogue: Catalogue, reference: ForeignKey) -> Keyspace:
    """The keyspace that a foreign key refers to; its columns may stand in another order than the parent's key."""
    keys = _keys(catalogue.tables[reference.parent])
    same = (key for key in keys if sorted(key) == sorted(reference.parent_columns))
    return reference.parent, next(same, reference.parent_columns)


def _own_columns(space: Keyspace, reference: ForeignKey) -> tuple[str, ...]:
    """The foreign key's own columns in the order of the keyspace's."""
    own = dict(zip(reference.parent_columns, reference.columns, strict=True))
    return tuple(own[column] for column in space[1])


def _coarse_spaces(
    catalogue: Catalogue, references: dict[TableName, list[tuple[Keyspace, ForeignKey]]]
) -> set[Keyspace]:
    """Keyspaces with a column, on either side of a foreign key, whose equality isn't that of its bytes."""
    uses = [(table, (name, key), key) for name, table in catalogue.tables.items() for key in _keys(table)]
    for name, found in references.items():
        uses += [(catalogue.tables[name], space, _own_columns(space, reference)) for space, reference in found]
    return {space for table, space, own in uses if not _comparable(table, own, catalogue.tables[space[0]], space[1])}


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
    widths = use.widths if any(use.widths) else ()
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
                yield tx, _canonical(image, binary, widths)


def _pick(fields: list[bytes | None], places: tuple[int, ...]) -> list[bytes | None]:
    return [fields[place] for place in places]


def _masked(mask: bytes | None, columns: tuple[int, ...]) -> bool:
    return mask is not None and any(mask[column >> 3] >> (column & 7) & 1 for column in columns)


def _canonical(fields: list[bytes | None], binary: tuple[bool, ...], widths: tuple[int, ...]) -> bytes:
    if not widths:
        return pack_fields(fields)
    sized = zip(fields, binary, widths, strict=True)
    return pack_fields([_resized(value, is_binary, width) for value, is_binary, width in sized])


def _resized(value: bytes | None, is_binary: bool, width: int) -> bytes | None:
    """An integer as `width` bytes. One that does not fit equals no integer that does: left as it is."""
    if value is None or not width:
        return value
    try:
        number = int.from_bytes(value, "big", signed=True) if is_binary else int(value)
        return number.to_bytes(width, "big", signed=True)
    except (ValueError, OverflowError):
        return value
