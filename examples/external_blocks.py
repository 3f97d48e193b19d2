"""A program that is no part of Headrace gives blocks of rows to its cache nodes.

It needs Kafka and the record's schema alone: `pip install confluent-kafka fastavro`, and `schemas/fusion_block.avsc`.

    python examples/external_blocks.py --servers localhost:9092 --stream shop --generation G --position P \\
        --schema schemas/fusion_block.avsc 1=9.90 2=12.50

writes two rows of `price (id bigint PRIMARY KEY, amount text)` as they are at position P of the stream; G and P are
those of `GET /v1/status` of a cache node, or of the source: `SELECT pg_current_wal_lsn() - '0/0'`.
"""

from __future__ import annotations

import argparse
import io
import json
import struct
import zlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import fastavro
from confluent_kafka import Producer
from fastavro.schema import fingerprint, parse_schema, to_parsing_canonical_form

COLUMNS = [
    {"name": "id", "type": "int8", "key": True, "binary": True},
    {"name": "amount", "type": "text", "key": False, "binary": True},
]


def field(data: bytes) -> bytes:
    """A field of a row or a key: its length as int32, then its bytes in the type's binary format."""
    return struct.pack("!i", len(data)) + data


def entry(key: bytes, row: bytes) -> bytes:
    """A row of an image: the key and the row, each after its length."""
    return field(key) + field(row)


def blocks(rows: Iterable[str], buckets: int) -> dict[int, list[bytes]]:
    """The rows `id=amount` as entries of their buckets."""
    found = defaultdict(list)
    for text in rows:
        number, _, amount = text.partition("=")
        key = field(struct.pack("!q", int(number)))
        row = struct.pack("!h", len(COLUMNS)) + key + field(amount.encode())  # a tuple of COPY (FORMAT binary)
        found[zlib.crc32(key) % buckets].append(entry(key, row))
    return found


def main() -> None:
    """Write the rows of the command line."""
    parser = argparse.ArgumentParser()
    for name in ("--servers", "--stream", "--schema"):
        parser.add_argument(name, required=True)
    for name in ("--generation", "--position"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--prefix", default="headrace", help="kafka.topic_prefix")
    parser.add_argument("--buckets", type=int, default=1024, help="cache.buckets")
    parser.add_argument("rows", nargs="+")
    given = parser.parse_args()

    raw = json.loads(Path(given.schema).read_text())
    header = b"\xc3\x01" + bytes.fromhex(fingerprint(to_parsing_canonical_form(raw), "CRC-64-AVRO"))
    schema = parse_schema(raw)
    producer = Producer({"bootstrap.servers": given.servers, "enable.idempotence": True})
    for bucket, entries in blocks(given.rows, given.buckets).items():
        image = b"".join(entries)
        body = io.BytesIO()
        fastavro.schemaless_writer(body, schema, {
            "stream": given.stream, "schema": "public", "table": "price", "bucket": bucket, "buckets": given.buckets,
            "generation": given.generation, "version": given.position, "epoch": 0, "node": "exporter",
            "complete": False, "columns": COLUMNS, "rows": len(entries), "compression": "none",
            "image_bytes": len(image), "image": image,
        })  # fmt: skip
        name = f"{given.stream}/public/price/{bucket}"
        producer.produce(f"{given.prefix}.fusion-updates", header + body.getvalue(), key=name)
    if producer.flush(30):
        raise SystemExit("the broker has not taken all blocks")


if __name__ == "__main__":
    main()
