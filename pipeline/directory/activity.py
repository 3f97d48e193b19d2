"""Who uses a block, lately: counts that decay, for the blocks used most."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from pipeline.directory.block import BlockId

HALF_LIFE_US = 20_000_000
LN2 = 0.6931471805599453


@dataclass(slots=True)
class NodeUse:
    """Decayed counts of one node as of the activity's `at_us`."""

    reads: float = 0.0
    writes: float = 0.0
    gone: bool = False  # its cache has evicted the block since it read it

    @property
    def total(self) -> float:
        """Reads and writes."""
        return self.reads + self.writes


@dataclass(slots=True)
class Activity:
    """A block's use by node. `rate` turns a count into accesses a second: a steady rate r settles at r."""

    at_us: int = 0
    nodes: dict[str, NodeUse] = field(default_factory=dict)
    moved_us: int = 0
    told_us: int = 0  # the newest decision about it
    moves: float = 0.0  # decayed too: how restless the block is
    recent: tuple[str, ...] = ()  # see pipeline.directory.prediction.after

    def note(self, node: str, reads: int, writes: int, now_us: int, *, gone: bool = False) -> None:
        """Count accesses of `node`, whose cache may have evicted the block since."""
        self.decay_to(now_us)
        use = self.nodes.get(node)
        if use is None:
            use = self.nodes[node] = NodeUse()
        use.reads += reads
        use.writes += writes
        use.gone = gone

    def decay_to(self, now_us: int) -> None:
        """Age all counts to `now_us`; an earlier time (another node's clock) ages nothing."""
        if now_us <= self.at_us:
            return
        factor = 0.5 ** ((now_us - self.at_us) / HALF_LIFE_US)
        self.at_us = now_us
        for use in self.nodes.values():
            use.reads *= factor
            use.writes *= factor
        self.moves *= factor

    def rates(self) -> dict[str, float]:
        """Accesses a second by node."""
        return {node: per_second(use.total) for node, use in self.nodes.items()}

    def write_share(self) -> float:
        """Writes by all accesses; 1.0 without any."""
        total = sum(use.total for use in self.nodes.values())
        return sum(use.writes for use in self.nodes.values()) / total if total else 1.0


def per_second(count: float) -> float:
    """The steady rate that keeps a decayed count where it is."""
    return count * LN2 * 1e6 / HALF_LIFE_US


class HeavyHitters:
    """The `capacity` blocks used most, each with its activity (Space-Saving: Metwally et al., ICDT 2005).

    A new block takes the place of the least used one and inherits its count, as an upper bound: any block with
    more than 1/capacity of all accesses is here. Counts are halved by `age`, so that old fame passes.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.counts: dict[BlockId, float] = {}
        self.activities: dict[BlockId, Activity] = {}
        self._heap: list[tuple[float, BlockId]] = []  # lower bounds; put right when they come up

    def note(self, block: BlockId, count: int) -> Activity:
        """Count accesses of a block and return its activity."""
        known = self.counts.get(block)
        if known is None:
            known = self._displace() if len(self.counts) >= self.capacity else 0.0
            self.activities[block] = Activity()
            heapq.heappush(self._heap, (known + count, block))
        self.counts[block] = known + count
        return self.activities[block]

    def _displace(self) -> float:
        while True:
            bound, block = self._heap[0]
            count = self.counts[block]
            if count <= bound:
                heapq.heappop(self._heap)
                del self.counts[block], self.activities[block]
                return count
            heapq.heapreplace(self._heap, (count, block))

    def age(self) -> None:
        """Halve every count."""
        self.counts = {block: count / 2 for block, count in self.counts.items()}
        self._heap = [(count, block) for block, count in self.counts.items()]
        heapq.heapify(self._heap)
