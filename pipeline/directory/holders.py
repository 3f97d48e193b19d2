"""What a master knows of copies: which nodes were given a block lately. A hint; one that is wrong costs an answer."""

from __future__ import annotations

from collections.abc import Collection

from pipeline.directory.block import BlockId

HOLDERS_MAX = 3  # remembered of a block; the newest are the likeliest to have it still
BLOCKS_MAX = 16_384  # the block that was given away longest ago is forgotten


class Holders:
    """Holders by block, the newest first. One thread."""

    def __init__(self) -> None:
        self._nodes: dict[BlockId, tuple[str, ...]] = {}

    def note(self, block: BlockId, node: str) -> None:
        """`node` gets the block, or may keep what it reads of it from the target."""
        before = self._nodes.pop(block, ())
        self._nodes[block] = (node, *(other for other in before if other != node))[:HOLDERS_MAX]
        if len(self._nodes) > BLOCKS_MAX:
            del self._nodes[next(iter(self._nodes))]

    def forget(self, block: BlockId, node: str) -> None:
        """`node` was asked and does not have the block any more."""
        before = self._nodes.get(block, ())
        left = tuple(other for other in before if other != node)
        if left:
            self._nodes[block] = left
        elif before:
            del self._nodes[block]

    def of(self, block: BlockId, among: Collection[str], but: str) -> tuple[str, ...]:
        """The holders among those nodes, without `but`."""
        return tuple(node for node in self._nodes.get(block, ()) if node in among and node != but)
