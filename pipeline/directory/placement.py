"""Who owns a block that nobody has moved: a hash of block and node names.

Rendezvous hashing (Thaler and Ravishankar 1998) over a fixed number of slots: each slot belongs to the node
with the highest hash of (node, slot). A node that leaves, whichever it is, gives up its own slots alone, and
one that joins takes only what it will own. The result follows from the set of names, not from its history.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b
from typing import Protocol

from pipeline.directory.block import BlockId, Owner, hash_of

# 4,096 slots over 16 nodes: 256 each, give or take 6 %. A node that is new costs 4,096 hashes: 5 ms.
SLOTS = 4096


class Placement(Protocol):
    """Tells who owns a block. Called for every request, from any thread; never blocks."""

    def owner(self, block: BlockId) -> Owner:
        """The block's master and its epoch."""


class HashPlacement:
    """Every block belongs to the node that its hash gives it to. `nodes` is a set: order does not matter."""

    def __init__(self, nodes: Iterable[str], epoch: int = 0) -> None:
        self.nodes = tuple(sorted(set(nodes)))
        self.epoch = epoch
        if not self.nodes:
            raise ValueError("a placement without nodes")
        owners = {node: Owner(node, epoch) for node in self.nodes}
        self._slots = [owners[node] for node in _slot_nodes(self.nodes)]

    def owner(self, block: BlockId) -> Owner:
        """The block's owner by hash."""
        return self._slots[hash_of(block) % SLOTS]


@lru_cache(maxsize=8)
def _slot_nodes(nodes: tuple[str, ...]) -> list[str]:
    columns = [_weights(node) for node in nodes]
    return [nodes[weights.index(max(weights))] for weights in zip(*columns, strict=True)]


@lru_cache(maxsize=32)  # 150 KiB each: nodes come and go, and come again
def _weights(node: str) -> list[int]:
    base = blake2b(node.encode(), digest_size=8)
    weights = []
    for slot in range(SLOTS):
        digest = base.copy()
        digest.update(slot.to_bytes(4, "big"))
        weights.append(int.from_bytes(digest.digest(), "big"))
    return weights
