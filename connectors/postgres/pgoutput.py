"""Decoding pgoutput messages into the lists of a BatchBuilder.

Source: PostgreSQL manual, "Logical Replication Message Formats" and "Streaming Replication Protocol".
The input is one CopyData message with its XLogData header (25 bytes); the message proper starts at 25.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from dataclasses import replace

from connectors.postgres.facts import Facts
from connectors.postgres.relation_message import RelationReader
from connectors.postgres.tuple_data import (
    BINARY,
    NULL,
    TEXT,
    UNCHANGED,
    Part,
    RowShape,
    packed_key,
    packed_row,
    tuple_parts,
)
from pipeline.builder import BatchBuilder, SectionBuilder
from pipeline.catalogue import TableName
from pipeline.errors import StreamStoppedError
from pipeline.mapping import ColumnUse, TableMapping
from schemas.change_batch import DELETE, INSERT, TRUNCATE, UPDATE, LogicalMessage, Relation

PG_EPOCH_US = 946_684_800_000_000  # 2000-01-01 in microseconds since 1970
log = logging.getLogger(__name__)
MESSAGE_BYTES_MAX = 4 * 1024 * 1024  # of a logical message, so that a record has room for it beside rows
_SHAPES_MAX = 256  # a table, before varying lengths make the cache useless
_BEGIN = struct.Struct("!qqi")
_COMMIT = struct.Struct("!Bqqq")
_INT32 = struct.Struct("!i")
_N, _K, _O = b"NKO"
AS_IT_IS = TableMapping()


class _Table:
    """Decoding state of one source table; `uses` says what happens to its columns, unless all just travel."""

    __slots__ = ("keys", "layout", "relation", "section", "shapes", "uses")

    def __init__(self, relation: Relation, section: SectionBuilder, uses: list[ColumnUse] | None) -> None:
        self.relation = relation
        self.uses = uses
        self.section = section
        self.keys = [n for n, column in enumerate(relation.columns) if column.key]
        self.shapes: dict[int, RowShape] = {}
        self.layout: object = None  # the compiled pump's, made at first use


class PgOutputDecoder:
    """Feeds one replication stream into `builder`.

    `skip_to` is the last position already captured: transactions at or below it are passed over. `binary` says that
    the server was asked for binary fields. `unwanted` collects the tables that the stream does not choose: the server
    sends what was written while a table was published, also when it is no more. Raises TextNeededError when a table
    appears that must be read as text.
    """

    def __init__(
        self, builder: BatchBuilder, skip_to: int, facts: Facts, *, binary: bool, mapping: TableMapping = AS_IT_IS,
        chooses: Callable[[TableName], bool] = lambda _: True,
    ) -> None:  # fmt: skip
        self.builder = builder
        self.end_position = 0
        self.in_transaction = False
        # The compiled pump reads and writes these too.
        self.skip_to = skip_to
        self.skipping = False
        self.tables: dict[bytes, _Table] = {}
        self.tx = 0
        self.running: tuple[int, int, int] | None = None
        self.unwanted: set[int] = set()  # their numbers
        self._chooses = chooses
        self._mapping = mapping
        self._relations = RelationReader(facts, mapping, binary=binary)
        self._handlers: dict[int, Callable[[bytes], None]] = {
            ord("B"): self._begin, ord("C"): self._commit, ord("O"): self._origin,
            ord("Y"): self._relations.note_type, ord("R"): self._relation,
            ord("D"): self._delete, ord("T"): self._truncate, ord("M"): self._message,
        }  # fmt: skip

    def feed(self, data: bytes) -> None:
        """Take one message. Raises StreamStoppedError for a message kind that protocol 4 does not know."""
        kind = data[25]
        if kind == UPDATE:
            self._update(data)
        elif kind == INSERT:
            self._insert(data)
        else:
            handler = self._handlers.get(kind)
            if handler is None:
                raise StreamStoppedError(f"pgoutput sent a message of unknown kind {chr(kind)!r}; upgrade Headrace")
            handler(data)

    def continue_transaction(self) -> None:
        """Open the running transaction again in the builder, whose last part was just closed."""
        if self.running is None:
            raise AssertionError("no transaction is running")
        self.tx = self.builder.begin(*self.running)

    def _begin(self, data: bytes) -> None:
        position, time_us, xid = _BEGIN.unpack_from(data, 26)
        self.in_transaction = True
        self.skipping = position <= self.skip_to
        if not self.skipping:
            self.running = (position, time_us + PG_EPOCH_US, xid & 0xFFFFFFFF)
            self.tx = self.builder.begin(*self.running)

    def _commit(self, data: bytes) -> None:
        self.end_position = _COMMIT.unpack_from(data, 26)[2]
        self.in_transaction = False
        self.running = None

    def _insert(self, data: bytes) -> None:
        if self.skipping:
            return
        table = self.tables[data[26:30]]
        shape = table.shapes.get(len(data))
        pieces = shape.unpack(data) if shape is not None else ()
        if shape is None or pieces[0::2] != shape.heads:
            row, key = self._slow_row(data, 31, table)
        else:
            row = shape.template % pieces[1::2]
            spans = shape.key_pieces
            key = row[spans[0]] if len(spans) == 1 else b"".join([row[span] for span in spans])
        self._append(table.section, INSERT, key, row)

    def _update(self, data: bytes) -> None:
        if self.skipping:
            return
        table = self.tables[data[26:30]]
        shape = table.shapes.get(len(data))
        if shape is not None and data[30] == 78:
            pieces = shape.unpack(data)
            if pieces[0::2] == shape.heads:
                row = shape.template % pieces[1::2]
                spans = shape.key_pieces
                key = row[spans[0]] if len(spans) == 1 else b"".join([row[span] for span in spans])
                # Inlined _append: this is the most frequent message.
                builder = self.builder
                section = table.section
                section.ops.append(85)
                section.tx.append(self.tx)
                section.order.append(builder.rank)
                section.keys.append(key)
                section.rows.append(row)
                builder.rank += 1
                builder.bytes += len(row)
                return
        self._update_slowly(data, table)

    def _append(self, section: SectionBuilder, op: int, key: bytes, row: bytes) -> None:
        builder = self.builder
        section.ops.append(op)
        section.tx.append(self.tx)
        section.order.append(builder.rank)
        section.keys.append(key)
        section.rows.append(row)
        builder.rank += 1
        builder.bytes += len(row)

    def _update_slowly(self, data: bytes, table: _Table) -> None:
        old: list[Part] | None = None
        at, kind = 31, data[30]
        if kind != _N:
            old, at = tuple_parts(data, 31)
            old = self._mapped(old, table)
            at += 1
        parts = self._mapped(tuple_parts(data, at)[0], table)
        if old is not None:
            # The old tuple has every column (FULL), or those of the key, which may be out of line too.
            parts = [
                before if part[0] == UNCHANGED and before[0] != NULL else part
                for part, before in zip(parts, old, strict=True)
            ]
        self._learn(table, parts)
        if kind == _N:
            self._remember_shape(data, parts, table)
        row, key, mask = packed_row(parts, table.keys)
        section = table.section
        if mask:
            section.masks[len(section.ops)] = mask
        if old is not None:
            old_key = packed_key(old, table.keys)
            if old_key != key:
                section.old_keys[len(section.ops)] = old_key
        self._append(section, UPDATE, key, row)

    def _slow_row(self, data: bytes, at: int, table: _Table) -> tuple[bytes, bytes]:
        parts = self._mapped(tuple_parts(data, at)[0], table)
        self._learn(table, parts)
        self._remember_shape(data, parts, table)
        row, key, _ = packed_row(parts, table.keys)
        return row, key

    def _remember_shape(self, data: bytes, parts: list[Part], table: _Table) -> None:
        if table.uses is None and len(table.shapes) < _SHAPES_MAX and all(part[0] != UNCHANGED for part in parts):
            kinds, lengths = [part[0] for part in parts], [len(part[1]) for part in parts]
            table.shapes[len(data)] = RowShape(kinds, lengths, table.keys)

    def _mapped(self, parts: list[Part], table: _Table) -> list[Part]:
        """The parts of the columns that travel."""
        if table.uses is None:
            return parts
        return [
            (BINARY, self._mapping.hashed(part[1])) if use is ColumnUse.HASH and part[0] in (TEXT, BINARY) else part
            for part, use in zip(parts, table.uses, strict=True)
            if use is not ColumnUse.LEAVE_OUT
        ]

    def _learn(self, table: _Table, parts: list[Part]) -> None:
        """Note which columns come as text; a relation whose formats change begins a new section."""
        columns = table.relation.columns
        wrong = [n for n, part in enumerate(parts) if (part[0] == TEXT and columns[n].binary)
                 or (part[0] == BINARY and not columns[n].binary)]  # fmt: skip
        if wrong:
            changed = tuple(
                replace(column, binary=not column.binary) if n in wrong else column for n, column in enumerate(columns)
            )
            table.relation = replace(table.relation, columns=changed)
            table.section = self.builder.section(table.relation)
            table.shapes.clear()
            table.layout = None

    def _delete(self, data: bytes) -> None:
        if self.skipping:
            return
        table = self.tables[data[26:30]]
        parts = self._mapped(tuple_parts(data, 31)[0], table)
        self._learn(table, parts)
        row, key, _ = packed_row(parts, table.keys)
        self._append(table.section, DELETE, key, row if data[30] == _O else b"")

    def _truncate(self, data: bytes) -> None:
        if self.skipping:
            return
        count = _INT32.unpack_from(data, 26)[0]
        options = data[30:31]
        rank = self.builder.rank
        for n in range(count):
            at = 31 + 4 * n
            section = self.tables[data[at : at + 4]].section
            self.builder.rank = rank  # one statement: its tables share a rank
            self._append(section, TRUNCATE, b"", options)

    def _message(self, data: bytes) -> None:
        transactional = data[26] & 1
        if not transactional or self.skipping:
            return
        end = data.index(b"\0", 35)
        content = data[end + 5 : end + 5 + _INT32.unpack_from(data, end + 1)[0]]
        builder = self.builder
        if len(content) > MESSAGE_BYTES_MAX:
            log.warning("a logical message of %d bytes (prefix %r) is left out: over %d", len(content),
                        data[35:end].decode(), MESSAGE_BYTES_MAX)  # fmt: skip
            return
        builder.messages.append(LogicalMessage(self.tx, builder.rank, data[35:end].decode(), content))
        builder.rank += 1
        builder.bytes += len(content)

    def _origin(self, data: bytes) -> None:
        """The transaction came to the source from elsewhere; nothing of it is needed here."""

    def _relation(self, data: bytes) -> None:
        announced = self._relations.read(data)
        relation = announced.relation
        if not self._chooses(announced.source):
            self.unwanted.add(relation.oid)
        known = self.tables.get(data[26:30])
        if known is None or not _same_but_formats(known.relation, relation):
            self.tables[data[26:30]] = _Table(relation, self.builder.section(relation), announced.uses)


def _same_but_formats(one: Relation, other: Relation) -> bool:
    return replace(one, columns=()) == replace(other, columns=()) and [
        replace(column, binary=True) for column in one.columns
    ] == [replace(column, binary=True) for column in other.columns]
