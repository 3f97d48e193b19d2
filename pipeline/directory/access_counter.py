"""How often this process uses blocks, between two reports. Thread-safe."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from pipeline.directory.block import BlockId, bucket_of, partition_of
from schemas.change_batch import Section
from schemas.grd_accesses import BlockAccesses, GrdAccesses

SAMPLES_MAX = 256  # keys looked at of one table in one batch; the others are like them
BLOCKS_MAX = 20_000  # counted between two reports; the first ones, since hot blocks come early
REPORTED_MAX = 2000  # of a partition in one record: the most used; 100 KiB


class AccessCounter:
    """Counts by block. `node` and `buckets` are this process's in the directory."""

    def __init__(self, node: str, buckets: int) -> None:
        self._node = node
        self._buckets = buckets
        self._lock = threading.Lock()
        self._counts: dict[BlockId, list[int]] = {}
        self._gone: set[BlockId] = set()

    def wrote(self, stream: str, section: Section) -> None:
        """Count the changes of one table."""
        keys = section.key_list()
        step = 1 + len(keys) // SAMPLES_MAX
        schema, table = section.relation.name
        self._note((BlockId(stream, schema, table, bucket_of(key, self._buckets)) for key in keys[::step]), 1, step)

    def read(self, block: BlockId) -> None:
        """Count one read."""
        self._note((block,), 0, 1)
        self._gone.discard(block)

    def evicted(self, block: BlockId) -> None:
        """The cache has evicted a block."""
        with self._lock:
            if len(self._gone) < BLOCKS_MAX:
                self._gone.add(block)

    def _note(self, blocks: Iterable[BlockId], kind: int, weight: int) -> None:
        with self._lock:
            for block in blocks:
                counts = self._counts.get(block)
                if counts is None:
                    if len(self._counts) >= BLOCKS_MAX:
                        continue
                    counts = self._counts[block] = [0, 0]
                counts[kind] += weight

    def reports(self, partitions: int, now_us: int) -> dict[int, GrdAccesses]:
        """Partition -> report of what was counted since the last call, which is forgotten."""
        with self._lock:
            counted, self._counts = self._counts, {}
            gone, self._gone = self._gone, set()
        for block in gone:
            counted.setdefault(block, [0, 0])
        found: dict[int, list[BlockAccesses]] = {}
        for block, (reads, writes) in sorted(counted.items(), key=lambda each: -sum(each[1])):
            blocks = found.setdefault(partition_of(block, partitions), [])
            if len(blocks) < REPORTED_MAX:
                blocks.append(BlockAccesses(str(block), reads, writes, block in gone))
        return {partition: GrdAccesses(self._node, now_us, tuple(blocks)) for partition, blocks in found.items()}
