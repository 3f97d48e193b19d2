"""Little-endian packed integer arrays, as the records carry them.

The functions that touch every row have a compiled form (`_packed.pyx`, built by `hatch_build.py`), which takes
their place where it exists.
"""

from __future__ import annotations

import os
import sys
from array import array
from itertools import accumulate, pairwise

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
    try:
        values = array(typecode, data)
    except ValueError as error:
        raise SchemaError(f"{name}: {len(data)} bytes are no whole number of items") from error
    if _SWAP:
        values.byteswap()
    return values


def is_sorted_python(values: array[int]) -> bool:
    """Whether `values`, int32s, never decreases (timsort sees a sorted run in one pass)."""
    items = values.tolist()
    return items == sorted(items)


def cut_python(blob: bytes, offsets: array[int]) -> list[bytes]:
    """Return the slices of `blob` between successive offsets, which `check_offsets` has passed."""
    return [blob[a:b] for a, b in pairwise(offsets)]


def offsets_python(slices: list[bytes]) -> array[int]:
    """Return the offsets that cut the concatenation of `slices` back into them."""
    return array(INT32, accumulate(map(len, slices), initial=0))


is_sorted, cut, offsets, COMPILED = is_sorted_python, cut_python, offsets_python, False
if not os.environ.get("HEADRACE_PURE"):
    try:
        from schemas import _packed
    except ImportError:
        pass
    else:
        is_sorted, cut, offsets, COMPILED = _packed.is_sorted, _packed.cut, _packed.offsets, True


def check_sorted(values: array[int], name: str) -> None:
    """Raise SchemaError unless `values`, int32s, never decreases."""
    if not is_sorted(values):
        raise SchemaError(f"{name}: values decrease")


def check_offsets(offsets: array[int], entries: int, blob_bytes: int, name: str) -> None:
    """Raise SchemaError unless `offsets` cut a blob of `blob_bytes` into exactly `entries` slices."""
    if len(offsets) != entries + 1 or offsets[0] != 0 or offsets[-1] != blob_bytes:
        raise SchemaError(f"{name}: {len(offsets)} offsets do not cut {blob_bytes} bytes into {entries} entries")
    check_sorted(offsets, name)
