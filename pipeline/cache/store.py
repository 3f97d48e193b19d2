"""The blocks in memory, bounded by bytes.

What is new waits in a short queue: there it is kept if it is read again, else it goes first, so what is read once
pushes out nothing that is used (S3-FIFO: Yang et al., SOSP 2023). What is kept is a clock: the hand passes blocks that
were read since it came by. Lookups move nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator

from pipeline.cache.blocks import Block
from pipeline.directory.block import BlockId

NEW_SHARE = 0.1  # of the blocks, while there are others
HAND_TURNS = 8  # every so many evictions look at the kept ones, or what was used once would stay for ever


class BlockStore:
    """Blocks by id. The owner calls `shrink` after it has added to blocks.

    `precious` tells which blocks the hand passes twice if they were read twice: those that no other node is likely to
    have. `evicted_one` is told each block that is evicted, in the thread that calls `shrink`.
    """

    def __init__(
        self, bytes_max: int, precious: Callable[[BlockId], bool] = lambda _: False,
        evicted_one: Callable[[BlockId], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self.bytes_max = bytes_max
        self.size_bytes = 0
        self.evicted = 0
        self._precious, self._evicted_one = precious, evicted_one
        self._turns = 0
        self._new: OrderedDict[BlockId, Block] = OrderedDict()
        self._kept: OrderedDict[BlockId, Block] = OrderedDict()  # the hand is at its beginning

    def __len__(self) -> int:
        return len(self._new) + len(self._kept)

    def __contains__(self, block_id: BlockId) -> bool:
        return block_id in self._kept or block_id in self._new

    def get(self, block_id: BlockId) -> Block | None:
        """The block, if it is here."""
        return self._kept.get(block_id) or self._new.get(block_id)

    def put(self, block_id: BlockId, block: Block) -> None:
        """Add or replace a block."""
        kept = block_id in self._kept
        self.drop(block_id)
        (self._kept if kept else self._new)[block_id] = block
        self.size_bytes += block.size_bytes

    def drop(self, block_id: BlockId) -> None:
        """Forget a block."""
        old = self._kept.pop(block_id, None) or self._new.pop(block_id, None)
        if old is not None:
            self.size_bytes -= old.size_bytes

    def resized(self, before_bytes: int, block: Block) -> None:
        """Account for a block that has changed its size."""
        self.size_bytes += block.size_bytes - before_bytes

    def drop_stream(self, stream: str) -> None:
        """Forget all blocks of a stream."""
        for block_id in [block_id for block_id, _ in self.items() if block_id.stream == stream]:
            self.drop(block_id)

    def shrink(self) -> list[BlockId]:
        """Evict until the bound is met; return what went."""
        gone: list[BlockId] = []
        while self.size_bytes > self.bytes_max and len(self):
            self._turns += 1
            hand = self._turns % HAND_TURNS == 0 or len(self._new) <= NEW_SHARE * len(self)
            block_id = self._turn_hand() if hand and self._kept else self._end_of_queue()
            if block_id is not None:
                self.drop(block_id)
                self._evicted_one(block_id)
                gone.append(block_id)
        self.evicted += len(gone)
        return gone

    def _end_of_queue(self) -> BlockId | None:
        """The oldest of what is new, if it should go."""
        block_id, block = next(iter(self._new.items()))
        if not block.reads:
            return block_id
        block.reads = 0
        self._kept[block_id] = block  # before it leaves the queue: who asks without the lock finds it
        del self._new[block_id]
        return None

    def _turn_hand(self) -> BlockId | None:
        """The block at the hand, if it should go."""
        block_id, block = next(iter(self._kept.items()))
        if not block.reads:
            return block_id
        block.reads = 1 if block.reads > 1 and self._precious(block_id) else 0
        self._kept.move_to_end(block_id)
        return None

    def of_table(self, stream: str, schema: str, table: str) -> Iterator[tuple[BlockId, Block]]:
        """The blocks of one table."""
        wanted = (stream, schema, table)
        yield from ((i, b) for i, b in self.items() if (i.stream, i.schema, i.table) == wanted)

    def items(self) -> Iterator[tuple[BlockId, Block]]:
        """All blocks."""
        yield from self._kept.items()
        yield from self._new.items()
