"""Which blocks have changed master lately: what a reader that remembers masters has to forget.

One thread writes, any thread reads. Readers take no lock: a slot is written before `version` rises, and a reader looks
again after it has read whether its slots were written anew meanwhile.
"""

from __future__ import annotations

from pipeline.directory.block import BlockId

KEPT = 4096  # changes; a reader that is further behind forgets everything


class RecentMoves:
    """See the module. `version` counts the changes."""

    def __init__(self) -> None:
        self.version = 0
        self._slots: list[BlockId | None] = [None] * KEPT

    def add(self, block: BlockId | None) -> None:
        """Note a block with another master; None: any block may have one."""
        self._slots[self.version % KEPT] = block
        self.version += 1

    def since(self, version: int) -> tuple[int, list[BlockId] | None]:
        """The version of now, and the blocks that changed after `version`; None: too many, or any."""
        now = self.version
        slots = [self._slots[v % KEPT] for v in range(max(version, now - KEPT), now)]
        blocks = [block for block in slots if block is not None]
        known = len(blocks) == len(slots) and self.version - version < KEPT
        return now, blocks if known else None
