"""The hot and the warm tier: ready entries in bounded memory, over the packed cold one.

What is asked for first comes into *warm*, a short queue; what is asked for again there goes to *hot*, the rest back
to cold, so a scan passes through without pushing out what is used. Hot evicts as SIEVE does (Zhang et al., NSDI 2024):
a hand walks from the oldest to the newest, spares what was visited since, and nothing is moved on a hit. A block
that is asked for soon after it left goes straight to hot (Yang et al., SOSP 2023, the ghost queue of S3-FIFO).
A reader touches a dictionary and a flag, never a lock; `settle` is called by the one writer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from pipeline.directory.block import BlockId, Owner
from pipeline.directory.members import Affinity

WARM_SHARE = 0.1
WANTED_MAX = 8192  # misses between two settlings that are remembered


class Entry:
    """A block's ready entry. All but `visited` and the links belongs to the writer, and is set once."""

    __slots__ = ("affinity", "block", "newer", "older", "owner", "visited")

    def __init__(self, block: BlockId, affinity: Affinity, owner: Owner) -> None:
        self.block = block
        self.affinity = affinity
        self.owner = owner
        self.visited = False
        self.newer: Entry | None = None
        self.older: Entry | None = None


class Tiers:
    """Up to `entries_max` entries, a tenth of them warm. `make` builds an entry from the cold tier."""

    def __init__(self, entries_max: int, make: Callable[[BlockId], Entry]) -> None:
        self.entries_max = max(2, entries_max)
        self.warm_max = max(1, round(self.entries_max * WARM_SHARE))
        self.promoted = self.demoted = 0
        self.hot: dict[BlockId, Entry] = {}
        self.warm: dict[BlockId, Entry] = {}
        self._ghosts: dict[int, None] = {}
        self._wanted: deque[BlockId] = deque(maxlen=WANTED_MAX)
        self._make = make
        self._newest: Entry | None = None
        self._oldest: Entry | None = None
        self._hand: Entry | None = None

    def get(self, block: BlockId) -> Entry | None:
        """The ready entry, if there is one. Any thread."""
        entry = self.hot.get(block) or self.warm.get(block)
        if entry is not None:
            entry.visited = True
        return entry

    def want(self, block: BlockId) -> None:
        """Ask for the block to be taken in at the next settling. Any thread."""
        self._wanted.append(block)

    def settle(self) -> int:
        """Take in what was missed since the last call; returns how many. The writer only."""
        count = 0
        while self._wanted:
            block = self._wanted.popleft()
            if block in self.hot or block in self.warm:
                self._touch(block)
                continue
            count += 1
            if self._ghosts.pop(hash(block), 0) is None:
                self._insert(self._make(block))
            else:
                self.warm[block] = self._make(block)
            self._make_room()
        return count

    def refresh(self, block: BlockId) -> None:
        """Build the entry anew, if it is here: its affinity has changed."""
        for tier in (self.hot, self.warm):
            if block in tier:
                self._replace(tier, tier[block])

    def refresh_all(self) -> None:
        """Build every entry anew: the members have changed."""
        for tier in (self.hot, self.warm):
            for entry in list(tier.values()):
                self._replace(tier, entry)

    def entries(self) -> Iterator[Entry]:
        """All ready entries."""
        yield from self.hot.values()
        yield from self.warm.values()

    def _touch(self, block: BlockId) -> None:
        (self.hot.get(block) or self.warm[block]).visited = True

    def _replace(self, tier: dict[BlockId, Entry], old: Entry) -> None:
        new = self._make(old.block)
        new.visited = old.visited
        if tier is self.hot:
            new.newer, new.older = old.newer, old.older
            if old.newer is not None:
                old.newer.older = new
            if old.older is not None:
                old.older.newer = new
            self._newest = new if self._newest is old else self._newest
            self._oldest = new if self._oldest is old else self._oldest
            self._hand = new if self._hand is old else self._hand
        tier[old.block] = new

    def _make_room(self) -> None:
        """Warm has its tenth of what is full, and all that hot leaves free."""
        while len(self.hot) + len(self.warm) > self.entries_max:
            if len(self.warm) > self.warm_max:
                self._leave_warm()
            else:
                self._evict()

    def _leave_warm(self) -> None:
        block = next(iter(self.warm))
        entry = self.warm[block]
        if entry.visited:
            self._insert(entry)  # into hot before out of warm: a reader finds it in one of them
            self.promoted += 1
        else:
            self._forget(block)
        del self.warm[block]

    def _insert(self, entry: Entry) -> None:
        entry.visited = False
        entry.older, entry.newer = self._newest, None
        if self._newest is not None:
            self._newest.newer = entry
        self._newest = entry
        self._oldest = self._oldest or entry
        self.hot[entry.block] = entry

    def _evict(self) -> None:
        entry = self._hand or self._oldest
        while entry is not None and entry.visited:
            entry.visited = False
            entry = entry.newer or self._oldest
        if entry is None:
            return
        self._hand = entry.newer
        self._unlink(entry)
        del self.hot[entry.block]
        self._forget(entry.block)

    def _unlink(self, entry: Entry) -> None:
        if entry.newer is not None:
            entry.newer.older = entry.older
        else:
            self._newest = entry.older
        if entry.older is not None:
            entry.older.newer = entry.newer
        else:
            self._oldest = entry.newer
        entry.newer = entry.older = None  # no cycles for the garbage collector

    def _forget(self, block: BlockId) -> None:
        self.demoted += 1
        self._ghosts[hash(block)] = None
        if len(self._ghosts) > self.entries_max:
            del self._ghosts[next(iter(self._ghosts))]
