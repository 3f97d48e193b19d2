"""Which nodes are there, and the placement that follows from it.

A hint, like everything that says who masters what: blocks are right because they follow log and ledger. A wrong
placement costs a look at the target, never a wrong row.
"""

from __future__ import annotations

from pipeline.directory.block import BlockId, Owner
from pipeline.directory.placement import HashPlacement


class Members:
    """The nodes seen by this one. An epoch grows with each change; nodes that see the same agree on the highest."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.nodes: tuple[str, ...] = (node,)
        self.epoch = 1
        self._placement = HashPlacement(self.nodes, self.epoch)

    def owner(self, block: BlockId) -> Owner:
        """The block's master (see `pipeline.directory.placement.Placement`)."""
        return self._placement.owner(block)

    def see(self, peers: set[str]) -> bool:
        """The peers that are connected now; whether that changes anything."""
        nodes = tuple(sorted({self.node, *peers}))
        if nodes == self.nodes:
            return False
        self._become(nodes, self.epoch + 1)
        return True

    def hear(self, nodes: tuple[str, ...], epoch: int) -> bool:
        """What a peer sees; whether that changes the epoch here."""
        if nodes != self.nodes or epoch <= self.epoch:
            return False
        self._become(nodes, epoch)
        return True

    def _become(self, nodes: tuple[str, ...], epoch: int) -> None:
        placement = HashPlacement(nodes, epoch)
        self.nodes, self.epoch, self._placement = nodes, epoch, placement
