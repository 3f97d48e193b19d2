"""Membership, and the one rule that says who owns a block.

Every record of the directory - a block's affinity, or the set of members - takes the next number of one
sequence a partition, the epoch. An owner is a function of the newest member set and the block's newest record,
and its epoch is the higher of their two: so one epoch of a block has one owner, and epochs never go back,
however often nodes leave and come again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pipeline.directory.block import BlockId, Owner
from pipeline.directory.placement import HashPlacement

NODES_MAX = 4096  # what twelve bits of a packed entry hold


class Affinity(NamedTuple):
    """What a block's newest record says. `master` is empty where the hash decides."""

    master: str
    epoch: int
    read_mostly: bool = False
    holders: tuple[str, ...] = ()

    @property
    def mode(self) -> str:
        """`shared`: holders may answer reads without the master; `exclusive`: the master answers."""
        return "shared" if self.read_mostly else "exclusive"


HASHED = Affinity("", 0)


class Members:
    """The nodes that take part since `epoch`, and the owners they have by hash."""

    def __init__(self, nodes: Iterable[str] = (), epoch: int = 0) -> None:
        self.nodes = frozenset(nodes)
        self.epoch = epoch
        self._hash = HashPlacement(self.nodes, epoch) if self.nodes else None

    def owner(self, block: BlockId, affinity: Affinity = HASHED) -> Owner:
        """Who owns `block`. Without members it is nobody: the node name is empty."""
        epoch = max(self.epoch, affinity.epoch)
        if affinity.master in self.nodes:
            return Owner(affinity.master, epoch)
        if self._hash is None:
            return Owner("", epoch)
        owner = self._hash.owner(block)
        return owner if owner.epoch == epoch else Owner(owner.node, epoch)


def next_epoch(last: int, now_us: int) -> int:
    """The epoch after `last`: milliseconds since 1970, or one more where those are used up.

    A topic that was deleted and made anew so begins above everything the old one had.
    """
    return max(last + 1, now_us // 1000)
