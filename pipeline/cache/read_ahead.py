"""What a cache has read of the log, and the target has not applied yet."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from pipeline.cache.blocks import same_columns
from pipeline.cache.view import TargetView
from schemas.change_batch import ChangeBatch, Relation


@dataclass(slots=True)
class Pending:
    """A batch of the log that is not applied as a whole yet; `first`: transactions before it are folded."""

    batch: ChangeBatch
    first: int
    size: int


class ReadAhead:
    """Batches in the order of the log. `bytes` is the size of their rows and keys."""

    def __init__(self) -> None:
        self.bytes = 0
        self._items: deque[Pending] = deque()

    def __bool__(self) -> bool:
        return bool(self._items)

    def add(self, batch: ChangeBatch, first: int) -> None:
        """Take the next batch."""
        if batch.part == 0:
            while self._items and not self._items[-1].batch.last_part:  # parts that a new capture begins anew
                self.bytes -= self._items.pop().size
        size = sum(len(section.rows) + len(section.keys) for section in batch.sections)
        self._items.append(Pending(batch, first, size))
        self.bytes += size

    def take_applied(self, view: TargetView) -> list[Pending]:
        """Take out the oldest batch, with all its parts, if the target has applied it; else nothing."""
        count = self._applied_prefix(view)
        taken = [self._items.popleft() for _ in range(count)]
        self.bytes -= sum(item.size for item in taken)
        return taken

    def _applied_prefix(self, view: TargetView) -> int:
        for number, item in enumerate(self._items):
            if not all(map(view.has, item.batch.positions)):
                return 0
            if item.batch.last_part:
                return number + 1
        return 0

    def clear(self) -> None:
        """Forget everything."""
        self._items.clear()
        self.bytes = 0

    def positions(self) -> set[int]:
        """The positions of all transactions."""
        return {position for item in self._items for position in item.batch.positions}

    def touches(self, relation: Relation, key: bytes) -> bool:
        """Whether a batch may change the key; a chance hit in other bytes does no harm.

        Rows of snapshots and of copies of a table have no keys to look for.
        """
        batches = [item.batch for item in self._items]
        sections = [(b, s) for b in batches for s in b.sections if s.relation.name == relation.name]
        if any(batch.kind == "snapshot" for batch, _ in sections):
            return True
        return any(
            key in s.keys or key in s.old_keys or s.truncates or not same_columns(s.relation, relation)
            for _, s in sections
        )
