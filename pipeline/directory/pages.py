"""The cold tier: every block that has a record, packed into 8 bytes.

A table's blocks are numbered, so their words lie in pages by number: no keys, no hashes, no pointers. A block
with copies in other nodes (read-mostly) has them in a side table; those are few.
A word is read and written whole, so a reader sees the old or the new one, and needs no lock.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from pipeline.directory.block import BlockId
from pipeline.directory.members import HASHED, NODES_MAX, Affinity

PAGE_BLOCKS = 256  # 2 KiB: a table with one moved block costs one page
EPOCH_BITS = 44  # milliseconds until the year 2527
_READ_MOSTLY = 1
TableKey = tuple[str, str, str]
Pages = dict[int, "array[int]"]


class ColdTier:
    """Packed affinities. One writer; readers need no lock."""

    def __init__(self) -> None:
        self.blocks = 0
        self._tables: dict[TableKey, Pages] = {}
        self._names: list[str] = [""]
        self._numbers: dict[str, int] = {"": 0}
        self._holders: dict[BlockId, tuple[str, ...]] = {}

    def get(self, block: BlockId) -> Affinity:
        """The block's affinity; HASHED for a block without one."""
        pages = self._tables.get(block[:3])
        page = pages.get(block.bucket // PAGE_BLOCKS) if pages is not None else None
        word = page[block.bucket % PAGE_BLOCKS] if page is not None else 0
        return self._unpack(block, word) if word else HASHED

    def put(self, block: BlockId, affinity: Affinity) -> None:
        """Keep the block's affinity. Raises ValueError for an epoch or a number of nodes beyond its bits."""
        if not 0 < affinity.epoch < 1 << EPOCH_BITS:
            raise ValueError(f"block {block}: epoch {affinity.epoch} is not in 1..2^{EPOCH_BITS}-1")
        page = self._tables.setdefault(block[:3], {}).setdefault(block.bucket // PAGE_BLOCKS, _empty_page())
        if affinity.holders:
            self._holders[block] = affinity.holders
        place = block.bucket % PAGE_BLOCKS
        self.blocks += page[place] == 0
        page[place] = affinity.epoch << 20 | self._number(affinity.master) << 8 | int(affinity.read_mostly)
        if not affinity.holders:
            self._holders.pop(block, None)

    def items(self) -> Iterator[tuple[BlockId, Affinity]]:
        """Every block with a record. Not while the writer writes."""
        for table, pages in self._tables.items():
            for number, page in pages.items():
                for place, word in enumerate(page):
                    if word:
                        block = BlockId(*table, number * PAGE_BLOCKS + place)
                        yield block, self._unpack(block, word)

    def _unpack(self, block: BlockId, word: int) -> Affinity:
        master, read_mostly = self._names[word >> 8 & NODES_MAX - 1], bool(word & _READ_MOSTLY)
        return Affinity(master, word >> 20, read_mostly, self._holders.get(block, ()))

    def _number(self, node: str) -> int:
        number = self._numbers.get(node)
        if number is None:
            if len(self._names) >= NODES_MAX:
                raise ValueError(f"node {node}: {NODES_MAX - 1} node names were used already; restart this process")
            self._names.append(node)  # before its number is: a reader finds the name of any number
            number = self._numbers[node] = len(self._names) - 1
        return number


def _empty_page() -> array[int]:
    return array("Q", bytes(8 * PAGE_BLOCKS))
