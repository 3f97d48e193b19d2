"""Real row images: what PostgreSQL writes as binary COPY tuples, of four kinds of tables."""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import lz4.block
import psycopg

from headrace.embedded import EmbeddedPostgres
from pipeline.fusion.compression import Compressor
from schemas.rows import row_fields

BLOCK_SIZES = (1024, 4096, 8192, 16_384, 32_768, 65_536, 262_144)
METHOD_BYTES = 8192
BLOCKS = 256
NUMBER_BYTES_MAX = 8
_COPY_HEADER_BYTES = 19
_TABLES = {
    "accounts": "SELECT n, 1 + n % 100, (random() * 10000)::int, '' ::char(84) FROM generate_series(1, 40000) n",
    "orders": (
        "SELECT n, gen_random_uuid(), (random() * 5000)::int, now() - random() * interval '90 days',"
        " (ARRAY['new','paid','packed','sent','returned'])[1 + (random() * 4)::int], (random() * 900)::numeric(8,2),"
        " 'customer ' || (random() * 5000)::int || ' <c' || (random() * 5000)::int || '@example.org>',"
        " (ARRAY['standard delivery','express delivery','pick-up at the counter'])[1 + (random() * 2)::int]"
        " FROM generate_series(1, 60000) n"
    ),
    "events": (
        "SELECT n, now() - random() * interval '9 days', jsonb_build_object('kind', (ARRAY['view','click','buy'])"
        "[1 + (random() * 2)::int], 'page', '/shelf/' || (random() * 300)::int, 'session', md5((n / 7)::text),"
        " 'ms', (random() * 3000)::int, 'agent', 'Mozilla/5.0 (X11; Linux x86_64)') FROM generate_series(1, 30000) n"
    ),
    "digests": "SELECT n, sha256(n::text::bytea), random() FROM generate_series(1, 60000) n",
}  # fmt: skip


def row_images(directory: Path) -> dict[str, bytes]:
    """The tuples of each table, end to end, as a block holds them (without the keys)."""
    directory.chmod(0o755)
    with (
        EmbeddedPostgres(directory / "images") as server,
        psycopg.connect(server.dsn(), autocommit=True) as conn,
    ):
        conn.execute("SELECT setseed(0.5)")
        return {name: _tuples(conn, query) for name, query in _TABLES.items()}


def _tuples(conn: psycopg.Connection, query: str) -> bytes:
    with conn.cursor().copy(f"COPY ({query}) TO STDOUT (FORMAT binary)".encode()) as copy:
        data = b"".join(bytes(piece) for piece in copy)
    return data[_COPY_HEADER_BYTES : -struct.calcsize("!h")]


def compression_by_method(image: bytes) -> dict[str, float]:
    """Ratio of blocks of 8 KiB by what is slower than LZ4 level 1: how far the rows can be compressed at all."""
    methods: dict[str, Callable[[bytes], bytes]] = {
        "LZ4 level 1": partial(lz4.block.compress, mode="fast", acceleration=1, store_size=False),
        "LZ4 HC level 12": partial(lz4.block.compress, mode="high_compression", compression=12, store_size=False),
        "zlib level 9": partial(zlib.compress, level=9),
    }
    blocks = [image[at : at + METHOD_BYTES] for at in range(0, BLOCKS * METHOD_BYTES, METHOD_BYTES)]
    ratios = {
        name: sum(map(len, blocks)) / sum(len(compress(block)) for block in blocks)
        for name, compress in methods.items()
    }  # fmt: skip
    return ratios | _columns_first(image, methods["LZ4 level 1"])


def _columns_first(image: bytes, compress: Callable[[bytes], bytes]) -> dict[str, float]:
    """Ratio of blocks whose columns are put together before, and how long that takes, compared with the compression."""
    blocks = list(islice(_blocks_of_rows(image), BLOCKS))
    begun_s = time.perf_counter()
    arranged = [_by_column(rows) for rows in blocks]
    arranged_s = time.perf_counter()
    packed = sum(len(compress(block)) for block in arranged)
    compressed_s = time.perf_counter()
    return {
        "columns first, LZ4 level 1": sum(len(row) for rows in blocks for row in rows) / packed,
        "time of columns first / of LZ4": (arranged_s - begun_s) / (compressed_s - arranged_s),
    }


def _blocks_of_rows(image: bytes) -> Iterator[list[bytes]]:
    """Whole tuples, as many as make a block."""
    columns, at, start, rows = int.from_bytes(image[:2], "big"), 0, 0, list[bytes]()
    while at < len(image):
        begin, at = at, at + 2
        for _ in range(columns):
            at += 4 + max(int.from_bytes(image[at : at + 4], "big", signed=True), 0)
        rows.append(image[begin:at])
        if at - start >= METHOD_BYTES:
            yield rows
            start, rows = at, []


def _by_column(rows: Sequence[bytes]) -> bytes:
    """The fields of each column end to end: a width that all have is told once, and then the bytes of numbers of one
    weight come together; other lengths are a byte each, or four.
    """
    pieces = []
    for column in zip(*(row_fields(row, int.from_bytes(row[:2], "big")) for row in rows), strict=True):
        lengths = [-1 if field is None else len(field) for field in column]
        data, width = b"".join(field or b"" for field in column), lengths[0]
        if lengths.count(width) == len(lengths):
            fixed = 1 < width <= NUMBER_BYTES_MAX
            pieces += [struct.pack("!i", width), b"".join(data[n::width] for n in range(width)) if fixed else data]
        else:
            form = "b" if max(lengths) < 1 << 7 else "i"
            pieces += [struct.pack(f"!{len(lengths)}{form}", *lengths), data]
    return b"".join(pieces)


def compression_by_size(image: bytes) -> dict[str, float]:
    """Ratio of LZ4 level 1 by block size, over all blocks; blocks that do not shrink are sent as they are."""
    found = {}
    for size in BLOCK_SIZES:
        before = after = 0
        for at in range(0, min(len(image), 4 * 1024 * 1024) - size, size):
            block = image[at : at + size]
            packed = Compressor(0).compress([block], size)
            before += size
            after += size if packed is None else len(packed)
        found[str(size)] = before / after
    return found
