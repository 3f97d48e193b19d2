"""Folding a batch's changes of one table into the blocks that are held."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline.cache.blocks import Block
from pipeline.netchange import complete_row
from schemas.change_batch import DELETE, TRUNCATE, Relation, Section
from schemas.errors import SchemaError
from schemas.packed import offsets
from schemas.rows import pack_fields, row_fields

NO_MASK = b""


@dataclass(frozen=True, slots=True)
class RowChange:
    """One change: `old_key` where the key changed, `mask` of the columns that the source left out."""

    position: int
    op: int
    key: bytes
    row: bytes
    old_key: bytes | None
    mask: bytes


def section_changes(section: Section, positions: list[int], first: int) -> Iterator[RowChange]:
    """The changes of a section in source order; those of transactions before `first` are left out."""
    old_keys, masks = section.old_key_map(), section.mask_map()
    rows = zip(section.tx, section.ops, section.key_list(), section.row_list(), strict=True)
    for number, (tx, op, key, row) in enumerate(rows):
        if tx >= first:
            yield RowChange(positions[tx], op, key, row, old_keys.get(number), masks.get(number, NO_MASK))


def keyed(section: Section, key: Collection[str]) -> Section:
    """A section of a snapshot, whose rows come without keys, with the keys that the columns `key` make.

    It is returned as it is where it lacks one of them. Raises SchemaError when a row is damaged.
    """
    columns = section.relation.columns
    places = [n for n, column in enumerate(columns) if column.name in key]
    if not places or len(places) < len(key):
        return section
    keys = [
        b"" if op == TRUNCATE else _key_of(row, places, len(columns))
        for op, row in zip(section.ops, section.row_list(), strict=True)
    ]
    relation = replace(section.relation, columns=tuple(replace(c, key=c.name in key) for c in columns))
    return replace(section, relation=relation, keys=b"".join(keys), key_offsets=offsets(keys))


def _key_of(row: bytes, places: Sequence[int], columns: int) -> bytes:
    fields = row_fields(row, columns)
    return pack_fields([fields[place] for place in places])


class TableFold:
    """Applies changes of one table. `find` returns the held block of a key, or None.

    A block whose version is at or past a change has it already. `doubtful`: the target may have passed over the row,
    which then is not known.
    """

    def __init__(self, relation: Relation, find: Callable[[bytes], Block | None], *, doubtful: bool = False) -> None:
        self._relation = relation
        self._find = find
        self._doubtful = doubtful

    def apply(self, change: RowChange) -> None:
        """Fold one change that is no TRUNCATE."""
        old_key = change.old_key if change.old_key not in (None, change.key) else None
        base = self._base(change, old_key or change.key) if change.mask else None
        if old_key is not None:
            self._remove(old_key, change.position)
        if change.op == DELETE:
            self._remove(change.key, change.position)
            return
        block = self._behind(change.key, change.position)
        if block is None:
            return
        if self._doubtful:
            block.lose(change.key)
        elif not change.mask:
            block.put(change.key, change.row)
        elif base is None:
            block.lose(change.key)
        else:
            block.put(change.key, base)

    def _behind(self, key: bytes, position: int) -> Block | None:
        block = self._find(key)
        return block if block is not None and block.version < position else None

    def _remove(self, key: bytes, position: int) -> None:
        block = self._behind(key, position)
        if block is not None:
            block.remove(key)

    def _base(self, change: RowChange, key: bytes) -> bytes | None:
        """The row with its missing columns taken from the image before; None when that is not known."""
        block = self._behind(key, change.position)
        before = block.rows.get(key) if block is not None else None
        if before is None:
            return None
        try:
            return complete_row(change.row, change.mask, before, len(self._relation.columns))
        except SchemaError:
            return None  # the target's COPY checks rows; here a damaged one is only not known


def by_table(sections: Sequence[Section]) -> dict[tuple[str, str], list[Section]]:
    """The sections of each table: several where its columns changed within the batch."""
    found: dict[tuple[str, str], list[Section]] = {}
    for section in sections:
        found.setdefault(section.relation.name, []).append(section)
    return found
