"""Simulated nodes over the real directory and the real decider: who uses what, what is local, what moves.

A second at a time: every node makes its accesses, the decider gets the reports, decides, and its records go into the
directory. An access is local where the node masters the block or holds a shared copy. Seeded throughout.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate, islice
from statistics import mean

from pipeline.directory.block import BlockId
from pipeline.directory.decider import Decider
from pipeline.directory.following import take
from pipeline.directory.prediction import NextAccessor, after, likeliest
from pipeline.directory.verdicts import Policy
from schemas.grd_accesses import BlockAccesses, GrdAccesses

SECOND_US = 1_000_000
START_US = 1_700_000_000 * SECOND_US
BLOCKS = 20_000
OWN_SHARE = 0.85  # of a node's accesses are of blocks that it uses more than others do
REMOTE_COST = 4.0  # of a remote access, a local one being 1: half of it falls on the master
TRACKED_MAX = 8 * 4096  # of all eight partitions, which are one here


@dataclass
class Outcome:
    """What a run of a cluster gave."""

    local: int = 0
    remote: int = 0
    moves: int = 0
    cost: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def count(self, node: str, master: str) -> None:
        """Count an access by `node`."""
        if node == master:
            self.local += 1
            self.cost[node] += 1
        else:
            self.remote += 1
            self.cost[node] += 1 + REMOTE_COST / 2
            self.cost[master] += REMOTE_COST / 2

    @property
    def busiest(self) -> float:
        """Time of the busiest node by the mean of all."""
        return max(self.cost.values()) / mean(self.cost.values())

    @property
    def hit_rate(self) -> float:
        """Share of local accesses."""
        return self.local / max(1, self.local + self.remote)

    @property
    def throughput(self) -> float:
        """Accesses by the time of the busiest node, a local access taking 1."""
        return (self.local + self.remote) / max(self.cost.values())


@dataclass(frozen=True, slots=True)
class Load:
    """`seconds` of accesses, as many from each node: of its own blocks mostly, else of any.

    Every `shift_s` a tenth of the blocks changes users. A share `shared` of them belongs to nobody and is only read;
    it is used by all, that much more often.
    """

    nodes: int
    seconds: int = 120
    per_node: int = 300  # accesses a second
    shift_s: int = 0
    shared: float = 0.0
    blocks: int = BLOCKS

    def names(self) -> list[str]:
        """The nodes' names."""
        return [f"node{n:02d}" for n in range(self.nodes)]


def accesses(load: Load, seed: int) -> Iterator[list[tuple[str, BlockId, bool]]]:
    """For each second: who uses which block, and whether it writes."""
    rng = random.Random(seed)
    blocks = [BlockId("s", "public", "item", n) for n in range(load.blocks)]
    weights = list(accumulate(1 / n**0.99 for n in range(1, load.blocks + 1)))
    rng.shuffle(blocks)
    shared = {block for block in blocks if rng.random() < load.shared}
    user = {block: rng.randrange(load.nodes) for block in blocks}
    own_share = OWN_SHARE - load.shared
    own: list[list[BlockId]] = []
    for second in range(load.seconds):
        if second == 0 or (load.shift_s and second % load.shift_s == 0):
            for block in rng.sample(blocks, load.blocks // 10):
                user[block] = rng.randrange(load.nodes)
            own = [[b for b in blocks if user[b] == n and b not in shared] for n in range(load.nodes)]
        found = []
        for number, name in enumerate(load.names()):
            count = sum(rng.random() < own_share for _ in range(load.per_node))
            used = rng.choices(own[number], cum_weights=weights[: len(own[number])], k=count)
            used += rng.choices(blocks, cum_weights=weights, k=load.per_node - count)
            found += [(name, block, block not in shared) for block in used]
        rng.shuffle(found)
        yield found


def run_cluster(load: Load, seed: int, *, moves: bool, policy: Policy | None = None) -> Outcome:
    """Run a load; without `moves` every block stays where its hash puts it."""
    decider = Decider(policy or Policy(moves_per_s=800, moves_burst=800, tracked_max=TRACKED_MAX))
    directory = decider.directory
    now_us = START_US
    for record in decider.set_members(load.names(), now_us):
        take(directory, 0, record, now_us, now_us)
        decider.load(record)
    directory.catch_up()
    outcome = Outcome()
    for used in accesses(load, seed):
        now_us += SECOND_US
        for node, block, writes in used:
            entry = directory.entry(block)
            master = entry.owner.node
            outcome.count(node, node if not writes and node in entry.affinity.holders else master)
        directory.settle(now_us)
        if not moves:
            continue
        for report in _reports(used, now_us):
            decider.observe(report, now_us)
        for record in decider.decide(now_us):
            outcome.moves += 1
            decider.load(record)
    return outcome


def _reports(used: list[tuple[str, BlockId, bool]], now_us: int) -> Iterator[GrdAccesses]:
    counts: dict[str, dict[BlockId, list[int]]] = {}
    for node, block, writes in used:
        counts.setdefault(node, {}).setdefault(block, [0, 0])[writes] += 1
    for node, blocks in counts.items():
        yield GrdAccesses(node, now_us, tuple(BlockAccesses(str(b), r, w) for b, (r, w) in blocks.items()))


def oracle(load: Load, seed: int, window_s: int = 10) -> Outcome:
    """Each block is, for each window, with the node that is going to use it most; moves are free."""
    outcome = Outcome()
    seconds = accesses(load, seed)
    while window := [used for second in islice(seconds, window_s) for used in second]:
        users: dict[BlockId, Counter[str]] = {}
        for node, block, _ in window:
            users.setdefault(block, Counter())[node] += 1
        masters = {block: max(counts, key=counts.__getitem__) for block, counts in users.items()}
        for node, block, _ in window:
            outcome.count(node, masters[block])
    return outcome


# -- prediction --------------------------------------------------------------------------------------


def handed_on(seed: int, count: int) -> Iterator[tuple[int, str]]:
    """Blocks that go through three nodes, one after another, each using it once to three times; one in ten strays."""
    rng = random.Random(seed)
    ways = ["abc", "dbe", "cad"]
    block = 0
    made = 0
    while made < count:
        block += 1
        for node in rng.choice(ways):
            for _ in range(rng.randint(1, 3)):
                yield block, rng.choice("abcde") if rng.random() < 0.1 else node
                made += 1


def steady(seed: int, count: int) -> Iterator[tuple[int, str]]:
    """Blocks with a favourite node each."""
    rng = random.Random(seed)
    favourites = [rng.choice("abcde") for _ in range(200)]
    for _ in range(count):
        block = rng.randrange(200)
        yield block, favourites[block] if rng.random() < OWN_SHARE else rng.choice("abcde")


def chance(seed: int, count: int) -> Iterator[tuple[int, str]]:
    """Nothing to learn."""
    rng = random.Random(seed)
    for _ in range(count):
        yield rng.randrange(200), rng.choice("abcde")


def accuracies(trace: Iterator[tuple[int, str]]) -> dict[str, float]:
    """Share of accesses whose node was foretold, by the model and by simple rules; the first tenth teaches only."""
    model, right, asked = NextAccessor(), Counter[str](), 0
    recent: dict[int, tuple[str, ...]] = {}
    used: dict[int, Counter[str]] = {}
    pairs = list(trace)
    for number, (block, node) in enumerate(pairs):
        before, counts = recent.get(block, ()), used.setdefault(block, Counter())
        if number >= len(pairs) // 10 and before:
            asked += 1
            right["model"] += likeliest(model.predict(before, counts))[0] == node
            right["last"] += before[-2] == node
            right["most"] += counts.most_common(1)[0][0] == node
        model.learn(before, counts, node)
        recent[block] = after(before, node)
        counts[node] += 1
    return {name: right[name] / max(1, asked) for name in ("model", "last", "most")}
