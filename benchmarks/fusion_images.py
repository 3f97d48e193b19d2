"""Real row images: what PostgreSQL writes as binary COPY tuples, of four kinds of tables."""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from statistics import median

import lz4.block
import psycopg

from headrace.embedded import EmbeddedPostgres
from pipeline.fusion.compression import Compressor, decompress
from schemas.block_image import Entry, Layout, decode_image, encode_image, encode_rows

BLOCK_SIZES = (1024, 4096, 8192, 16_384, 32_768, 65_536, 262_144)
BLOCK_BYTES = 8192
SENT_ROW_BYTES = 11_300  # of rows in a block that nodes of the benchmark send: 8 KiB in columns
MEASURED_BYTES = 2 * 1024 * 1024  # of each table
ROUNDS = 11
Compress = Callable[[bytes], bytes]
_COPY_HEADER_BYTES = 19
_LENGTH = struct.Struct("!i")
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


def blocks_of(image: bytes, block_bytes: int) -> Iterator[list[Entry]]:
    """Blocks of the tuples and their keys (the first column), each as many as make `block_bytes` in rows."""
    block, size = list[Entry](), 0
    for entry in _entries(image[:MEASURED_BYTES]):
        block.append(entry)
        size += len(encode_rows([entry]))
        if size >= block_bytes:
            yield block
            block, size = [], 0


def write_blocks(image: bytes, path: Path) -> None:
    """Blocks as they are sent, each after its length; `read_blocks` takes them apart."""
    images = [encode_image(block)[1] for block in blocks_of(image, SENT_ROW_BYTES)]
    path.write_bytes(b"".join(_LENGTH.pack(len(each)) + each for each in images))


def read_blocks(path: Path) -> list[bytes]:
    """The images that `write_blocks` wrote."""
    data, at, found = path.read_bytes(), 0, list[bytes]()
    while at < len(data):
        begin = at + _LENGTH.size
        at = begin + int(_LENGTH.unpack_from(data, at)[0])
        found.append(data[begin:at])
    return found


def _entries(image: bytes) -> Iterator[Entry]:
    """Keys and tuples, as far as they are whole."""
    columns, at = int.from_bytes(image[:2], "big"), 0
    while at < len(image):
        begin, ends = at, list[int]()
        at += 2
        for _ in range(columns):
            at += 4 + max(int.from_bytes(image[at : at + 4], "big", signed=True), 0)
            ends.append(at)
        if at <= len(image):
            yield image[begin + 2 : ends[0]], image[begin:at]


def compression_by_size(image: bytes) -> dict[str, float]:
    """Ratio of LZ4 level 1 by block size: bytes of the rows with their keys, to what is sent of them."""
    found = {}
    for size in BLOCK_SIZES:
        before = after = 0
        for block in blocks_of(image, size):
            _, columns = encode_image(block)
            packed = Compressor(0).compress([columns], len(columns))
            before += len(encode_rows(block))
            after += len(columns if packed is None else packed)
        found[str(size)] = before / after
    return found


def compression_by_method(image: bytes) -> dict[str, float]:
    """Ratio of blocks of 8 KiB in rows and in columns, also by what is slower than LZ4 level 1, and what it costs."""
    blocks = list(blocks_of(image, BLOCK_BYTES))
    rows, columns = [encode_rows(block) for block in blocks], [encode_image(block)[1] for block in blocks]
    tuples = sum(len(row or b"") for block in blocks for _, row in block)
    level_1 = partial(lz4.block.compress, mode="fast", acceleration=1, store_size=False)
    level_12 = partial(lz4.block.compress, mode="high_compression", compression=12, store_size=False)
    whole, packed = _bytes(rows, bytes), _bytes(columns, level_1)
    return {
        "rows, LZ4 level 1": whole / _bytes(rows, level_1),
        "rows, LZ4 HC level 12": whole / _bytes(rows, level_12),
        "rows, zlib level 9": whole / _bytes(rows, partial(zlib.compress, level=9)),
        "columns, LZ4 level 1": whole / packed,
        "columns, without the keys of the rows": tuples / packed,
        **_costs(blocks, level_1),
    }


def _bytes(images: Iterable[bytes], compress: Compress) -> int:
    return sum(len(compress(image)) for image in images)


def _costs(blocks: list[list[Entry]], compress: Compress) -> dict[str, float]:
    """Microseconds a block from its rows to what is sent and back to rows, in turns."""

    def in_rows(block: list[Entry]) -> tuple[Layout, bytes]:
        return "rows", encode_rows(block)

    times: dict[str, list[float]] = {"rows, us a block": [], "columns, us a block": []}
    for _ in range(ROUNDS):
        for name, encode in zip(times, (in_rows, encode_image), strict=True):
            begun_s = time.perf_counter()
            for block in blocks:
                layout, image = encode(block)
                list(decode_image(decompress(compress(image), len(image)), len(block), layout))
            times[name].append((time.perf_counter() - begun_s) * 1e6 / len(blocks))
    return {name: median(found) for name, found in times.items()}
