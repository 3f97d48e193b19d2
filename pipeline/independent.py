"""Independent sets: the connected components of a window's transactions over shared keys.

Union-find with path halving; O(keys). The property tests compare it with networkx.
"""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.conflicts import KeyRules
from pipeline.keyspaces import Keyspace
from pipeline.touched_keys import keys_of
from schemas.change_batch import ChangeBatch


class WindowKeys:
    """The keys of a window: for each keyspace, key -> transactions that write or (shared) reference it.

    `writers` keeps one transaction a key, any of its component, since all writers of a key are joined.
    """

    __slots__ = ("parents", "readers", "writers")

    def __init__(self, transactions: int) -> None:
        self.parents = list(range(transactions))
        self.writers: dict[Keyspace, dict[bytes, int]] = {}
        self.readers: dict[Keyspace, dict[bytes, list[int]]] = {}

    def find(self, tx: int) -> int:
        """Return the representative of the component of `tx`."""
        parents = self.parents
        while parents[tx] != tx:
            parents[tx] = tx = parents[parents[tx]]
        return tx

    def union(self, one: int, other: int) -> None:
        """Join two components; the earlier transaction represents them."""
        one, other = self.find(one), self.find(other)
        if one < other:
            self.parents[other] = one
        else:
            self.parents[one] = other

    def write(self, space: Keyspace, keys: Iterable[tuple[int, bytes]]) -> None:
        """Take keys exclusively."""
        owner = self.writers.setdefault(space, {})
        get, union = owner.get, self.union
        for tx, key in keys:
            before = get(key)
            if before is None:
                owner[key] = tx
            elif before != tx:
                union(before, tx)

    def read(self, space: Keyspace, keys: Iterable[tuple[int, bytes]]) -> None:
        """Take keys shared. To be called after all writes of the window were taken."""
        owner = self.writers.get(space, {})
        readers = self.readers.setdefault(space, {})
        for tx, key in keys:
            writer = owner.get(key)
            if writer is not None:
                self.union(writer, tx)
            readers.setdefault(key, []).append(tx)

    def components(self) -> dict[int, list[int]]:
        """Return representative -> its transactions, both increasing."""
        groups: dict[int, list[int]] = {}
        find = self.find
        for tx in range(len(self.parents)):
            groups.setdefault(find(tx), []).append(tx)
        return groups


def window_keys(batch: ChangeBatch, rules: KeyRules) -> WindowKeys:
    """Return the keys of `batch` with its transactions joined into independent sets."""
    keys = WindowKeys(len(batch.positions))
    uses = [(section, use) for section in batch.sections for use in rules.uses(section.relation)]
    for section, use in uses:
        if use.exclusive:
            keys.write(use.space, keys_of(section, use))
    for section, use in uses:
        if not use.exclusive:
            keys.read(use.space, keys_of(section, use))
    return keys
