"""A cache node under a load: `python -m benchmarks.directory_node CONFIG JSON`, its name and peers in the environment.

Prints "ready" once it follows the stream and sees its peers, begins at a line of input, and prints what it counted.
The load is the simulated cluster's (`directory_cluster.accesses`), a row for each of its blocks.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.directory_cluster import Load, accesses
from topologies.cache_node import TICK_S, CacheNode
from topologies.settings import Settings
from topologies.settings_file import load_settings

STREAM, TABLE = "s", ("public", "item")
SLICES = 10  # of a second


@dataclass(frozen=True, slots=True)
class Task:
    """A load of which the first `warm_s` seconds are not counted; `memory_bytes` for rows, less than a user may set."""

    nodes: int
    blocks: int
    per_node: int
    seconds: int
    warm_s: int
    shift_s: int
    seed: int
    memory_bytes: int

    def load(self) -> Load:
        """As the simulation knows it."""
        return Load(self.nodes, self.seconds, self.per_node, self.shift_s, blocks=self.blocks)


@dataclass(slots=True)
class Counted:
    """Where rows came from, how blocks came, and seconds of CPU."""

    origins: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    cpu_s: float = 0.0

    def since(self, before: Counted) -> dict[str, float]:
        """What came since, as plain numbers."""
        origins, outcomes = self.origins - before.origins, self.outcomes - before.outcomes
        return {**origins, **outcomes, "cpu_s": self.cpu_s - before.cpu_s}


class Driven:
    """A node and its load."""

    def __init__(self, settings: Settings, task: Task) -> None:
        self.node = CacheNode(settings)
        self.node.store.bytes_max = task.memory_bytes
        self._task = task
        self._origins: Counter[str] = Counter()
        name = settings.cache.node
        self._keys = [
            [block.bucket + 1 for node, block, _ in used if node == name] for used in accesses(task.load(), task.seed)
        ]

    def counted(self) -> Counted:
        """As of now."""
        found = Counter({way.value: n for way, n in self.node.exchange.transfers.routes.outcomes.items()})
        found["asked"] = self.node.counts["fetches"]
        return Counted(Counter(self._origins), found, time.process_time())

    async def run(self) -> dict[str, float]:
        """Start, wait for the others, make the reads."""
        await self.node.start()
        ticking = asyncio.create_task(self._tick())
        while not self._there():  # noqa: ASYNC110 - once, at the start
            await asyncio.sleep(TICK_S)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        began_s = time.monotonic()
        before = Counted()
        for second, keys in enumerate(self._keys):
            if second == self._task.warm_s:
                before = self.counted()
            await self._read(keys, began_s + second)
        found = self.counted().since(before)
        print(json.dumps({**found, "late_s": time.monotonic() - began_s - len(self._keys)}), flush=True)
        await asyncio.to_thread(sys.stdin.readline)  # the others still ask for blocks
        ticking.cancel()
        await self.node.stop()
        return found

    def _there(self) -> bool:
        node = self.node
        cache = node.readers[STREAM].follower.cache
        directed = node.directory is None or node.directory.directory.ready
        return len(node.members.nodes) == self._task.nodes and directed and cache.current and TABLE in cache.relations

    async def _tick(self) -> None:
        while True:
            self.node.tick()
            await asyncio.sleep(TICK_S)

    async def _read(self, keys: list[int], at_s: float) -> None:
        """A second's reads, evenly; the last slice ends with the second."""
        for part in range(SLICES):
            for key in keys[part::SLICES]:
                answer = await self.node.read(STREAM, TABLE, [str(key)], 0, 5.0)
                if answer.row is None or answer.row["id"] != key:
                    raise RuntimeError(f"row {key}: {answer}")
                self._origins[answer.origin] += 1
            await asyncio.sleep(max(0.0, at_s + (part + 1) / SLICES - time.monotonic()))


def main() -> None:
    """Run the task of the command line."""
    settings = load_settings(Path(sys.argv[1]))
    asyncio.run(Driven(settings, Task(**json.loads(sys.argv[2]))).run())


if __name__ == "__main__":
    main()
