"""Little-endian packed integer arrays, as the records carry them.

The functions that touch every row have a compiled form (`_packed.pyx`, built by `hatch_build.py`), which takes
their place where it exists.
"""

from __future__ import annotations

import os
import sys
from array import array
from bisect import bisect_left, bisect_right
from itertools import accumulate, pairwise, repeat

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


def rows_of_python(tx: array[int], wanted: array[int]) -> tuple[array[int], array[int]]:
    """Return where `tx`, which is sorted, has one of the `wanted` numbers (increasing), and which of them by index."""
    rows, numbers = array(INT32), array(INT32)
    at = 0
    for number, one in enumerate(wanted):
        at = bisect_left(tx, one, at)
        end = bisect_right(tx, one, at)
        rows.extend(range(at, end))
        numbers.extend(repeat(number, end - at))
        at = end
    return rows, numbers


def gather_python(blob: bytes, offsets: array[int], rows: array[int]) -> tuple[bytes, array[int]]:
    """Return the joined slices of the given rows of `blob`, and their offsets; the rows must be there."""
    slices = [blob[offsets[row] : offsets[row + 1]] for row in rows]
    return b"".join(slices), offsets_python(slices)


def pick_python(values: array[int], rows: array[int]) -> array[int]:
    """Return the items of the given rows, which must be there."""
    return array(values.typecode, [values[row] for row in rows])


def pick_bytes_python(values: bytes, rows: array[int]) -> bytes:
    """Return the bytes of the given rows, which must be there."""
    return bytes([values[row] for row in rows])


is_sorted, cut, offsets, COMPILED = is_sorted_python, cut_python, offsets_python, False
rows_of, gather, pick, pick_bytes = rows_of_python, gather_python, pick_python, pick_bytes_python
if not os.environ.get("HEADRACE_PURE"):
    try:
        from schemas import _packed
    except ImportError:
        pass
    else:
        is_sorted, cut, offsets, COMPILED = _packed.is_sorted, _packed.cut, _packed.offsets, True
        rows_of, gather, pick, pick_bytes = _packed.rows_of, _packed.gather, _packed.pick, _packed.pick_bytes


def check_sorted(values: array[int], name: str) -> None:
    """Raise SchemaError unless `values`, int32s, never decreases."""
    if not is_sorted(values):
        raise SchemaError(f"{name}: values decrease")


def check_offsets(offsets: array[int], entries: int, blob_bytes: int, name: str) -> None:
    """Raise SchemaError unless `offsets` cut a blob of `blob_bytes` into exactly `entries` slices."""
    if len(offsets) != entries + 1 or offsets[0] != 0 or offsets[-1] != blob_bytes:
        raise SchemaError(f"{name}: {len(offsets)} offsets do not cut {blob_bytes} bytes into {entries} entries")
    check_sorted(offsets, name)
