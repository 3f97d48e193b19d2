"""The image of a block: its keys and rows as one piece of bytes, row after row or column after column.

Rows are what any program can write (see `fusion_block.avsc`). Columns hold the same and compress better, since
what is alike in all rows comes together. Big-endian:

    int16 fields of a key, int16 fields of a row, int32 how many keys have rows: those come first
    the columns of the keys, then those of the rows, each:
        int32 width: >= 0 bytes that every field has; -1: all are NULL;
                     -2: their lengths follow as a byte each, 255 for NULL; -3: as int32 each, -1 for NULL
        the fields end to end; those of a width of 2 to 16 as all their first bytes, then all second ones ...

Laying out columns in Python takes longer than sending what they save: without the compiled form images are written as
rows, and either is read.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Literal

from schemas.errors import SchemaError
from schemas.rows import NULL_FIELD

IMAGE_BYTES_MAX = 4 * 1024 * 1024  # of the rows, however they are laid out
PLANES_MAX = 16
Entry = tuple[bytes, bytes | None]  # None: known not to exist
Layout = Literal["rows", "columns"]
_LENGTH = struct.Struct("!i")
_COUNT = struct.Struct("!h")
_HEAD = struct.Struct("!hhi")
_ENTRY_BYTES = 2 * _LENGTH.size
_SHORT, _LONG = -2, -3
_SHORT_NULL = 255


def encode_image(entries: Iterable[Entry]) -> tuple[Layout, bytes]:
    """Return the image, as columns where that can be done fast and all rows have the same number of fields."""
    found = list(entries)
    image = encode_columns(found)
    return ("rows", encode_rows(found)) if image is None else ("columns", image)


def decode_image(image: bytes, rows: int, layout: Layout) -> Iterable[Entry]:
    """Yield keys and rows. Raises SchemaError unless the image is exactly `rows` entries within the limit."""
    return decode_rows(image, rows) if layout == "rows" else decode_columns(image, rows)


def bytes_in_rows(image: bytes, rows: int, layout: Layout) -> int:
    """At most what the entries of an image take, and about that."""
    if layout == "rows" or len(image) < _HEAD.size:
        return len(image)
    keys, columns, _ = _HEAD.unpack_from(image)
    row_bytes: int = _ENTRY_BYTES + _COUNT.size + (keys + columns) * _LENGTH.size
    return len(image) + rows * row_bytes


def encode_rows(entries: Iterable[Entry]) -> bytes:
    """Return the image row after row."""
    pack = _LENGTH.pack
    return b"".join(
        [pack(len(k)) + k + (NULL_FIELD if row is None else pack(len(row)) + row) for k, row in entries],
    )


def decode_rows(image: bytes, rows: int) -> Iterator[Entry]:
    """Yield the entries of an image in rows. Raises SchemaError unless it is exactly `rows` entries."""
    at = 0
    for _ in range(rows):
        key, at = _piece(image, at)
        row, at = _piece(image, at)
        if key is None:
            raise SchemaError("block image: an entry without a key")
        yield key, row
    if at != len(image):
        raise SchemaError(f"block image: {len(image) - at} bytes after {rows} rows")


def _piece(image: bytes, at: int) -> tuple[bytes | None, int]:
    end = at + _LENGTH.size
    if end > len(image):
        raise SchemaError(f"block image: cut at byte {at} of {len(image)}")
    (size,) = _LENGTH.unpack_from(image, at)
    if size == -1:
        return None, end
    if size < 0 or end + size > len(image):
        raise SchemaError(f"block image: {size} bytes at byte {at} lead outside its {len(image)}")
    return image[end : end + size], end + size


def decode_columns_python(image: bytes, count: int, bytes_max: int) -> list[Entry]:
    """Return the `count` entries of an image in columns, those without a row last.

    Raises SchemaError, for lengths and counts of over `bytes_max` in all before anything is allocated for them.
    """
    if len(image) < _HEAD.size:
        raise SchemaError(f"block image: {len(image)} bytes, no columns")
    keys, columns, present = _HEAD.unpack_from(image)
    if keys <= 0 or columns < 0 or not 0 <= present <= count or (present and not columns):
        raise SchemaError(f"block image: {keys} and {columns} columns, {present} of {count} rows")
    size = count * (_ENTRY_BYTES + keys * _LENGTH.size) + present * (_COUNT.size + columns * _LENGTH.size)
    if size > bytes_max:
        raise SchemaError(f"block image: {count} rows of {columns} columns, over the limit of {bytes_max} bytes")
    at, found = _HEAD.size, []
    for number in range(keys + columns):
        try:
            column, at = _column(image, at, count if number < keys else present)
        except (struct.error, ValueError) as error:
            raise SchemaError(f"block image: column {number} leads outside its {len(image)} bytes") from error
        found.append(column)
    if at != len(image):
        raise SchemaError(f"block image: {len(image) - at} bytes after {keys + columns} columns")
    head = _COUNT.pack(columns)
    rows = [head + b"".join(row) for row in zip(*found[keys:], strict=True)]
    return list(zip(map(b"".join, zip(*found[:keys], strict=True)), [*rows, *[None] * (count - present)], strict=True))


def _column(image: bytes, at: int, count: int) -> tuple[list[bytes], int]:
    """The fields of a column, each after its length, and where the next column is.

    Raises ValueError or struct.error for what is no column.
    """
    (width,) = _LENGTH.unpack_from(image, at)
    at += _LENGTH.size
    lengths: Sequence[int] = [width] * count
    if width == _SHORT:
        lengths = [-1 if length == _SHORT_NULL else length for length in image[at : at + count]]
        at += count
    elif width == _LONG:
        lengths = struct.unpack_from(f"!{count}i", image, at)
        at += count * _LENGTH.size
    ends = list(accumulate((max(length, 0) for length in lengths), initial=0))
    if width < _LONG or min(lengths, default=0) < -1 or len(lengths) != count or at + ends[-1] > len(image):
        raise ValueError
    data = image[at : at + ends[-1]]
    if 1 < width <= PLANES_MAX:
        data = b"".join([data[number::count] for number in range(count)])
    fields = [
        NULL_FIELD if length < 0 else _LENGTH.pack(length) + data[start : start + length]
        for start, length in zip(ends, lengths, strict=False)
    ]
    return fields, at + ends[-1]


Encoder = Callable[[list[Entry], int], bytes | None]
Decoder = Callable[[bytes, int, int], list[Entry]]


def _choose() -> tuple[Encoder | None, Decoder]:
    if not os.environ.get("HEADRACE_PURE"):
        try:
            from schemas import _block_columns
        except ImportError:
            pass
        else:
            return _block_columns.encode, _block_columns.decode
    return None, decode_columns_python


_encode, _decode = _choose()
COMPILED = _encode is not None


def encode_columns(entries: list[Entry]) -> bytes | None:
    """Return the image in columns; None where they can't be laid out fast, or are not the same for all rows."""
    return None if _encode is None else _encode(entries, IMAGE_BYTES_MAX)


def decode_columns(image: bytes, rows: int) -> list[Entry]:
    """Return the entries of an image in columns. Raises SchemaError unless it is exactly `rows` of them."""
    if not 0 <= rows <= IMAGE_BYTES_MAX:
        raise SchemaError(f"block image: {rows} rows, over the limit of {IMAGE_BYTES_MAX} bytes")
    return _decode(image, rows, IMAGE_BYTES_MAX)
