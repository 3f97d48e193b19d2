"""The hot and the warm tier: ready entries in bounded memory, over the packed cold one.

What is asked for first comes into *warm*, a short queue; what is asked for again there goes to *hot*, the rest back
to cold, so a scan passes through without pushing out what is used. Hot is a clock: whatever was visited since the hand
came by goes round once more, so a hit moves nothing. A block that is asked for soon after it left goes straight to hot,
and shows which tier was too small: that one grows, so a shift of what is hot is followed (CAR: Bansal and Modha, FAST
2004; the short queue first as in S3-FIFO: Yang et al., SOSP 2023).
A reader touches a dictionary and a flag, never a lock; `settle` is called by the one writer.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterator

from pipeline.directory.block import BlockId, Owner
from pipeline.directory.members import Affinity

WARM_SHARE = 0.1  # at the start
WARM_SHARES = (0.02, 0.9)
GHOST_SHARE = 0.5  # of the entries: how many that left are remembered
WANTED_MAX = 8192  # misses between two settlings that are remembered
_NONE, _HOT, _WARM = range(3)
_BITS = 0xFFFF_FFFF


class Entry:
    """A block's ready entry. `visited` is set by readers; all else is set once."""

    __slots__ = ("affinity", "block", "owner", "visited")

    def __init__(self, block: BlockId, affinity: Affinity, owner: Owner) -> None:
        self.block = block
        self.affinity = affinity
        self.owner = owner
        self.visited = False


class Ghosts:
    """Which blocks left lately, and from which tier: 17 bytes each, where a dictionary takes 150.

    A slot by hash holds the number of the leave and 32 bits of the hash; a newer one overwrites it, and one that is
    `count_max` leaves old no longer counts (as in S3-FIFO). Two blocks in four billion are taken for each other.
    """

    def __init__(self, count_max: int) -> None:
        self._slots = array("Q", bytes(8 * 2 * count_max))
        self._tiers = bytearray(count_max)  # of the last leaves, by number: none (taken back), hot, warm
        self._number = 0
        self._counts = [0, 0, 0]

    @property
    def hot(self) -> int:
        """How many left from hot."""
        return self._counts[_HOT]

    @property
    def warm(self) -> int:
        """How many left from warm."""
        return self._counts[_WARM]

    def add(self, block: BlockId, *, from_warm: bool) -> None:
        """A block left."""
        self.take(block)
        self._number += 1
        self._set_tier(self._number, _WARM if from_warm else _HOT)
        code = hash(block)
        self._slots[code % len(self._slots)] = (self._number & _BITS) << 32 | code & _BITS

    def take(self, block: BlockId) -> bool | None:
        """Forget that a block left; whether it was from warm, None when that is not remembered."""
        code = hash(block)
        word = self._slots[code % len(self._slots)]
        age = self._number - (word >> 32) & _BITS
        if not word or word & _BITS != code & _BITS or age >= len(self._tiers):
            return None
        self._slots[code % len(self._slots)] = 0
        tier = self._tiers[(self._number - age) % len(self._tiers)]
        self._set_tier(self._number - age, _NONE)
        return tier == _WARM

    def _set_tier(self, number: int, tier: int) -> None:
        place = number % len(self._tiers)
        self._counts[self._tiers[place]] -= 1
        self._counts[tier] += 1
        self._tiers[place] = tier


class Tiers:
    """Up to `entries_max` entries, at first a tenth of them warm. `make` builds an entry from the cold tier."""

    def __init__(self, entries_max: int, make: Callable[[BlockId], Entry]) -> None:
        self.entries_max = max(2, entries_max)
        self.warm_max = max(1, round(self.entries_max * WARM_SHARE))
        self.promoted = self.demoted = 0
        self.hot: dict[BlockId, Entry] = {}
        self.warm: dict[BlockId, Entry] = {}
        self._hot_order: deque[BlockId] = deque()  # the hand is at its left end
        self._warm_order: deque[BlockId] = deque()
        self._ghosts = Ghosts(max(1, round(self.entries_max * GHOST_SHARE)))
        self._wanted: deque[BlockId] = deque(maxlen=WANTED_MAX)
        self._make = make

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
        for _ in range(len(self._wanted)):
            block = self._wanted.popleft()
            if self.get(block) is None:
                count += 1
                self._take_in(block)
                self._make_room()
        return count

    def refresh(self, block: BlockId) -> None:
        """Build the entry anew, if it is here: its affinity has changed."""
        for tier in (self.hot, self.warm):
            old = tier.get(block)
            if old is not None:
                new = self._make(block)
                new.visited = old.visited
                tier[block] = new

    def refresh_all(self) -> None:
        """Build every entry anew: the members have changed."""
        for block in (*self.hot, *self.warm):
            self.refresh(block)

    def entries(self) -> Iterator[Entry]:
        """All ready entries."""
        yield from self.hot.values()
        yield from self.warm.values()

    def _take_in(self, block: BlockId) -> None:
        from_warm = self._ghosts.take(block)
        if from_warm is None:
            self.warm[block] = self._make(block)
            self._warm_order.append(block)
        else:
            self._adapt(from_warm=from_warm)
            self._insert(block, self._make(block))

    def _adapt(self, *, from_warm: bool) -> None:
        """A block came back: the tier that it left was too small, the more so the fewer come back to the other."""
        own, other = (self._ghosts.warm, self._ghosts.hot) if from_warm else (self._ghosts.hot, self._ghosts.warm)
        step = max(1, other // max(1, own))
        low, high = (max(1, round(share * self.entries_max)) for share in WARM_SHARES)
        self.warm_max = min(high, max(low, self.warm_max + (step if from_warm else -step)))

    def _make_room(self) -> None:
        """Warm has its part of what is full, and all that hot leaves free."""
        while len(self.hot) + len(self.warm) > self.entries_max:
            if len(self.warm) > self.warm_max or not self.hot:
                self._leave_warm()
            else:
                self._turn_hand()

    def _leave_warm(self) -> None:
        block = self._warm_order.popleft()
        entry = self.warm[block]
        if entry.visited:
            self._insert(block, entry)  # into hot before out of warm: a reader finds it in one of them
            self.promoted += 1
        else:
            self.demoted += 1
            self._ghosts.add(block, from_warm=True)
        del self.warm[block]

    def _insert(self, block: BlockId, entry: Entry) -> None:
        entry.visited = False
        self.hot[block] = entry
        self._hot_order.append(block)

    def _turn_hand(self) -> None:
        block = self._hot_order.popleft()
        entry = self.hot[block]
        if entry.visited:
            entry.visited = False
            self._hot_order.append(block)
        else:
            self.demoted += 1
            self._ghosts.add(block, from_warm=False)
            del self.hot[block]
