"""Field bytes to JSON values and key texts to field bytes, as PostgreSQL writes them."""

from __future__ import annotations

import datetime
import math
import struct
import uuid
from collections.abc import Callable, Sequence

import psycopg
from psycopg import pq
from psycopg.adapt import Transformer

from connectors.errors import KeyTextError
from connectors.postgres.unlike_python import adapters
from schemas.change_batch import Column, Relation
from schemas.rows import Field, pack_fields, row_fields

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
_INTEGERS = {"int2": struct.Struct("!h"), "int4": struct.Struct("!i"), "int8": struct.Struct("!q")}
_STRINGS = ("text", "varchar", "name")
_TRANSFORMER = Transformer(adapters())
_TYPES = psycopg.adapters.types
Ask = Callable[[Column, str], bytes]


def encode_key(texts: Sequence[str], relation: Relation, ask: Ask) -> bytes:
    """Return the key of `texts`, one a key column; `ask` converts types that are not converted here.

    Raises KeyTextError.
    """
    columns = [column for column in relation.columns if column.key]
    if len(texts) != len(columns):
        names = ", ".join(column.name for column in columns)
        raise KeyTextError(f"{len(texts)} key values for {len(columns)} key columns ({names})")
    return pack_fields([_encode(text, column, ask) for text, column in zip(texts, columns, strict=True)])


def _encode(text: str, column: Column, ask: Ask) -> bytes:
    try:
        if column.type in _STRINGS:
            return text.encode()
        if column.type in _INTEGERS:
            number = int(text)
            return _INTEGERS[column.type].pack(number) if column.binary else str(number).encode()
        if column.type == "uuid" and column.binary:
            return uuid.UUID(text).bytes
    except (ValueError, struct.error) as error:
        raise KeyTextError(f"column {column.name}: {text!r} is no {column.type}") from error
    return ask(column, text)


def decode_row(relation: Relation, row: bytes) -> dict[str, Json]:
    """Return the columns of a COPY tuple by name. Raises SchemaError.

    Numbers of arbitrary precision, times, UUIDs and floats that JSON has no number for are strings; a type without a
    decoder is the hexadecimal form of its bytes, like a `bytea`.
    """
    fields = row_fields(row, len(relation.columns))
    return {column.name: _decode(field, column) for field, column in zip(fields, relation.columns, strict=True)}


def _decode(field: Field, column: Column) -> Json:
    if field is None:
        return None
    if not column.binary:
        return field.decode()
    info = _TYPES.get(column.type.removeprefix("_"))
    if info is None:
        return "\\x" + field.hex()
    oid = info.array_oid if column.type.startswith("_") else info.oid
    return _plain(_TRANSFORMER.get_loader(oid, pq.Format.BINARY).load(field))


def _plain(value: object) -> Json:
    """A Python value as JSON has it."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return "\\x" + bytes(value).hex()
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return str(value)
