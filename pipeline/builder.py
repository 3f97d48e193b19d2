"""Building a ChangeBatch from a stream of changes.

A source's decoder appends to the lists of a SectionBuilder directly: this is the hottest loop of the
capture process, and one method call a change would cost as much as the decoding itself.
"""

from __future__ import annotations

from array import array

from schemas.change_batch import ChangeBatch, LogicalMessage, Relation, Section
from schemas.packed import INT32, INT64, offsets


class SectionBuilder:
    """The growing section of one table. All row lists have the same length after each change."""

    __slots__ = ("keys", "masks", "old_keys", "ops", "order", "relation", "rows", "tx")

    def __init__(self, relation: Relation) -> None:
        self.relation = relation
        self.clear()

    def clear(self) -> None:
        """Forget all rows."""
        self.ops: list[int] = []
        self.tx: list[int] = []
        self.order: list[int] = []
        self.keys: list[bytes] = []
        self.rows: list[bytes] = []
        self.old_keys: dict[int, bytes] = {}
        self.masks: dict[int, bytes] = {}

    def build(self) -> Section:
        """Return the packed section."""
        old = list(self.old_keys.values())
        return Section(
            relation=self.relation,
            ops=bytes(self.ops),
            tx=array(INT32, self.tx),
            order=array(INT32, self.order),
            keys=b"".join(self.keys),
            key_offsets=offsets(self.keys),
            rows=b"".join(self.rows),
            row_offsets=offsets(self.rows),
            old_index=array(INT32, self.old_keys),
            old_keys=b"".join(old),
            old_offsets=offsets(old),
            mask_index=array(INT32, self.masks),
            masks=b"".join(self.masks.values()),
        )


class BatchBuilder:
    """Collects transactions until a batch is closed.

    `previous_position` follows the last closed batch. `rank` counts changes over all tables; a decoder
    reads and raises it. `bytes` is the decoder's running count of row bytes.
    """

    def __init__(self, stream: str, generation: int, previous_position: int) -> None:
        self.stream = stream
        self.generation = generation
        self.previous_position = previous_position
        self.sections: dict[Relation, SectionBuilder] = {}
        self.part = 0
        self._run = 0
        self._clear()

    def _clear(self) -> None:
        self.positions: list[int] = []
        self.commit_times_us: list[int] = []
        self.source_ids: list[int] = []
        self.messages: list[LogicalMessage] = []
        self.rank = 0
        self.bytes = 0

    def section(self, relation: Relation) -> SectionBuilder:
        """Return the builder of `relation`'s section, empty if the batch has none yet."""
        found = self.sections.get(relation)
        if found is None:
            found = self.sections[relation] = SectionBuilder(relation)
        return found

    def begin(self, position: int, commit_time_us: int, source_id: int) -> int:
        """Open a transaction; return its index in the batch."""
        self.positions.append(position)
        self.commit_times_us.append(commit_time_us)
        self.source_ids.append(source_id)
        return len(self.positions) - 1

    def close(self, kind: str, end_position: int, captured_us: int, *, last_part: bool = True) -> ChangeBatch:
        """Return what was collected and start anew.

        With `last_part=False` the one open transaction goes on in the next batch, which the caller opens
        again with the same position. `captured_us` of its first part then names the run of parts.
        """
        if self.part == 0:
            self._run = 0 if last_part else captured_us
        batch = ChangeBatch(
            stream=self.stream,
            generation=self.generation,
            kind=kind,
            previous_position=self.previous_position,
            positions=array(INT64, self.positions),
            commit_times_us=array(INT64, self.commit_times_us),
            source_ids=array(INT64, self.source_ids),
            sections=[section.build() for section in self.sections.values() if section.ops],
            end_position=end_position,
            captured_us=captured_us,
            part=self.part,
            last_part=last_part,
            messages=self.messages,
            run=self._run,
        )
        for section in self.sections.values():
            section.clear()
        if last_part:
            self.previous_position, self.part = batch.last_position, 0
        else:
            self.part += 1
        self._clear()
        return batch
