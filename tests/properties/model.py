"""A small world of tables in plain Python values, and the packed batches that stand for it.

The oracles of the property tests work on these values; only `pack_batch` knows the record's layout.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.builder import BatchBuilder, SectionBuilder
from pipeline.catalogue import BYTEWISE_TYPES, Catalogue, ForeignKey, TargetColumn, TargetTable
from pipeline.conflicts import KeyRules
from pipeline.independent import window_keys
from schemas.change_batch import TRUNCATE, UPDATE, ChangeBatch, Column, Relation
from schemas.change_batch_codec import decode_batch, encode_batch
from schemas.rows import key_fields, pack_fields, pack_row, row_fields

Value = int | str | None
Row = tuple[Value, ...]
PUBLIC = "public"
_INTEGERS = {"int2": struct.Struct("!h"), "int4": struct.Struct("!i"), "int8": struct.Struct("!q")}


@dataclass(frozen=True)
class Table:
    """A source table and its copy on the target; `key` are the columns that the source logs as the key."""

    relation: Relation
    target: TargetTable

    @property
    def name(self) -> str:
        """The table's bare name."""
        return self.relation.table

    @property
    def key(self) -> tuple[int, ...]:
        """Indexes of the key columns."""
        return tuple(n for n, column in enumerate(self.relation.columns) if column.key)

    @property
    def unique_key(self) -> tuple[int, ...]:
        """Indexes of the key columns, none where the key is the whole row of a table without any."""
        return self.key if self.target.primary_key else ()

    def key_of(self, row: Row) -> Row:
        """The key of a row."""
        return tuple(row[n] for n in self.key)


def table(
    name: str,
    columns: Sequence[tuple[str, str]],
    primary_key: tuple[str, ...] = (),
    *,
    uniques: tuple[tuple[str, ...], ...] = (),
    foreign_keys: tuple[ForeignKey, ...] = (),
    identity: str = "d",
) -> Table:
    """A table whose source logs its primary key, or the whole row where there is none and identity is FULL."""
    logged = tuple(
        Column(column, kind, column in primary_key or (identity == "f" and not primary_key), binary=True)
        for column, kind in columns
    )
    target = TargetTable(
        (PUBLIC, name),
        tuple(TargetColumn(column, kind, bytewise=kind in BYTEWISE_TYPES) for column, kind in columns),
        primary_key,
        uniques,
        foreign_keys,
    )
    return Table(Relation(1000 + len(name), PUBLIC, name, identity, logged), target)


def catalogue(tables: Iterable[Table]) -> Catalogue:
    """The target's catalogue of `tables`."""
    return Catalogue({each.target.name: each.target for each in tables})


def field(value: Value, kind: str) -> bytes | None:
    """A value as a binary field of an integer type or text."""
    if value is None:
        return None
    return _INTEGERS[kind].pack(value) if isinstance(value, int) else value.encode()


def fields(row: Row, relation: Relation, *, key: bool = False) -> list[bytes | None]:
    """A row's values (or its key's) as binary fields."""
    columns = [column for column in relation.columns if column.key or not key]
    return [field(item, column.type) for item, column in zip(row, columns, strict=True)]


def value(data: bytes | None, kind: str) -> Value:
    """The value of a binary field."""
    if data is None:
        return None
    return int(_INTEGERS[kind].unpack(data)[0]) if kind in _INTEGERS else data.decode()


@dataclass(frozen=True)
class Change:
    """One row change. `left_out` are columns that the source did not send since they did not change."""

    table: Table
    op: int
    old: Row | None = None
    new: Row | None = None
    left_out: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Transaction:
    """A source transaction."""

    position: int
    changes: tuple[Change, ...]

    @property
    def truncates(self) -> bool:
        """Whether it empties a table."""
        return any(change.op == TRUNCATE for change in self.changes)


def pack_change(builder: BatchBuilder, tx: int, change: Change) -> None:
    """Append a change as a decoder does."""
    relation = change.table.relation
    section = builder.section(relation)
    row = len(section.ops)
    if change.op == TRUNCATE:
        _append(builder, section, tx, change.op, b"", b"\0")
        return
    old_key = change.table.key_of(change.old) if change.old is not None else ()
    new_key = change.table.key_of(change.new) if change.new is not None else old_key
    sent = b""
    if change.new is not None:
        sent = pack_row(fields(tuple(None if n in change.left_out else v for n, v in enumerate(change.new)), relation))
    elif change.old is not None and relation.identity == "f":
        sent = pack_row(fields(change.old, relation))
    if change.op == UPDATE and old_key != new_key:
        section.old_keys[row] = pack_fields(fields(old_key, relation, key=True))
    if change.left_out:
        section.masks[row] = mask_of(change.left_out, len(relation.columns))
    _append(builder, section, tx, change.op, pack_fields(fields(new_key, relation, key=True)), sent)


def _append(builder: BatchBuilder, section: SectionBuilder, tx: int, op: int, key: bytes, row: bytes) -> None:
    section.ops.append(op)
    section.tx.append(tx)
    section.order.append(builder.rank)
    section.keys.append(key)
    section.rows.append(row)
    builder.rank += 1
    builder.bytes += len(row)


def mask_of(left_out: Iterable[int], columns: int) -> bytes:
    """The bits of the columns left out."""
    mask = bytearray((columns + 7) // 8)
    for n in left_out:
        mask[n >> 3] |= 1 << (n & 7)
    return bytes(mask)


def pack_batch(transactions: Sequence[Transaction], previous: int = 0, *, generation: int = 1) -> ChangeBatch:
    """The transactions as one batch."""
    builder = BatchBuilder("s", generation, previous)
    for transaction in transactions:
        tx = builder.begin(transaction.position, 1_000_000 + transaction.position, transaction.position % 1000)
        for change in transaction.changes:
            pack_change(builder, tx, change)
    end = transactions[-1].position if transactions else previous
    return builder.close("live", end, 2_000_000)


def unpack_row(data: bytes, relation: Relation) -> Row:
    """The values of a COPY tuple."""
    pieces = row_fields(data, len(relation.columns))
    return tuple(value(piece, column.type) for piece, column in zip(pieces, relation.columns, strict=True))


def unpack_key(data: bytes, relation: Relation) -> Row:
    """The values of a key."""
    columns = [column for column in relation.columns if column.key]
    return tuple(
        value(piece, column.type) for piece, column in zip(key_fields(data, len(columns)), columns, strict=True)
    )


def packed_sets(rules: KeyRules, window: Sequence[Transaction]) -> set[frozenset[int]]:
    """The independent sets of a window as today's code finds them in its record."""
    components = window_keys(decode_batch(encode_batch(pack_batch(window))), rules).components()
    assert all(members == sorted(members) and members[0] == name for name, members in components.items())
    return {frozenset(members) for members in components.values()}
