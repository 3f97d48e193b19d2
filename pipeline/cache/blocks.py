"""Blocks: the rows of one bucket of one table's keys, and how changes are folded into them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.catalogue import BYTEWISE_TYPES
from schemas.change_batch import Column, Relation

ROW_OVERHEAD_BYTES = 180  # two bytes objects and a dict entry, CPython 3.11
BLOCK_OVERHEAD_BYTES = 600


def cacheable(relation: Relation) -> str:
    """Why the rows of `relation` can't be cached; empty when they can.

    A key has to name one row, and equal keys have to have equal bytes.
    """
    keys = [column for column in relation.columns if column.key]
    if not keys:
        return "it has no key"
    if relation.identity == "f" and len(keys) == len(relation.columns):
        return "with REPLICA IDENTITY FULL its whole row is the key"
    for column in keys:
        if column.type not in BYTEWISE_TYPES:
            return f"equal values of key column {column.name} ({column.type}) may have different bytes"
    return ""


@dataclass(slots=True)
class Block:
    """Row images of one bucket. In a `complete` block a key that is not there is known to be absent; in another
    one it is unknown, and None marks the keys that are known to be absent.

    `version`: changes at or below this position are in it already.
    """

    relation: Relation
    complete: bool
    version: int
    epoch: int = 0
    rows: dict[bytes, bytes | None] = field(default_factory=dict)
    size_bytes: int = BLOCK_OVERHEAD_BYTES
    reads: int = 0  # since eviction last looked at it

    def put(self, key: bytes, row: bytes) -> None:
        """Set a row."""
        self.forget(key)
        self.rows[key] = row
        self.size_bytes += ROW_OVERHEAD_BYTES + len(key) + len(row)

    def remove(self, key: bytes) -> None:
        """Note that a row does not exist."""
        self.forget(key)
        if not self.complete:
            self.rows[key] = None
            self.size_bytes += ROW_OVERHEAD_BYTES + len(key)

    def lose(self, key: bytes) -> None:
        """Note that nothing is known about a key."""
        self.forget(key)
        self.complete = False

    def forget(self, key: bytes) -> None:
        """Take a key out."""
        if key in self.rows:
            row = self.rows.pop(key)
            self.size_bytes -= ROW_OVERHEAD_BYTES + len(key) + len(row or b"")

    def clear(self, *, complete: bool) -> None:
        """Take all keys out."""
        self.rows.clear()
        self.complete = complete
        self.size_bytes = BLOCK_OVERHEAD_BYTES

    def known(self, key: bytes) -> bool:
        """Whether the block says something about `key`."""
        return self.complete or key in self.rows

    def items(self) -> Iterator[tuple[bytes, bytes | None]]:
        """Keys and rows."""
        yield from self.rows.items()


def same_columns(one: Relation, other: Relation) -> bool:
    """Whether rows of both are of one table in the same form: columns of the same names, types and formats, and
    neither the table nor one of them made anew between.

    What a column's older rows have (`missing`, `unlogged`) is no part of a row.
    """
    if one.oid != other.oid:
        return False
    if one.columns is other.columns:
        return True  # the usual case, and a row at a time
    return list(map(_form, one.columns)) == list(map(_form, other.columns))


def _form(column: Column) -> tuple[str, str, bool, bool, int, int]:
    return column.name, column.type, column.key, column.binary, column.modifier, column.number
