"""Which blocks of the journal nobody can use any more, since the target has no such table."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

from pipeline.cache.records import Stamp
from pipeline.catalogue import TableName
from pipeline.directory.block import BlockId


@dataclass(frozen=True, slots=True)
class TargetTables:
    """The tables that a stream's target had at a watermark or later."""

    generation: int
    watermark: int
    names: Set[TableName]


def orphans(journal: Mapping[bytes, Stamp], targets: Mapping[str, TargetTables]) -> list[bytes]:
    """The keys of blocks whose table is gone; of streams that are not in `targets` nothing is known.

    A block of a position that the target has not reached may be of a table that is still to be created.
    """
    return [key for key, stamp in journal.items() if _is_orphan(BlockId.parse(key.decode()), stamp, targets)]


def _is_orphan(block: BlockId, stamp: Stamp, targets: Mapping[str, TargetTables]) -> bool:
    target = targets.get(block.stream)
    if target is None or (block.schema, block.table) in target.names:
        return False
    return (stamp.generation, stamp.version) <= (target.generation, target.watermark)
