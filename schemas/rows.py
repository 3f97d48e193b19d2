"""Cutting a COPY tuple or a key into its fields, bounds checked."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from schemas.errors import SchemaError

_COUNT = struct.Struct("!h")
_LENGTH = struct.Struct("!i")
NULL_FIELD = b"\xff\xff\xff\xff"

Field = bytes | None


def row_fields(row: bytes, columns: int) -> list[Field]:
    """Return the fields of a tuple, None for NULL.

    Raises SchemaError when the count is not `columns` or a length leads outside the tuple.
    """
    if len(row) < _COUNT.size or _COUNT.unpack_from(row)[0] != columns:
        raise SchemaError(f"a tuple of {len(row)} bytes does not hold {columns} fields")
    return _fields(row, _COUNT.size, columns)


def key_fields(key: bytes, columns: int) -> list[Field]:
    """Return the fields of a key. Raises SchemaError when it does not hold exactly `columns` fields."""
    return _fields(key, 0, columns)


def _fields(data: bytes, at: int, columns: int) -> list[Field]:
    fields: list[Field] = []
    size = len(data)
    for _ in range(columns):
        if at + 4 > size:
            raise SchemaError(f"field {len(fields)} starts outside its tuple of {size} bytes")
        (length,) = _LENGTH.unpack_from(data, at)
        at += 4
        if length == -1:
            fields.append(None)
            continue
        if length < 0 or at + length > size:
            raise SchemaError(f"field {len(fields)} of {length} bytes leads outside its tuple of {size} bytes")
        fields.append(data[at : at + length])
        at += length
    if at != size:
        raise SchemaError(f"{size - at} bytes after the last field")
    return fields


def pack_fields(fields: Sequence[Field]) -> bytes:
    """Return the fields as a key: int32 length and bytes each."""
    return b"".join([NULL_FIELD if f is None else _LENGTH.pack(len(f)) + f for f in fields])


def pack_row(fields: Sequence[Field]) -> bytes:
    """Return the fields as a COPY tuple."""
    return _COUNT.pack(len(fields)) + pack_fields(fields)
