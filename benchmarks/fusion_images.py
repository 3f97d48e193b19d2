"""Real row images: what PostgreSQL writes as binary COPY tuples, of four kinds of tables."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import lz4.block
import psycopg

from headrace.embedded import EmbeddedPostgres
from pipeline.fusion.compression import Compressor

BLOCK_SIZES = (1024, 4096, 8192, 16_384, 32_768, 65_536, 262_144)
METHOD_BYTES = 8192
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
    blocks = [image[at : at + METHOD_BYTES] for at in range(0, 256 * METHOD_BYTES, METHOD_BYTES)]
    return {
        name: sum(map(len, blocks)) / sum(len(compress(block)) for block in blocks)
        for name, compress in methods.items()
    }  # fmt: skip


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
