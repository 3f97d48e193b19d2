"""Single tables that are copied anew while their stream goes on.

The copy is one large transaction of kind "snapshot" among the live ones: first the tables are emptied, then their
rows come, part by part. What the stream has of these tables before it is superseded, and must not be applied: the
target's rows may be what is wrong, and would refuse it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from pipeline.catalogue import TableName
from schemas.change_batch import ChangeBatch


class SupersededTables:
    """The tables that are to be copied anew, as a planner knows them: until it has planned the copy's last part."""

    def __init__(self, tables: Iterable[TableName] = ()) -> None:
        self._tables = set(tables)
        self._in_copy: set[TableName] = set()  # of the copy whose parts have begun

    def strip(self, batch: ChangeBatch) -> ChangeBatch:
        """The batch without changes that a copy will supersede: the same object when there are none.

        Transactions keep their positions even if nothing is left of them. Batches have to come in order.
        """
        if batch.table_copy:
            self._follow(batch)
            return batch
        self._in_copy.clear()  # a copy that has not come to its end was given up: another one will come
        left = [section for section in batch.sections if section.relation.name not in self._tables]
        return batch if len(left) == len(batch.sections) else replace(batch, sections=left)

    def _follow(self, batch: ChangeBatch) -> None:
        if batch.part == 0:
            self._in_copy = {section.relation.name for section in batch.sections}
        if batch.last_part:
            self._tables -= self._in_copy
            self._in_copy.clear()
