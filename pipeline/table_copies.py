"""Single tables that are copied anew while their stream goes on.

The copy is one large transaction of kind "snapshot" among the live ones: first the tables are emptied, then their
rows come, part by part. What the stream has of these tables before it is superseded, and must not be applied: the
target's rows may be what is wrong, and would refuse it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pipeline.catalogue import TableName
from schemas.change_batch import ChangeBatch, Section


@dataclass(frozen=True, slots=True)
class TableCopy:
    """A copy that was asked for, of a table as the target calls it, and how far it has come.

    `position` is the copy's place in the stream once the target has it; the watermark has not passed it yet.
    """

    table: TableName
    sent: bool  # Kafka has all parts of it
    position: int | None

    @property
    def state(self) -> str:
        """One word or two for an operator."""
        if self.position is not None:
            return "applied"
        return "in Kafka" if self.sent else "requested"


class SupersededTables:
    """The tables that are to be copied anew, as a planner knows them: until it has planned the copy's last part.

    A copy may be applied already, at the position given with its table: what comes again from before it, because the
    watermark had not passed it, is left out as well.
    """

    def __init__(self, tables: Mapping[TableName, int | None] | None = None) -> None:
        self._tables = dict(tables or {})
        self._in_copy: set[TableName] = set()  # of the copy whose parts have begun

    def strip(self, batch: ChangeBatch) -> ChangeBatch:
        """The batch without changes that a copy will supersede: the same object when there are none.

        Transactions keep their positions even if nothing is left of them. Batches have to come in order.
        """
        if batch.table_copy:
            self._follow(batch)
            return batch
        self._in_copy.clear()  # a copy that has not come to its end was given up: another one will come
        left = [section for section in batch.sections if not self._supersedes(section, batch.last_position)]
        return batch if len(left) == len(batch.sections) else replace(batch, sections=left)

    def _supersedes(self, section: Section, position: int) -> bool:
        if section.relation.name not in self._tables:
            return False
        copied = self._tables[section.relation.name]
        return copied is None or position < copied

    def _follow(self, batch: ChangeBatch) -> None:
        if batch.part == 0:
            self._in_copy = {section.relation.name for section in batch.sections}
        if batch.last_part:
            for name in self._in_copy:
                self._tables.pop(name, None)
            self._in_copy.clear()
