"""Which columns the rows of a cached table have now, and which tables can't be cached."""

from __future__ import annotations

from pipeline.cache.blocks import cacheable, same_columns
from pipeline.cache.held import HeldBlocks, TableKey
from schemas.change_batch import Relation


class TableColumns:
    """The columns of one stream's tables; blocks of others go when a table gets new ones.

    `relations` are the present ones, `refused` the tables that can't be cached, and why.
    """

    def __init__(self, held: HeldBlocks) -> None:
        self.relations: dict[TableKey, Relation] = {}
        self.refused: dict[TableKey, str] = {}
        self._held = held
        self._target: dict[TableKey, Relation] = {}  # the target's columns of its tables, as far as they were learnt
        self._learned: set[TableKey] = set()  # whose relation is the target's, for want of the source's
        self._mixed: set[TableKey] = set()  # which have blocks of other columns than their relation's

    def of_source(self, table: TableKey) -> Relation | None:
        """The columns that the source or another node has told; None while they are not known."""
        return None if table in self._learned else self.relations.get(table)

    def learn(self, relation: Relation) -> None:
        """See `StreamCache.learn`."""
        self._target[relation.name] = relation
        if not cacheable(relation) and relation.name not in self.relations:
            self.relations[relation.name] = relation
            self._learned.add(relation.name)

    def target_key(self, table: TableKey) -> tuple[str, ...]:
        """The key columns of the target's table; none where they are not known."""
        relation = self._target.get(table)
        return () if relation is None else relation.key_columns

    def use(self, relation: Relation, position: int) -> Relation:
        """Take a batch's columns of a table for the present ones; returns them.

        Rows of other columns say nothing any more: their blocks go. One of a version past the batch may have columns
        that a later batch brings, and stays until its time has come.
        """
        name = relation.name
        self.refused.pop(name, None)
        known = self.relations.get(name)
        if known is not None and same_columns(known, relation):
            if name not in self._mixed:
                return known
            relation = known
        self.relations[name] = relation
        self._learned.discard(name)
        self._mixed.discard(name)
        for block_id, block in self._held.of_table(name):
            if same_columns(block.relation, relation):
                continue
            if block.version < position:
                self._held.drop(block_id)
            else:
                self._mixed.add(name)
        return relation

    def named(self, relation: Relation, position: int) -> None:
        """A table has this name in a batch: under another one that it had it leaves nothing behind."""
        same = [old for old in self.relations.values() if old.oid == relation.oid and old.name != relation.name]
        for old in same if relation.oid else ():
            del self.relations[old.name]
            self._held.drop_table(old.name, position)

    def refuse(self, relation: Relation, position: int, reason: str) -> None:
        """The table can't be cached, or no more: nothing folds its changes from here on."""
        self.refused[relation.name] = reason
        if self.relations.pop(relation.name, None) is not None:
            self._held.drop_table(relation.name, position)

    def clear(self) -> None:
        """Forget what the source has told, at the start of a new snapshot."""
        self.relations.clear()
        self.refused.clear()
        self._learned.clear()
        self._mixed.clear()
        for relation in self._target.values():
            self.learn(relation)
