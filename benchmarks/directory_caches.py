"""Simulated cache nodes over the real store, directory, decider and routes: where rows come from when memory is short.

A message takes no time and none is lost, so what counts is whom a node asks, and what is found there. The load is the
simulated cluster's (`directory_cluster.accesses`), of reads.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from benchmarks.directory_cluster import SECOND_US, START_US, Load, accesses
from pipeline.cache.blocks import BLOCK_OVERHEAD_BYTES, Block
from pipeline.cache.store import BlockStore
from pipeline.directory.access_counter import AccessCounter
from pipeline.directory.block import BlockId
from pipeline.directory.decider import Decider
from pipeline.directory.holders import Holders
from pipeline.directory.routes import Outcome, Route, Routes
from schemas.change_batch import Relation

BLOCKS_A_NODE, READS_A_SECOND = 40, 40
BLOCKS_MAX = (10, 20, 40)  # that a node has memory for; it has 40 of its own, and also reads those of the others
CACHED = {
    f"{nodes} nodes, {name}": Load(nodes, 60, READS_A_SECOND, shift_s, blocks=BLOCKS_A_NODE * nodes)
    for nodes in (3, 8) for name, shift_s in (("steady", 0), ("shifting", 20))
}  # fmt: skip
WARM_SHARE = 0.4  # of the seconds are not counted
TRIES_MAX = 2  # as in topologies.cache_transfers
LATENCY_US = 300.0
RELATION = Relation(1, "public", "item", "d", ())


@dataclass
class Node:
    """A cache node without threads and sockets."""

    name: str
    store: BlockStore
    counter: AccessCounter
    routes: Routes
    holders: Holders = field(default_factory=Holders)


class Caches:
    """A cluster of cache nodes. Without `moves` the directory stays as its hash makes it, and nothing is precious."""

    def __init__(self, load: Load, blocks_max: int, *, moves: bool) -> None:
        self._load = load
        self._moves = moves
        self._now_us = START_US
        self.decider = Decider()
        for record in self.decider.set_members(load.names(), START_US):
            self.decider.load(record)
        self.decider.directory.catch_up()
        self.nodes = {name: self._node(name, blocks_max * BLOCK_OVERHEAD_BYTES) for name in load.names()}
        self.counts: Counter[str] = Counter()

    def _node(self, name: str, bytes_max: int) -> Node:
        directory, counter = self.decider.directory, AccessCounter(name, 1)
        store = BlockStore(bytes_max)
        if self._moves:
            store = BlockStore(
                bytes_max, lambda block: directory.owner(block).node == name,
                lambda block: counter.evicted(block) if name in directory.affinity(block).holders else None,
            )  # fmt: skip
        return Node(name, store, counter, Routes(name))

    def run(self, seed: int) -> dict[str, float]:
        """Make the reads; shares of what came after the first seconds."""
        warm_s = round(WARM_SHARE * self._load.seconds)
        for second, used in enumerate(accesses(self._load, seed)):
            if second == warm_s:
                self.counts.clear()
            self._now_us += SECOND_US
            for name, block, _ in used:
                self._read(self.nodes[name], block)
            self.decider.directory.settle(self._now_us)
            if self._moves:
                self._decide()
        counts, total = self.counts, self.counts["cache"] + self.counts["peer"] + self.counts["target"]
        found = {name: counts[name] / total for name in ("cache", "peer", "target", "asked")}
        return {**found, "memory of all": found["cache"] + found["peer"], "decisions": float(counts["decisions"])}

    def _read(self, node: Node, block: BlockId) -> None:
        node.counter.read(block)
        held = node.store.get(block)
        if held is not None:
            held.reads += 1
            self.counts["cache"] += 1
            return
        came = self._fetch(node, block)
        self.counts["peer" if came else "target"] += 1
        self._keep(node, block)

    def _keep(self, node: Node, block: BlockId) -> None:
        node.store.put(block, Block(RELATION, complete=False, version=0))
        node.store.shrink()

    def _fetch(self, node: Node, block: BlockId) -> bool:
        """As `Transfers.fetch`."""
        directory, before = self.decider.directory, Route("", "")
        owner, affinity = directory.owner(block), directory.affinity(block)
        for _ in range(TRIES_MAX):
            holders = affinity.holders if affinity.read_mostly else ()
            if owner.node == node.name:
                holders = (*holders, *node.holders.of(block, self.nodes, node.name))
            route = node.routes.plan(block, owner, self.nodes, holders)
            if not route.ask or route == before:
                return False
            before = route
            self.counts["asked"] += 1
            by = self._answering(self.nodes[route.ask], block, node.name)
            if block in self.nodes[by].store:
                node.routes.answered(block, route, by, owner.epoch, LATENCY_US)
                return True
            node.routes.failed(block, Outcome.BUSY)
            node.holders.forget(block, by)
        return False

    def _answering(self, asked: Node, block: BlockId, requester: str) -> str:
        """Who answers: the node itself, or the holder to which it passes the request."""
        others = asked.holders.of(block, self.nodes, requester)
        asked.holders.note(block, requester)
        return asked.name if block in asked.store or not others else others[0]

    def _decide(self) -> None:
        for node in self.nodes.values():
            for report in node.counter.reports(1, self._now_us).values():
                self.decider.observe(report, self._now_us)
        for record in self.decider.decide(self._now_us):
            self.counts["decisions"] += 1
            block = BlockId.parse(record.block)
            before = self.decider.directory.owner(block).node
            self.decider.load(record)
            after = self.decider.directory.owner(block).node
            if before != after and before:
                self._ship(self.nodes[before], self.nodes[after], block)

    def _ship(self, before: Node, after: Node, block: BlockId) -> None:
        after.holders.note(block, before.name)
        if block in before.store and block not in after.store:
            self._keep(after, block)


def run_caches(load: str, blocks_max: int, seed: int, *, moves: bool) -> dict[str, float]:
    """Shares of the reads of one load: where rows came from, and how often a peer was asked."""
    return Caches(CACHED[load], blocks_max, moves=moves).run(seed)
