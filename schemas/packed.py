"""Little-endian packed integer arrays, as the records carry them."""

from __future__ import annotations

import sys
from array import array

from schemas.errors import SchemaError

_SWAP = sys.byteorder == "big"
INT32 = "i"
INT64 = "q"


def pack(values: array[int]) -> bytes:
    """Return the little-endian bytes of `values`."""
    if _SWAP:
        values = array(values.typecode, values)
        values.byteswap()
    return values.tobytes()


def unpack(typecode: str, data: bytes, name: str) -> array[int]:
    """Return the array in `data`. Raises SchemaError when its size is not a multiple of the item's."""
    values = array(typecode)
    try:
        values.frombytes(data)
    except ValueError as error:
        raise SchemaError(f"{name}: {len(data)} bytes are no whole number of items") from error
    if _SWAP:
        values.byteswap()
    return values


def check_sorted(values: array[int], name: str) -> None:
    """Raise SchemaError unless `values` never decreases (timsort sees a sorted run in one pass)."""
    items = values.tolist()
    if items != sorted(items):
        raise SchemaError(f"{name}: values decrease")


def check_offsets(offsets: array[int], entries: int, blob_bytes: int, name: str) -> None:
    """Raise SchemaError unless `offsets` cut a blob of `blob_bytes` into exactly `entries` slices."""
    if len(offsets) != entries + 1 or offsets[0] != 0 or offsets[-1] != blob_bytes:
        raise SchemaError(f"{name}: {len(offsets)} offsets do not cut {blob_bytes} bytes into {entries} entries")
    check_sorted(offsets, name)
