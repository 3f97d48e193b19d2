"""FusionBlock: the row images of one bucket of one table's keys, as of a position."""

from __future__ import annotations

from dataclasses import dataclass

import lz4.block

from schemas.block_image import IMAGE_BYTES_MAX, Layout, bytes_in_rows
from schemas.change_batch import Column
from schemas.errors import SchemaError
from schemas.single_object import codec

BUCKETS_MAX = 65536
COMPRESS_BYTES_MIN = 4096
_COLUMN = ("name", "type", "key", "binary", "modifier", "number")  # what of a column shapes its rows


@dataclass(frozen=True, slots=True)
class FusionBlock:
    """See `fusion_block.avsc`. `image` is uncompressed here; `rows` counts its entries."""

    stream: str
    schema: str
    table: str
    bucket: int
    buckets: int
    generation: int
    version: int
    epoch: int
    node: str
    complete: bool
    columns: tuple[Column, ...]
    rows: int
    image: bytes
    oid: int = 0
    layout: Layout = "rows"

    @property
    def rows_bytes(self) -> int:
        """At most what its keys and rows take when they are cut apart."""
        return bytes_in_rows(self.image, self.rows, self.layout)


def encode_fusion_block(block: FusionBlock, *, compress: bool = True) -> bytes:
    """Return the record; LZ4 only above 4 KiB and where it shrinks. Raises SchemaError over the limit."""
    if len(block.image) > IMAGE_BYTES_MAX:
        raise SchemaError(f"block image: {len(block.image)} bytes, over the limit of {IMAGE_BYTES_MAX}")
    image, compression = block.image, "none"
    if compress and len(image) > COMPRESS_BYTES_MIN:
        packed: bytes = lz4.block.compress(image, mode="fast", acceleration=1, store_size=False)
        if len(packed) < len(image):
            image, compression = packed, "lz4"
    return codec("fusion_block").encode({
        "stream": block.stream, "schema": block.schema, "table": block.table, "bucket": block.bucket,
        "buckets": block.buckets, "generation": block.generation, "version": block.version, "epoch": block.epoch,
        "node": block.node, "complete": block.complete,
        "columns": [{name: getattr(column, name) for name in _COLUMN} for column in block.columns],
        "oid": block.oid, "rows": block.rows, "layout": block.layout, "compression": compression,
        "image_bytes": len(block.image), "image": image,
    })  # fmt: skip


def decode_fusion_block(data: bytes) -> FusionBlock:
    """Return the block in `data`, decompressed, sizes checked before anything is allocated. Raises SchemaError."""
    datum = codec("fusion_block").decode(data)
    size, compression = datum.pop("image_bytes"), datum.pop("compression")
    if not 0 <= size <= IMAGE_BYTES_MAX or datum["rows"] < 0:
        raise SchemaError(f"block image: {datum['rows']} rows in {size} bytes, over the limit of {IMAGE_BYTES_MAX}")
    if not 0 <= datum["bucket"] < datum["buckets"] <= BUCKETS_MAX:
        raise SchemaError(f"bucket {datum['bucket']} of {datum['buckets']}")
    if min(datum["generation"], datum["version"], datum["epoch"]) < 0:
        raise SchemaError("a block of a negative generation, version or epoch")
    if compression == "lz4":
        try:
            datum["image"] = lz4.block.decompress(datum["image"], uncompressed_size=size)
        except lz4.block.LZ4BlockError as error:
            raise SchemaError(f"block image: damaged LZ4 data: {error}") from error
    if len(datum["image"]) != size:
        raise SchemaError(f"block image: {len(datum['image'])} bytes, {size} were announced")
    datum["columns"] = tuple(Column(**column) for column in datum["columns"])
    return FusionBlock(**datum)
