"""Tables and types as pgoutput announces them, before their first row, made into relations.

Source: PostgreSQL manual, "Logical Replication Message Formats", Relation and Type. What the messages leave out is
looked up in the source's catalogue, which is of a later moment; see `connectors.postgres.facts`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from connectors.postgres.facts import Described, Facts, Identified, identify
from connectors.postgres.tuple_data import HEADER
from pipeline.catalogue import TableName
from pipeline.mapping import HASH_TYPE, ColumnUse, TableMapping, check_key
from schemas.change_batch import Column, Relation

_OID_AT = HEADER + 1  # behind the letter of the message
_INT16 = struct.Struct("!h")
_UINT32 = struct.Struct("!I")
_TYPE = struct.Struct("!Ii")  # oid, modifier
_TEXTS = ("text", "varchar", "bpchar", "name")  # types whose binary form is their text


class TextNeededError(Exception):
    """A column's binary form is of no use on another server: the stream has to be read as text from here on."""


@dataclass(frozen=True, slots=True)
class _RelationMessage:
    """A Relation message taken apart; `keys` are its flags, a column each, of the replica identity."""

    oid: int
    table: TableName
    identity: str
    columns: Sequence[Described]
    keys: Sequence[bool]


@dataclass(frozen=True, slots=True)
class AnnouncedTable:
    """A table by its name on the source, its relation as it travels, and the uses of its columns, if not all KEEP."""

    source: TableName
    relation: Relation
    uses: list[ColumnUse] | None


class RelationReader:
    """Makes relations for one replication stream; `binary` says that the server was asked for binary fields."""

    def __init__(self, facts: Facts, mapping: TableMapping, *, binary: bool) -> None:
        self._facts = facts
        self._mapping = mapping
        self._binary = binary
        self._types: dict[int, str] = {}

    def note_type(self, data: bytes) -> None:
        """Take a Type message: the name of a type that is not built in, sent before the tables that use it."""
        oid = _UINT32.unpack_from(data, _OID_AT)[0]
        schema, name, _ = data[_OID_AT + 4 :].split(b"\0", 2)
        # A domain comes under its base type's name: the catalogue knows better, unless the type is gone.
        self._types[oid] = f"{schema.decode()}.{name.decode()}" if schema else name.decode()

    def read(self, data: bytes) -> AnnouncedTable:
        """Take a Relation message. Raises ConfigError (a key column that may not change), TextNeededError."""
        message = _taken_apart(data)
        names = [name for name, _, _ in message.columns]
        # First, since this waits for an ALTER TABLE to end, which may be of the key or of a new type.
        catalogue = self._facts.columns(message.oid)
        primary = self._facts.primary_key(*message.table) if message.identity == "f" else None
        keys = [name in primary for name in names] if primary else message.keys
        uses = self._mapping.uses(message.table, names)
        if primary is not None or message.identity != "f":  # else rows are found by whatever columns travel
            check_key(message.table, zip(names, keys, strict=True), self._mapping)
        columns = tuple(self._columns(message, keys, uses, identify(message.columns, catalogue)))
        relation = Relation(message.oid, *self._mapping.target_name(message.table), message.identity, columns)
        return AnnouncedTable(message.table, relation, None if set(uses) <= {ColumnUse.KEEP} else uses)

    def _columns(
        self, message: _RelationMessage, keys: Sequence[bool], uses: Sequence[ColumnUse], known: Sequence[Identified]
    ) -> Iterator[Column]:
        """The columns that travel, with what the catalogue adds."""
        for (name, type_oid, modifier), key, use, more in zip(message.columns, keys, uses, known, strict=True):
            if use is ColumnUse.LEAVE_OUT:
                continue
            kind = self._facts.type_name(type_oid) or self._types.get(type_oid, f"oid {type_oid}")
            # A hash is one of the value's text, whatever format the stream has.
            if self._binary and not (self._facts.travels(type_oid) if use is ColumnUse.KEEP else kind in _TEXTS):
                raise TextNeededError(f"column {name}, {kind}")
            if use is ColumnUse.HASH:
                yield Column(name, HASH_TYPE, key, True, number=more[0], unlogged=True)
            else:
                yield Column(name, kind, key, True, modifier, *more)


def _taken_apart(data: bytes) -> _RelationMessage:
    schema, table, rest = data[_OID_AT + 4 :].split(b"\0", 2)
    count, at = _INT16.unpack_from(rest, 1)[0], 3  # behind the identity
    columns: list[Described] = []
    keys: list[bool] = []
    for _ in range(count):
        end = rest.index(b"\0", at + 1)
        columns.append((rest[at + 1 : end].decode(), *_TYPE.unpack_from(rest, end + 1)))
        keys.append(bool(rest[at] & 1))
        at = end + 9
    name = (schema.decode() or "pg_catalog", table.decode())
    return _RelationMessage(_UINT32.unpack_from(data, _OID_AT)[0], name, chr(rest[0]), columns, keys)
