"""Following the topic: a record of one partition, in the order of the log, into a process's directory."""

from __future__ import annotations

from pipeline.directory.block import BlockId
from pipeline.directory.directory import Change, Directory
from pipeline.directory.members import Affinity, Members
from schemas.grd_affinity import MEMBERS, GrdAffinity

# The broker leaves younger records alone (min.compaction.lag.ms); half of it is left for clocks that differ.
COMPACTION_LAG_US = 3_600_000_000
LATE_US = COMPACTION_LAG_US // 2


def take(
    directory: Directory, partition: int, record: GrdAffinity, written_us: int, now_us: int, late_us: int = LATE_US
) -> Change | None:
    """Take a record that was written at `written_us`; the change of owner that it makes, if it is of a block.

    A reader so late that records before this one may have been compacted away has no owners until it is at the end
    again (`Directory.catch_up`): what it would conclude is what nobody else ever saw. Raises ValueError for a record
    that names no block.
    """
    if now_us - written_us > late_us:
        directory.suspend(partition)
    if record.block == MEMBERS:
        directory.join(Members(record.holders, record.epoch), partition)
        return None
    block = BlockId.parse(record.block)
    affinity = Affinity(record.master, record.epoch, record.read_mostly, record.holders)
    return directory.apply(block, affinity, now_us)
