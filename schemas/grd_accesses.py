"""GrdAccesses: how often a node has used blocks."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.errors import SchemaError
from schemas.single_object import codec


@dataclass(frozen=True, slots=True)
class BlockAccesses:
    """Accesses of one block since the node's last record. `gone`: its cache has evicted the block after them."""

    block: str
    reads: int
    writes: int
    gone: bool = False


@dataclass(frozen=True, slots=True)
class GrdAccesses:
    """One report of a node. Times are microseconds since 1970 UTC."""

    node: str
    time_us: int
    blocks: tuple[BlockAccesses, ...]


def encode_accesses(accesses: GrdAccesses) -> bytes:
    """Return the record of `accesses`."""
    blocks = [{"block": b.block, "reads": b.reads, "writes": b.writes, "gone": b.gone} for b in accesses.blocks]
    return codec("grd_accesses").encode({"node": accesses.node, "time_us": accesses.time_us, "blocks": blocks})


def decode_accesses(data: bytes) -> GrdAccesses:
    """Return the report in `data`. Raises SchemaError."""
    datum = codec("grd_accesses").decode(data)
    blocks = tuple(BlockAccesses(**block) for block in datum.pop("blocks"))
    if not datum["node"]:
        raise SchemaError("accesses of a node without a name")
    for block in blocks:
        if block.reads < 0 or block.writes < 0:
            raise SchemaError(f"block {block.block}: {block.reads} reads, {block.writes} writes: negative")
    return GrdAccesses(blocks=blocks, **datum)
