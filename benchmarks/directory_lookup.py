"""Look-ups in a directory of a million blocks while moves come in: latency, locks, hit rates of bounded memory."""

from __future__ import annotations

import heapq
import random
import threading
import time
import tracemalloc
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from queue import SimpleQueue
from typing import Protocol

from pipeline.directory.block import BlockId, Owner
from pipeline.directory.directory import ENTRIES_MAX, Directory
from pipeline.directory.members import Affinity, Members
from pipeline.directory.tiers import Entry

NODES = [f"node{n:02d}" for n in range(8)]
BUCKETS = 65_536
MOVES_PER_BATCH, BATCH_S = 100, 0.05  # 2,000 moves a second
GARBAGE_EVERY = 50  # look-ups between two pieces of other work that leaves garbage behind
TRACE = 300_000
SETTLE_EVERY = 64  # look-ups between two settlings where a trace is run without threads


class Lookup(Protocol):
    """A directory to look things up in, and to move things in."""

    def owner(self, block: BlockId) -> Owner:
        """The block's owner."""

    def move(self, block: BlockId, affinity: Affinity) -> None:
        """Take a record."""

    def tidy(self) -> None:
        """What the writer does beside that."""


class Ours:
    """The directory."""

    def __init__(self, directory: Directory) -> None:
        self.directory = directory
        self.owner = directory.owner

    def move(self, block: BlockId, affinity: Affinity) -> None:
        """Take a record."""
        self.directory.apply(block, affinity, 0)

    def tidy(self) -> None:
        """Promote and demote."""
        self.directory.settle(0)


class OneLock:
    """The same entries in an LRU list of the same number, behind one lock. `waited_ns`: for that lock."""

    def __init__(self, directory: Directory, entries_max: int) -> None:
        self.waited_ns = 0
        self._directory = directory
        self._entries_max = entries_max
        self._lru: OrderedDict[BlockId, Entry] = OrderedDict()
        self._lock = threading.Lock()

    @contextmanager
    def _held(self) -> Iterator[None]:
        asked_ns = time.perf_counter_ns()
        with self._lock:
            self.waited_ns += time.perf_counter_ns() - asked_ns
            yield

    def owner(self, block: BlockId) -> Owner:
        """The block's owner."""
        with self._held():
            entry = self._lru.get(block)
            if entry is None:
                affinity = self._directory.affinity(block)
                entry = Entry(block, affinity, self._directory.members(block).owner(block, affinity))
                self._lru[block] = entry
                if len(self._lru) > self._entries_max:
                    self._lru.popitem(last=False)
            else:
                self._lru.move_to_end(block)
            return entry.owner

    def move(self, block: BlockId, affinity: Affinity) -> None:
        """Take a record."""
        with self._held():
            self._directory.apply(block, affinity, 0)
            self._lru.pop(block, None)

    def tidy(self) -> None:
        """Nothing."""


class Asked:
    """A directory in a thread of its own that is sent a message a look-up."""

    def __init__(self, inner: OneLock) -> None:
        self._inner = inner
        self._questions: SimpleQueue[tuple[BlockId, SimpleQueue[Owner]] | None] = SimpleQueue()
        self._answers: SimpleQueue[Owner] = SimpleQueue()
        self.move, self.tidy = inner.move, inner.tidy
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while (question := self._questions.get()) is not None:
            question[1].put(self._inner.owner(question[0]))

    def owner(self, block: BlockId) -> Owner:
        """The block's owner."""
        self._questions.put((block, self._answers))
        return self._answers.get()

    def close(self) -> None:
        """End the thread."""
        self._questions.put(None)
        self._thread.join()


def all_blocks(count: int) -> list[BlockId]:
    """`count` blocks of as many tables as they need."""
    return [BlockId("s", "public", f"t{n // BUCKETS}", n % BUCKETS) for n in range(count)]


def filled(blocks: list[BlockId], entries_max: int = ENTRIES_MAX) -> Directory:
    """A directory in which every block has been moved once."""
    directory = Directory(entries_max=entries_max)
    directory.join(Members(NODES, 1))
    directory.catch_up()
    for n, block in enumerate(blocks):
        directory.apply(block, Affinity(NODES[n % len(NODES)], 2), 0)
    directory.settle(1 << 60)
    return directory


def zipf(blocks: list[BlockId], count: int, rng: random.Random, skew: float = 0.99) -> list[BlockId]:
    """Accesses by Zipf's law; which blocks are hot is left to chance."""
    order = list(range(len(blocks)))
    rng.shuffle(order)
    weights = list(accumulate(1 / n**skew for n in range(1, len(blocks) + 1)))
    return [blocks[order[n]] for n in rng.choices(range(len(blocks)), cum_weights=weights, k=count)]


@contextmanager
def moving(lookup: Lookup, blocks: list[BlockId], rng: random.Random) -> Iterator[None]:
    """While this lasts, a thread moves blocks as a follower of the topic does."""
    stopping = threading.Event()

    def write() -> None:
        epoch = 10
        while not stopping.wait(BATCH_S):
            for block in rng.sample(blocks, MOVES_PER_BATCH):
                epoch += 1
                lookup.move(block, Affinity(rng.choice(NODES), epoch))
            lookup.tidy()

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def latencies_ns(lookup: Lookup, trace: list[BlockId]) -> array[int]:
    """Time of each look-up; the process does other work in between, whose garbage is collected when it happens to."""
    owner, clock = lookup.owner, time.perf_counter_ns
    found = array("q", bytes(8 * len(trace)))
    kept: list[dict[str, object]] = []
    for n, block in enumerate(trace):
        if n % GARBAGE_EVERY == 0:
            other: dict[str, object] = {"row": n}
            other["self"] = other
            kept = [*kept[-200:], other]
        before = clock()
        owner(block)
        found[n] = clock() - before
    return found


def percentiles_us(found: array[int]) -> dict[str, float]:
    """The usual ones, in microseconds."""
    ordered = sorted(found)
    places = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "p99.99": 0.9999}
    shares = {name: ordered[int(share * (len(ordered) - 1))] / 1000 for name, share in places.items()}
    return {**shares, "max": ordered[-1] / 1000}


def many_readers(lookup: Lookup, trace: list[BlockId], threads: int) -> tuple[float, float]:
    """Seconds from first to last, and of all threads together, each looking up its part of the trace."""
    share = len(trace) // threads
    spent = [0.0] * threads

    together = threading.Barrier(threads + 1)

    def read(number: int) -> None:
        together.wait()
        start_s = time.perf_counter()
        for block in trace[number * share : (number + 1) * share]:
            lookup.owner(block)
        spent[number] = time.perf_counter() - start_s

    readers = [threading.Thread(target=read, args=(number,)) for number in range(threads)]
    for reader in readers:
        reader.start()
    together.wait()
    start_s = time.perf_counter()
    for reader in readers:
        reader.join()
    return time.perf_counter() - start_s, sum(spent)


# -- hit rates ---------------------------------------------------------------------------------------


def entry_bytes(entries: int = 20_000) -> tuple[float, float]:
    """Memory of a ready entry, in ours with all that belongs to it, and in an LRU list."""
    blocks = all_blocks(3 * entries)
    directory = filled(blocks, entries)
    tracemalloc.start()
    try:
        for n, block in enumerate(blocks):
            directory.owner(block)
            if n % SETTLE_EVERY == 0:
                directory.settle(0)
        ours = tracemalloc.get_traced_memory()[0] / entries
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        lru = OneLock(directory, entries)
        for block in blocks:
            lru.owner(block)
        return ours, (tracemalloc.get_traced_memory()[0] - before) / entries
    finally:
        tracemalloc.stop()


def packed_bytes(blocks: list[BlockId]) -> float:
    """Memory of a packed entry."""
    tracemalloc.start()
    try:
        directory = Directory(entries_max=2)
        for n, block in enumerate(blocks):
            directory.apply(block, Affinity(NODES[n % len(NODES)], 2), 0)
        return tracemalloc.get_traced_memory()[0] / len(blocks)
    finally:
        tracemalloc.stop()


def hit_rates(
    make: Callable[[random.Random], list[BlockId]], entries_max: int, lru_max: int, rng: random.Random
) -> tuple[float, float, float]:
    """Share of look-ups answered by ready entries: ours, an LRU list, and the best that as many entries can do.

    The first half of the trace warms up.
    """
    trace = make(rng)
    directory = Directory(entries_max=entries_max)
    directory.join(Members(NODES, 1))
    directory.catch_up()
    lru: OrderedDict[BlockId, None] = OrderedDict()
    hits, half = 0, len(trace) // 2
    for n, block in enumerate(trace):
        if n == half:
            directory.lookups.ready = directory.lookups.cold = hits = 0
        directory.owner(block)
        if n % SETTLE_EVERY == 0:
            directory.settle(0)
        hits += block in lru
        lru[block] = None
        lru.move_to_end(block)
        if len(lru) > lru_max:
            lru.popitem(last=False)
    looked = directory.lookups
    assert looked.ready + looked.cold == len(trace) - half
    return looked.ready / (len(trace) - half), hits / (len(trace) - half), best_rate(trace, entries_max)


def best_rate(trace: list[BlockId], entries_max: int) -> float:
    """The hit rate of who knows the future: what is used last of all leaves, or does not enter (Belady 1966)."""
    never, seen = len(trace), dict[BlockId, int]()
    following = [never] * len(trace)
    for n in range(len(trace) - 1, -1, -1):
        following[n] = seen.get(trace[n], never)
        seen[trace[n]] = n
    kept: dict[BlockId, int] = {}
    last: list[tuple[int, BlockId]] = []  # by next use, the farthest first; some are out of date
    hits, half = 0, len(trace) // 2
    for n, block in enumerate(trace):
        hits += n >= half and block in kept
        kept[block] = following[n]
        heapq.heappush(last, (-following[n], block))
        while len(kept) > entries_max:
            use, farthest = heapq.heappop(last)
            if kept.get(farthest) == -use:
                del kept[farthest]
    return hits / (len(trace) - half)


def scan_mix(blocks: list[BlockId], rng: random.Random, count: int) -> list[BlockId]:
    """Zipf's law, and a fifth of the accesses reads tables from one end to the other."""
    hot, at, found = zipf(blocks, count, rng), rng.randrange(len(blocks)), []
    for n in range(0, len(hot), 8000):
        found += hot[n : n + 6400]
        found += [blocks[(at + k) % len(blocks)] for k in range(1600)]
        at += 1600
    return found


def shifting(blocks: list[BlockId], rng: random.Random, count: int) -> list[BlockId]:
    """Zipf's law, but every tenth of the trace other blocks are hot."""
    return [block for _ in range(10) for block in zipf(blocks, count // 10, rng)]
