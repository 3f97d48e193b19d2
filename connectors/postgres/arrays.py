"""Rows turned into one array a column: parameters of a single statement that changes many rows.

Where it can be used it beats COPY into a temporary table: no table to create, fill and empty (of a hundred tables: 59
-> 17 µs of the server's time a row, in groups of 1,000), and no round trips, since such statements share a pipeline.
Source: PostgreSQL, array_recv in src/backend/utils/adt/arrayfuncs.c.

A compiled form (`_arrays.pyx`, built by `hatch_build.py`) takes the place of this one where it exists.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence

import psycopg

from schemas.errors import SchemaError

_HEADER = struct.Struct("!iiIii")  # dimensions, whether there are NULLs, element type, elements, lower bound
_COUNT = struct.Struct("!h")
_LENGTH = struct.Struct("!i")
# Not arrays: `unnest` would take their elements for rows. Built-in types only: their numbers never change.
_TYPES = """
SELECT typname, oid::bigint FROM pg_type
 WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype IN ('b', 'r', 'm') AND typarray <> 0 AND typcategory <> 'A'
"""


def element_types(conn: psycopg.Connection) -> dict[str, int]:
    """Built-in types that an array parameter can carry, with their numbers on this server."""
    return dict(conn.execute(_TYPES).fetchall())


def arrays_python(blobs: list[bytes], types: list[int], tuples: bool) -> tuple[int, list[bytes]]:
    """Return the number of rows in `blobs` and an array in its binary form for each column.

    A blob holds rows one behind another: COPY tuples (`tuples`) or keys. `types` are the columns' element types. Raises
    SchemaError for a row that does not hold exactly as many fields.
    """
    columns: list[list[bytes]] = [[] for _ in types]
    nulls = [0] * len(types)
    for blob in blobs:
        at = 0
        while at < len(blob):
            at = _take_row(blob, at, columns, nulls, tuples=tuples)
    rows = len(columns[0]) if columns else 0
    heads = [_HEADER.pack(1, some, kind, rows, 1) for some, kind in zip(nulls, types, strict=True)]
    return rows, [b"".join([head, *fields]) for head, fields in zip(heads, columns, strict=True)]


def _take_row(blob: bytes, at: int, columns: Sequence[list[bytes]], nulls: list[int], *, tuples: bool) -> int:
    if tuples:
        if at + 2 > len(blob) or _COUNT.unpack_from(blob, at)[0] != len(columns):
            raise SchemaError(f"a tuple does not hold {len(columns)} fields")
        at += 2
    for n, fields in enumerate(columns):
        if at + 4 > len(blob):
            raise SchemaError(f"field {n} starts outside its {len(blob)} bytes")
        (length,) = _LENGTH.unpack_from(blob, at)
        end = at + 4 + max(0, length)
        if length < -1 or end > len(blob):
            raise SchemaError(f"field {n} leads outside its {len(blob)} bytes")
        if length == -1:
            nulls[n] = 1
        fields.append(blob[at:end])
        at = end
    return at


arrays, COMPILED = arrays_python, False
if not os.environ.get("HEADRACE_PURE"):
    try:
        from connectors.postgres import _arrays
    except ImportError:
        pass
    else:
        arrays, COMPILED = _arrays.arrays, True
