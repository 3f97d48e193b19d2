"""What a batch that the target has applied does to the blocks that are held."""

from __future__ import annotations

from collections.abc import Callable, Set

from pipeline.cache.blocks import Block, cacheable, same_columns
from pipeline.cache.changes import RowChange, TableFold, by_table, keyed, section_changes
from pipeline.cache.columns import TableColumns
from pipeline.cache.held import HeldBlocks, TableKey
from pipeline.cache.read_ahead import Pending
from pipeline.directory.block import BlockId
from schemas.change_batch import TRUNCATE, Relation, Section


class Folding:
    """Folds batches of one stream into `held`, in the order of the log. `wanted` chooses the tables.

    `doubtful`: the target may pass over changes (a policy for rows that somebody else has changed there).
    """

    def __init__(
        self, held: HeldBlocks, columns: TableColumns, wanted: Callable[[TableKey], bool], *, doubtful: bool
    ) -> None:
        self._held = held
        self._doubtful = doubtful
        self._columns = columns
        self._wanted = wanted
        self._parked: Set[int] = frozenset()

    def fold(self, item: Pending, parked: Set[int]) -> None:
        """Fold the changes of a batch, but for those of transactions before `item.first`.

        What transactions at `parked` positions touch is unknown afterwards: they are dead letters.
        """
        self._parked = parked
        batch = item.batch
        positions = batch.positions.tolist()
        for name, sections in by_table(batch.sections).items():
            self._columns.named(sections[-1].relation, positions[-1])
            if not self._wanted(name):
                continue
            if batch.table_copy:
                self._held.drop_table(name, positions[-1])  # its rows supersede what is known
            elif batch.kind == "snapshot":
                for section in sections:
                    self._fold_section(keyed(section, self._columns.target_key(name)), positions, item.first)
            elif len(sections) == 1:
                self._fold_section(sections[0], positions, item.first)
            else:
                self._pass_over(sections, positions[-1])

    def _fold_section(self, section: Section, positions: list[int], first: int) -> None:
        if reason := cacheable(section.relation):
            self._columns.refuse(section.relation, positions[-1], reason)
            return
        relation = self._columns.use(section.relation, positions[-1])
        fold = TableFold(relation, lambda key: self._block(relation, key), doubtful=self._doubtful)
        truncated = section.truncates
        for change in section_changes(section, positions, first):
            if change.position in self._parked:
                self._lose(relation, change)
                continue
            if truncated and change.op == TRUNCATE:
                self._truncate(relation, change.position)
                continue
            fold.apply(change)
            self._keep_for_fetches(relation, change)
        self._held.settle()

    def _pass_over(self, sections: list[Section], position: int) -> None:
        """A table whose columns changed within the batch: its changes lie in several sections, out of order."""
        last = max(sections, key=lambda section: section.order[-1])
        self._held.drop_table(last.relation.name, position)
        if reason := cacheable(last.relation):
            self._columns.refuse(last.relation, position, reason)
        else:
            self._columns.use(last.relation, position)

    def _block(self, relation: Relation, key: bytes) -> Block | None:
        """The block that a change of `key` goes to; one that this node masters begins with its first change."""
        block_id = self._held.block_id(relation.name, key)
        block = self._held.get(block_id)
        if block is None:
            block = self._held.begin(block_id, relation)
        if block is None or not same_columns(block.relation, relation):
            return None
        self._held.changing(block_id, block)
        return block

    def _lose(self, relation: Relation, change: RowChange) -> None:
        """A dead letter's change: what it touches is not known until the letter is settled."""
        self._held.fetches.lose_table(relation.name)
        if change.op == TRUNCATE:
            for block_id, _ in self._held.of_table(relation.name):
                self._held.drop(block_id)
            return
        for key in (change.key, change.old_key):
            block = self._block(relation, key) if key is not None else None
            if block is not None:
                block.lose(key or b"")

    def _truncate(self, relation: Relation, position: int) -> None:
        """All buckets are empty now: the one moment at which this node knows all of them."""
        for bucket in range(self._held.buckets):
            block_id = BlockId(self._held.stream, *relation.name, bucket)
            block = self._held.get(block_id)
            if block is None:
                block = self._held.begin(block_id, relation, complete=True)
            elif block.version >= position:
                continue
            if block is not None:
                self._held.changing(block_id, block)
                block.relation = relation
                block.clear(complete=True)
        self._held.fetches.lose_table(relation.name)

    def _keep_for_fetches(self, relation: Relation, change: RowChange) -> None:
        fetches = self._held.fetches
        if not fetches:
            return
        for key in {change.key, change.old_key} - {None}:
            fetch = fetches.get(self._held.block_id(relation.name, key or b""))
            if fetch is not None:
                fetch.keep(relation, change)
