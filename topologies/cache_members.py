"""Which nodes are there, and who masters what.

A hint, like everything that says who masters what: blocks are right because they follow log and ledger. A wrong
placement costs a look at the target, never a wrong row.
"""

from __future__ import annotations

from pipeline.directory.block import BlockId, Owner
from pipeline.directory.directory import Directory
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

    def holders(self, block: BlockId) -> tuple[str, ...]:
        """Nodes that may be asked for the block like its master."""
        del block
        return ()

    def see(self, peers: set[str]) -> bool:
        """The peers that are connected now; whether masters are others than before."""
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


class DirectedMembers(Members):
    """The same where the resource directory decides on masters and epochs; `nodes` are those within reach."""

    def __init__(self, node: str, directory: Directory) -> None:
        super().__init__(node)
        self._directory = directory
        self._known = directory.members_now()

    def owner(self, block: BlockId) -> Owner:
        """The block's master; nobody while the directory has not been read."""
        return self._directory.owner(block)

    def holders(self, block: BlockId) -> tuple[str, ...]:
        """The nodes that share a block which is hardly written."""
        affinity = self._directory.entry(block).affinity
        return affinity.holders if affinity.read_mostly else ()

    def see(self, peers: set[str]) -> bool:
        """The peers within reach; whether the directory's members are others than at the last call."""
        self.nodes = tuple(sorted({self.node, *peers}))
        before, self._known = self._known, self._directory.members_now()
        self.epoch = self._known[1]
        return self._known != before

    def hear(self, nodes: tuple[str, ...], epoch: int) -> bool:
        """What a peer sees says nothing here: all follow one directory."""
        del nodes, epoch
        return False
