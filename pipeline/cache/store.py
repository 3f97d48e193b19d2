"""The blocks in memory, bounded by bytes.

Eviction is second chance (a clock): a hit sets a bit, the hand passes blocks that have it and clears it. Lookups
move nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from pipeline.cache.blocks import Block
from pipeline.directory.block import BlockId


class BlockStore:
    """Blocks by id. The owner calls `shrink` after it has added to blocks."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.size_bytes = 0
        self.evicted = 0
        self._blocks: OrderedDict[BlockId, Block] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, block_id: BlockId) -> bool:
        return block_id in self._blocks

    def get(self, block_id: BlockId) -> Block | None:
        """The block, if it is here."""
        return self._blocks.get(block_id)

    def put(self, block_id: BlockId, block: Block) -> None:
        """Add or replace a block."""
        self.drop(block_id)
        self._blocks[block_id] = block
        self.size_bytes += block.size_bytes

    def drop(self, block_id: BlockId) -> None:
        """Forget a block."""
        old = self._blocks.pop(block_id, None)
        if old is not None:
            self.size_bytes -= old.size_bytes

    def resized(self, before_bytes: int, block: Block) -> None:
        """Account for a block that has changed its size."""
        self.size_bytes += block.size_bytes - before_bytes

    def drop_stream(self, stream: str) -> None:
        """Forget all blocks of a stream."""
        for block_id in [block_id for block_id in self._blocks if block_id.stream == stream]:
            self.drop(block_id)

    def shrink(self) -> list[BlockId]:
        """Evict until the bound is met; return what went."""
        gone = []
        while self.size_bytes > self.bytes_max and self._blocks:
            block_id, block = next(iter(self._blocks.items()))
            if block.touched:
                block.touched = False
                self._blocks.move_to_end(block_id)
            else:
                self.drop(block_id)
                gone.append(block_id)
        self.evicted += len(gone)
        return gone

    def of_table(self, stream: str, schema: str, table: str) -> Iterator[tuple[BlockId, Block]]:
        """The blocks of one table."""
        wanted = (stream, schema, table)
        yield from ((i, b) for i, b in self._blocks.items() if (i.stream, i.schema, i.table) == wanted)

    def items(self) -> Iterator[tuple[BlockId, Block]]:
        """All blocks."""
        yield from self._blocks.items()
