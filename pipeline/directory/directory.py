"""The resource directory of a process: block -> master, holders, mode, epoch.

One thread writes (it follows the topic), any thread reads. Reads take no lock and wait for nothing: entries are
replaced, never changed. A move freezes its block alone, and for no longer than `FREEZE_US_MAX`.

Each partition of the topic has members and epochs of its own. One that has not been read to its end yet has no
owners at all: compaction may have taken away what its first records need to be understood.

**Guarantee:** what `owner` returns was true at some moment, and its epoch says which; a newer epoch wins everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.directory.block import BlockId, Owner, partition_of
from pipeline.directory.members import Affinity, Members
from pipeline.directory.pages import ColdTier
from pipeline.directory.recent_moves import RecentMoves
from pipeline.directory.tiers import Entry, Tiers

ENTRIES_MAX = 65_536  # ready entries; 25 MiB
FREEZE_US_MAX = 50_000
FROZEN_MAX = 4096  # blocks at once; beyond, the oldest thaws


@dataclass(slots=True)
class Lookups:
    """Look-ups by the tier that answered. Counted by readers without a lock: a few may be missed."""

    ready: int = 0
    cold: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """A change of owner that a record made."""

    block: BlockId
    before: Owner
    after: Owner


class Directory:
    """See the module. Implements `Placement`."""

    def __init__(self, partitions: int = 1, entries_max: int = ENTRIES_MAX) -> None:
        self.partitions = partitions
        self.lookups = Lookups()
        self.moves = RecentMoves()  # the writer adds to it last
        self._cold = ColdTier()
        self._tiers = Tiers(entries_max, self._make)
        self._frozen: dict[BlockId, int] = {}
        self._members = [Members()] * partitions
        self._reading: dict[int, Members] = dict.fromkeys(range(partitions), Members())

    # ---- any thread ------------------------------------------------------------------------------

    def owner(self, block: BlockId) -> Owner:
        """The block's owner."""
        entry = self._tiers.get(block)
        if entry is not None:
            self.lookups.ready += 1
            return entry.owner
        self.lookups.cold += 1
        self._tiers.want(block)
        return self.members(block).owner(block, self._cold.get(block))

    def entry(self, block: BlockId) -> Entry:
        """All that is known of the block."""
        entry = self._tiers.get(block)
        if entry is not None:
            self.lookups.ready += 1
            return entry
        self.lookups.cold += 1
        self._tiers.want(block)
        return self._make(block)

    def frozen(self, block: BlockId, now_us: int) -> bool:
        """Whether the block is changing hands: its new master does not answer for it yet."""
        return bool(self._frozen) and self._frozen.get(block, 0) > now_us

    def members(self, block: BlockId) -> Members:
        """Who takes part in the block's partition."""
        return self._members[partition_of(block, self.partitions) if self.partitions > 1 else 0]

    def partition_members(self, partition: int) -> Members:
        """Who takes part in a partition."""
        return self._members[partition]

    @property
    def ready(self) -> bool:
        """Whether every partition has been read."""
        return not self._reading

    def nodes(self) -> frozenset[str]:
        """The members of all partitions."""
        return frozenset[str]().union(*(members.nodes for members in self._members))

    def members_now(self) -> tuple[frozenset[str], int]:
        """The members of all partitions, and their newest epoch."""
        return self.nodes(), max(members.epoch for members in self._members)

    def __len__(self) -> int:
        """Blocks that have a record."""
        return self._cold.blocks

    # ---- the writer ------------------------------------------------------------------------------

    def apply(self, block: BlockId, affinity: Affinity, now_us: int) -> Change | None:
        """Take a record; what changed, None for one that is not newer. A new master is frozen until `thaw`.

        Raises ValueError for an epoch out of range.
        """
        known = self._cold.get(block)
        if affinity.epoch <= known.epoch:
            return None
        members = self.members(block)
        before = members.owner(block, known)
        self._cold.put(block, affinity)
        self._tiers.refresh(block)
        after = members.owner(block, affinity)
        if after.node != before.node:
            if before.node:
                self._freeze(block, now_us)
            self.moves.add(block)
        return Change(block, before, after)

    def join(self, members: Members, partition: int = 0) -> bool:
        """Take a partition's set of members; False for one that is not newer."""
        if members.epoch <= self._reading.get(partition, self._members[partition]).epoch:
            return False
        if partition in self._reading:
            self._reading[partition] = members
        else:
            self._set_members(partition, members)
        return True

    def catch_up(self, partition: int = 0) -> None:
        """The partition has been read to the end that it had when reading began: from now on it has owners."""
        if partition in self._reading:
            self._set_members(partition, self._reading.pop(partition))

    def suspend(self, partition: int) -> None:
        """The partition has no owners until it is read to its end again; see `pipeline.directory.following`."""
        if partition not in self._reading:
            members = self._members[partition]
            self._set_members(partition, Members((), members.epoch))  # older masters are refused all the same
            self._reading[partition] = members

    def _set_members(self, partition: int, members: Members) -> None:
        self._members[partition] = members
        self._tiers.refresh_all()
        self.moves.add(None)

    def thaw(self, block: BlockId) -> None:
        """The new master has the block."""
        self._frozen.pop(block, None)

    def settle(self, now_us: int) -> int:
        """Promote and demote after what was read, thaw what was frozen for too long; returns promotions."""
        for block in [block for block, until_us in self._frozen.items() if until_us <= now_us]:
            del self._frozen[block]
        return self._tiers.settle()

    def affinity(self, block: BlockId) -> Affinity:
        """What the block's newest record says, whoever takes part."""
        return self._cold.get(block)

    def moved(self) -> Iterator[tuple[BlockId, Affinity]]:
        """Every block with a record."""
        return self._cold.items()

    @property
    def tiers(self) -> Tiers:
        """The ready entries, for those who count them."""
        return self._tiers

    def _freeze(self, block: BlockId, now_us: int) -> None:
        if len(self._frozen) >= FROZEN_MAX:
            del self._frozen[next(iter(self._frozen))]
        self._frozen[block] = now_us + FREEZE_US_MAX

    def _make(self, block: BlockId) -> Entry:
        affinity = self._cold.get(block)
        return Entry(block, affinity, self.members(block).owner(block, affinity))
