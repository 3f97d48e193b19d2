"""Blocks that are on their way to a node, and what changes meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.cache.changes import RowChange
from pipeline.directory.block import BlockId
from schemas.change_batch import Relation

FETCH_BYTES_MAX = 16 * 1024 * 1024  # changes kept for a block that is on its way


@dataclass(slots=True)
class Fetch:
    """A block on its way: the changes since it was asked for."""

    wanted: int  # the least version that will do
    tail: list[tuple[Relation, RowChange]] = field(default_factory=list)
    size_bytes: int = 0
    lost: bool = False

    def keep(self, relation: Relation, change: RowChange) -> None:
        """Note a change of the block."""
        if not self.lost:
            self.tail.append((relation, change))
            self.size_bytes += len(change.row) + len(change.key)
            self.lost = self.size_bytes > FETCH_BYTES_MAX


class Fetches(dict[BlockId, Fetch]):
    """What a node has asked others for."""

    def lose_table(self, table: tuple[str, str]) -> None:
        """Blocks of the table can't be joined with what has happened meanwhile."""
        for block_id, fetch in self.items():
            fetch.lost = fetch.lost or (block_id.schema, block_id.table) == table

    def lose_all(self) -> None:
        """No block can."""
        for fetch in self.values():
            fetch.lost = True
