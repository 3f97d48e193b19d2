"""The blocks of one stream that a node holds, and those on their way to it."""

from __future__ import annotations

from collections.abc import Collection

from pipeline.cache.blocks import Block
from pipeline.cache.fetches import Fetches
from pipeline.cache.store import BlockStore
from pipeline.directory.block import BlockId, bucket_of
from pipeline.directory.placement import Placement
from schemas.change_batch import Relation

TableKey = tuple[str, str]


class HeldBlocks:
    """One stream's part of the node's store. All blocks stand for `visible`, or for their version if that is later.

    `dirty` are the blocks that have changed since they were journalled.
    """

    def __init__(
        self, stream: str, buckets: int, node: str, placement: Placement, store: BlockStore, position: int
    ) -> None:
        self.stream = stream
        self.buckets = buckets
        self.visible = position
        self.dirty: set[BlockId] = set()
        self.fetches = Fetches()
        self._node = node
        self._placement = placement
        self._store = store
        self._sizes: dict[BlockId, int] = {}  # as the store knows them, of blocks that are being changed

    def block_id(self, table: TableKey, key: bytes) -> BlockId:
        """The block of a key."""
        return BlockId(self.stream, *table, bucket_of(key, self.buckets))

    def get(self, block_id: BlockId) -> Block | None:
        """The block, if it is held."""
        return self._store.get(block_id)

    def of_table(self, table: TableKey) -> list[tuple[BlockId, Block]]:
        """The blocks of a table."""
        return [*self._store.of_table(self.stream, *table)]

    # ---- coming and going ------------------------------------------------------------------------

    def begin(
        self, block_id: BlockId, relation: Relation, *, complete: bool = False, granted: bool = False
    ) -> Block | None:
        """Begin a block that this node masters, or that its master has `granted`; None if it is another's."""
        owner = self._placement.owner(block_id)
        if owner.node != self._node and not granted:
            return None
        block = Block(relation, complete=complete, version=self.visible, epoch=owner.epoch)
        self._store.put(block_id, block)
        return block

    def put(self, block_id: BlockId, block: Block) -> None:
        """Take a block, and evict others if the store is full."""
        self._store.put(block_id, block)
        self.shrink()

    def drop(self, block_id: BlockId) -> None:
        """Forget a block."""
        self._settle(block_id, self._sizes.pop(block_id, None))
        self._store.drop(block_id)
        self.dirty.discard(block_id)

    def drop_table(self, table: TableKey, position: int) -> None:
        """Forget the blocks that do not have the changes up to `position`, and those on their way."""
        for block_id, block in self.of_table(table):
            if block.version < position:
                self.drop(block_id)
        self.fetches.lose_table(table)

    def clear(self) -> None:
        """Forget all blocks, at the start of a new snapshot."""
        self.visible = 0
        self._store.drop_stream(self.stream)
        self.dirty.clear()
        self.fetches.lose_all()

    # ---- sizes -----------------------------------------------------------------------------------

    def changing(self, block_id: BlockId, block: Block) -> None:
        """Note that a block is about to change; `settle` tells the store once all changes are made."""
        self._sizes.setdefault(block_id, block.size_bytes)
        self.dirty.add(block_id)

    def settle(self) -> None:
        """Tell the store what became of the blocks that were changing."""
        for block_id, before in self._sizes.items():
            self._settle(block_id, before)
        self._sizes.clear()

    def _settle(self, block_id: BlockId, before: int | None) -> None:
        block = self._store.get(block_id)
        if block is not None and before is not None:
            self._store.resized(before, block)

    def refill(self, block: Block, key: bytes, row: bytes | None) -> None:
        """Set a row that was read from the target, or that it does not exist. The block is not journalled for it."""
        before = block.size_bytes
        block.remove(key) if row is None else block.put(key, row)
        self._store.resized(before, block)
        self.shrink()

    def shrink(self) -> None:
        """Evict until the store is within its bound."""
        self.dirty.difference_update(self._store.shrink())

    # ---- masters ---------------------------------------------------------------------------------

    def remastered(self, among: Collection[BlockId] | None) -> list[BlockId]:
        """See `StreamCache.remastered`."""
        given = []
        found = self._store.items() if among is None else ((b, self._store.get(b)) for b in among)
        for block_id, block in found:
            if block is not None and block_id.stream == self.stream:
                owner = self._placement.owner(block_id)
                block.epoch = owner.epoch
                if owner.node == self._node:
                    self.dirty.add(block_id)
                else:
                    given.append(block_id)
        return given
