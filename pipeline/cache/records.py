"""Blocks as records, and which record of a block is the newest."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.cache.blocks import Block
from pipeline.directory.block import BlockId
from schemas.block_image import decode_image, encode_image
from schemas.change_batch import Relation
from schemas.fusion_block import FusionBlock


def record_of(block_id: BlockId, block: Block, buckets: int, generation: int, version: int, node: str) -> FusionBlock:
    """The record of a block that stands for `version`."""
    layout, image = encode_image(block.items())
    return FusionBlock(
        *block_id, buckets, generation, version, block.epoch, node, block.complete, block.relation.columns,
        len(block.rows), image, block.relation.oid, layout,
    )  # fmt: skip


def block_id_of(record: FusionBlock) -> BlockId:
    """The block that a record is of."""
    return BlockId(record.stream, record.schema, record.table, record.bucket)


def block_of(record: FusionBlock) -> tuple[BlockId, Block]:
    """The block of a record. Raises SchemaError when its image is damaged."""
    block_id = block_id_of(record)
    relation = Relation(record.oid, record.schema, record.table, "d", record.columns)
    block = Block(relation, record.complete, record.version, record.epoch)
    for key, row in decode_image(record.image, record.rows, record.layout):
        if row is not None:
            block.put(key, row)
        else:
            block.remove(key)
    return block_id, block


@dataclass(frozen=True, slots=True, order=True)
class Stamp:
    """How new a record of a block is: a later generation, then a later epoch of its master, then a later position."""

    generation: int
    epoch: int
    version: int


def stamp(record: FusionBlock) -> Stamp:
    """The stamp of a record."""
    return Stamp(record.generation, record.epoch, record.version)
