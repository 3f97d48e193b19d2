"""ChangeBatch: the one data structure that flows through the system.

Rows stay packed: a batch has as many objects as tables, not as rows. A row is a PostgreSQL binary COPY tuple
(int16 field count, then int32 length or -1 and the bytes of each field), so that a target COPY is a join of
slices. Source: PostgreSQL manual, COPY, "Binary Format". `schemas.change_batch_codec` writes and reads the record.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

from schemas.packed import INT32, cut

INSERT, UPDATE, DELETE, TRUNCATE = 73, 85, 68, 84  # the letters I U D T


@dataclass(frozen=True, slots=True)
class Column:
    """A source column. `binary` says that fields are in the type's send format, else text.

    `modifier` is PostgreSQL's type modifier (-1: none), `number` the source's own number of the column (0: not
    known), which stays when the column gets another name. `missing` is the text of the value in rows that are
    older than the column; `unlogged` says that nobody knows it.
    """

    name: str
    type: str
    key: bool
    binary: bool
    modifier: int = -1
    number: int = 0
    missing: str | None = None
    unlogged: bool = False


@dataclass(frozen=True, slots=True)
class Relation:
    """A source table as it was when its rows were written."""

    oid: int
    schema: str
    table: str
    identity: str
    columns: tuple[Column, ...]

    def __hash__(self) -> int:
        # A key of dictionaries that are asked for each row: hashing every column takes three times as long.
        return hash((self.oid, self.table))

    @property
    def name(self) -> tuple[str, str]:
        """Schema and table."""
        return self.schema, self.table

    @property
    def key_columns(self) -> tuple[str, ...]:
        """Names of the columns whose fields make up `keys`, in column order."""
        return tuple(column.name for column in self.columns if column.key)


@dataclass(slots=True)
class Section:
    """The changes of one table in a batch, in source order.

    `keys`, `rows`, `old_keys` are blobs cut by their offsets. A key is the concatenation of its fields
    (int32 length, bytes). `old_index` and `mask_index` name the few rows that have an old key or
    columns left out by the source (unchanged TOAST).
    """

    relation: Relation
    ops: bytes
    tx: array[int]
    order: array[int]
    keys: bytes
    key_offsets: array[int]
    rows: bytes
    row_offsets: array[int]
    old_index: array[int] = field(default_factory=lambda: array(INT32))
    old_keys: bytes = b""
    old_offsets: array[int] = field(default_factory=lambda: array(INT32, [0]))
    mask_index: array[int] = field(default_factory=lambda: array(INT32))
    masks: bytes = b""

    @property
    def mask_bytes(self) -> int:
        """Size of one entry of `masks`."""
        return (len(self.relation.columns) + 7) // 8

    @property
    def truncates(self) -> bool:
        """Whether the table is emptied."""
        return TRUNCATE in self.ops

    def key_list(self) -> list[bytes]:
        """The key of each row."""
        return cut(self.keys, self.key_offsets)

    def row_list(self) -> list[bytes]:
        """The tuple of each row (empty for a DELETE without its old row)."""
        return cut(self.rows, self.row_offsets)

    def old_key_map(self) -> dict[int, bytes]:
        """Row index -> old key, where the key changed."""
        return dict(zip(self.old_index, cut(self.old_keys, self.old_offsets), strict=True))

    def mask_map(self) -> dict[int, bytes]:
        """Row index -> bits of the columns that the source left out."""
        size = self.mask_bytes
        return {row: self.masks[n * size : (n + 1) * size] for n, row in enumerate(self.mask_index)}


@dataclass(frozen=True, slots=True)
class LogicalMessage:
    """A logical decoding message written inside a transaction."""

    tx: int
    order: int
    prefix: str
    content: bytes


@dataclass(slots=True)
class ChangeBatch:
    """Consecutive whole transactions of one stream (or one part of a large one).

    Times are microseconds since 1970 UTC. A batch without transactions is a heartbeat: it carries
    `previous_position` and `end_position` only. The parts of a large transaction share a `run`: another
    capture may cut the same transaction at other rows, and parts of two runs must not be mixed.
    """

    stream: str
    generation: int
    kind: str
    previous_position: int
    positions: array[int]
    commit_times_us: array[int]
    source_ids: array[int]
    sections: list[Section]
    end_position: int
    captured_us: int
    part: int = 0
    last_part: bool = True
    messages: list[LogicalMessage] = field(default_factory=list)
    run: int = 0

    @property
    def last_position(self) -> int:
        """Position of the last transaction, or `previous_position` for a heartbeat."""
        return self.positions[-1] if self.positions else self.previous_position

    @property
    def whole(self) -> bool:
        """Whether every transaction here is complete in this record."""
        return self.part == 0 and self.last_part

    @property
    def table_copy(self) -> bool:
        """Whether this is a part of a copy of single tables among the live transactions.

        Such a copy is one transaction in several records; those of the initial snapshot are transactions each.
        """
        return self.kind == "snapshot" and not self.whole

    @property
    def truncates(self) -> bool:
        """Whether a table is emptied in it."""
        return any(section.truncates for section in self.sections)

    def rows(self) -> int:
        """Number of row changes."""
        return sum(len(section.ops) for section in self.sections)


def iter_order(batch: ChangeBatch) -> Iterator[tuple[int, int, int]]:
    """Yield (rank, section number, row number) of every change in source order."""
    entries = [
        (rank, number, row) for number, section in enumerate(batch.sections) for row, rank in enumerate(section.order)
    ]
    entries.sort()
    yield from entries
