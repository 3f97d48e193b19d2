"""One stream's part of a node's cache: a state machine over the change log and the target's ledger.

**Invariant:** every block that is held equals the target's rows of its bucket at position
`max(visible, block.version)`.

Blocks are filled from the `changes` log, not from what an apply process reports after its commits: a process that
dies between commit and report would leave blocks behind that nothing corrects. A batch waits in `pending` until the
ledger says that all its transactions are applied; then it is folded into the blocks, whole. So a block can neither
miss a change nor be ahead of the target, whoever applied it and whoever died.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Set

from pipeline.cache.blocks import Block, cacheable, same_columns
from pipeline.cache.changes import RowChange, TableFold, by_table, section_changes, truncates
from pipeline.cache.fetches import Fetch, Fetches
from pipeline.cache.read_ahead import Pending, ReadAhead
from pipeline.cache.store import BlockStore
from pipeline.cache.view import Answer, TargetView, TargetWentBackError
from pipeline.chain import Chain, Verdict
from pipeline.directory.block import BlockId, bucket_of
from pipeline.directory.placement import Placement
from schemas.change_batch import TRUNCATE, ChangeBatch, Relation, Section

PENDING_BYTES_MAX = 64 * 1024 * 1024  # batches read ahead of the target; the reader pauses beyond
TableKey = tuple[str, str]


class StreamCache:
    """See the module. `wanted` chooses the tables; `node` is this node's name in `placement`."""

    def __init__(
        self, stream: str, wanted: Callable[[TableKey], bool], buckets: int, node: str, placement: Placement,
        store: BlockStore, generation: int = 0, position: int = 0,
    ) -> None:  # fmt: skip
        self.stream = stream
        self.generation = generation
        self.visible = position
        self.reached = position  # at or past `visible`: the source has committed nothing between the two
        self.relations: dict[TableKey, Relation] = {}
        self._learned: set[TableKey] = set()  # whose relation is the target's, for want of the source's
        self._mixed: set[TableKey] = set()  # which have blocks of other columns than their relation's
        self.refused_tables: dict[TableKey, str] = {}
        self.dirty: set[BlockId] = set()
        self._wanted = wanted
        self._buckets = buckets
        self._node = node
        self._placement = placement
        self._store = store
        self._chain = Chain(stream, generation, position)
        self._begun = position  # at or past what was discarded then: the log has discarded letters, the target not
        self._read_ahead = ReadAhead()
        self.current = False  # whether the target is in the same generation
        self._watermark = 0
        self._parked: Set[int] = frozenset()
        self._above: list[int] = []  # folded, and above the watermark last seen
        self._sizes: dict[BlockId, int] = {}  # of the blocks of a section, before it is folded
        self._fetches = Fetches()

    # ---- the log ---------------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """Whether the log's reader should pause."""
        return self.pending_bytes >= PENDING_BYTES_MAX

    @property
    def pending_bytes(self) -> int:
        """Of what was read and is not folded yet."""
        return self._read_ahead.bytes

    @property
    def pending(self) -> bool:
        """Whether something was read that is not folded yet."""
        return bool(self._read_ahead)

    def offer(self, batch: ChangeBatch) -> None:
        """Take the next batch of the log. Raises StreamGapError."""
        link = self._chain.offer(batch)
        if link.verdict is Verdict.REPEAT and not self._chain.is_heartbeat(batch):
            return
        if link.verdict is Verdict.RESTART:
            self._restart(batch.generation)
        self._read_ahead.add(batch, link.first)

    def see(self, view: TargetView) -> bool:
        """Fold what the target has applied; whether anything moved.

        Raises TargetWentBackError when what was folded is no longer there: make a new cache, from the new watermark.
        """
        self.current = view.generation == self.generation
        if not self.current:
            return False  # a newer snapshot has begun, here or there: blocks say nothing until both have
        if view.watermark < self._watermark or any(not view.has(position) for position in self._above):
            raise TargetWentBackError(
                f"stream {self.stream}: the target is at watermark {view.watermark} and has lost transactions up to "
                f"{self.visible} that it had applied; the cache begins anew"
            )
        if not self._parked <= view.parked or view.discarded > self._begun:
            raise TargetWentBackError(f"stream {self.stream}: dead letters were settled; the cache begins anew")
        self._watermark, self._parked = view.watermark, view.parked
        self._above = [position for position in self._above if position > view.watermark]
        moved = False
        while applied := self._read_ahead.take_applied(view):
            for item in applied:
                self._fold(item, view.watermark)
            moved = True
        if moved:
            self.dirty.difference_update(self._store.shrink())
        return moved

    def _restart(self, generation: int) -> None:
        """A new snapshot: forget all blocks and what was read of the old one."""
        self.generation, self.visible, self.reached, self._watermark, self.current = generation, 0, 0, 0, False
        self._begun = 0
        self._parked = frozenset()
        self._store.drop_stream(self.stream)
        self.dirty.clear()
        for names in (self.relations, self._learned, self._mixed):
            names.clear()
        self._above.clear()
        self._read_ahead.clear()
        self._fetches.lose_all()

    # ---- folding ---------------------------------------------------------------------------------

    def _fold(self, item: Pending, watermark: int) -> None:
        batch = item.batch
        positions = batch.positions.tolist()
        for name, sections in by_table(batch.sections).items():
            if not self._wanted(name):
                continue
            if batch.table_copy:
                self._drop_table(name, positions[-1])  # rows without keys, which supersede what is known
            elif len(sections) == 1:
                self._fold_section(sections[0], positions, item.first)
            else:
                self._pass_over(sections, positions[-1])
        if batch.last_part:
            self.visible = batch.last_position
            self.reached = max(self.visible, batch.end_position if batch.kind == "live" else 0, self.reached)
            self._above += [position for position in positions if position > watermark]

    def _fold_section(self, section: Section, positions: list[int], first: int) -> None:
        if reason := cacheable(section.relation):
            self._refuse(section.relation, positions[-1], reason)
            return
        relation = self._use_columns(section.relation, positions[-1])
        fold = TableFold(relation, lambda key: self._target_block(relation, key))
        truncated = truncates(section)
        for change in section_changes(section, positions, first):
            if change.position in self._parked:
                self._lose(relation, change)
                continue
            if truncated and change.op == TRUNCATE:
                self._truncate(relation, change.position)
                continue
            fold.apply(change)
            self._keep_for_fetches(relation, change)
        for block_id, before in self._sizes.items():
            block = self._store.get(block_id)
            if block is not None:
                self._store.resized(before, block)
        self._sizes.clear()

    def _pass_over(self, sections: list[Section], position: int) -> None:
        """A table whose columns changed within the batch: its changes lie in several sections, out of order."""
        last = max(sections, key=lambda section: section.order[-1])
        self._drop_table(last.relation.name, position)
        if reason := cacheable(last.relation):
            self._refuse(last.relation, position, reason)
        else:
            self._use_columns(last.relation, position)

    def _refuse(self, relation: Relation, position: int, reason: str) -> None:
        """The table can't be cached, or no more: nothing folds its changes from here on."""
        self.refused_tables[relation.name] = reason
        if self.relations.pop(relation.name, None) is not None:
            self._drop_table(relation.name, position)

    def _drop_table(self, table: TableKey, position: int) -> None:
        """Drop the blocks that do not have the changes up to `position`, and those on their way."""
        for block_id, block in [*self._store.of_table(self.stream, *table)]:
            if block.version < position:
                self._drop(block_id)
        self._fetches.lose_table(table)

    def _drop(self, block_id: BlockId) -> None:
        self._store.drop(block_id)
        self.dirty.discard(block_id)

    def _use_columns(self, relation: Relation, position: int) -> Relation:
        """Take a batch's columns of a table for the present ones; returns them.

        Rows of other columns say nothing any more: their blocks go. One of a version past the batch may have columns
        that a later batch brings, and stays until its time has come.
        """
        name = relation.name
        known = self.relations.get(name)
        if known is not None and same_columns(known, relation):
            if name not in self._mixed:
                return known
            relation = known
        self.relations[name] = relation
        self._learned.discard(name)
        self._mixed.discard(name)
        for block_id, block in [*self._store.of_table(self.stream, *name)]:
            if same_columns(block.relation, relation):
                continue
            if block.version < position:
                self._drop(block_id)
            else:
                self._mixed.add(name)
        return relation

    def _target_block(self, relation: Relation, key: bytes) -> Block | None:
        """The block that a change of `key` goes to; one that this node masters begins with its first change."""
        block_id = self.block_id(relation.name, key)
        block = self._store.get(block_id)
        if block is None:
            owner = self._placement.owner(block_id)
            if owner.node != self._node:
                return None
            block = Block(relation, complete=False, version=self.visible, epoch=owner.epoch)
            self._store.put(block_id, block)
        elif not same_columns(block.relation, relation):
            return None
        self._sizes.setdefault(block_id, block.size_bytes)
        self.dirty.add(block_id)
        return block

    def _lose(self, relation: Relation, change: RowChange) -> None:
        """A dead letter's change: what it touches is not known until the letter is settled."""
        self._fetches.lose_table(relation.name)
        if change.op == TRUNCATE:
            for block_id, _ in [*self._store.of_table(self.stream, *relation.name)]:
                self._drop(block_id)
            return
        for key in (change.key, change.old_key):
            block = self._target_block(relation, key) if key is not None else None
            if block is not None:
                block.lose(key or b"")

    def _truncate(self, relation: Relation, position: int) -> None:
        """All buckets are empty now: the one moment at which this node knows all of them."""
        for bucket in range(self._buckets):
            block_id = BlockId(self.stream, *relation.name, bucket)
            block, owner = self._store.get(block_id), self._placement.owner(block_id)
            if block is None and owner.node == self._node:
                self._store.put(block_id, Block(relation, complete=True, version=self.visible, epoch=owner.epoch))
                self.dirty.add(block_id)
            elif block is not None and block.version < position:
                self._sizes.setdefault(block_id, block.size_bytes)
                block.relation = relation
                block.clear(complete=True)
                self.dirty.add(block_id)
        self._fetches.lose_table(relation.name)

    # ---- reading ---------------------------------------------------------------------------------

    def block_id(self, table: TableKey, key: bytes) -> BlockId:
        """The block of a key."""
        return BlockId(self.stream, *table, bucket_of(key, self._buckets))

    def read(self, relation: Relation, key: bytes) -> Answer | None:
        """The row of a key as the cache knows it, None when it does not; `relation` is that of the key's bytes."""
        block = self._store.get(self.block_id(relation.name, key))
        if block is None or not block.known(key) or not self.current or not same_columns(block.relation, relation):
            return None
        block.touched = True
        return Answer(max(self.reached, block.version), block.relation, block.rows.get(key))

    def fill(
        self, relation: Relation, key: bytes, row: bytes | None, view: TargetView, *, granted: bool = False
    ) -> bool:
        """Keep a row that was read from the target in the same snapshot as `view`; whether it could be kept.

        It can where the row is that of the visible position: the snapshot has all that is folded, nothing beyond that
        may have changed the row (the reader comes late), and the block is this node's, or `granted` by its master.
        """
        known = self.relations.get(relation.name)
        if known is None or not same_columns(known, relation):
            return False
        if not self._covered(view) or self._changed_beyond(view, relation, key):
            return False
        block_id = self.block_id(relation.name, key)
        block, owner = self._store.get(block_id), self._placement.owner(block_id)
        if block is None and (granted or owner.node == self._node):
            block = Block(known, complete=False, version=self.visible, epoch=owner.epoch)
            self._store.put(block_id, block)
        if block is None or block.version > self.visible or not same_columns(block.relation, known):
            return False
        before = block.size_bytes
        block.remove(key) if row is None else block.put(key, row)
        self._store.resized(before, block)
        self.dirty.difference_update(self._store.shrink())
        return True

    def _covered(self, view: TargetView) -> bool:
        """Whether a snapshot has all that is folded here."""
        same = self.current and view.generation == self.generation
        return same and view.watermark >= self._watermark and all(map(view.has, self._above))

    def _changed_beyond(self, view: TargetView, relation: Relation, key: bytes) -> bool:
        """Whether a snapshot may have a change of the key that is not visible here yet."""
        if view.watermark > self.visible or view.parked:
            return True  # a row that a dead letter will change looks like any other
        beyond = {position for position in view.applied if position > self.visible}
        return bool(beyond - self._read_ahead.positions()) or self._read_ahead.touches(relation, key)

    # ---- blocks that come and go -----------------------------------------------------------------

    def export(self, block_id: BlockId) -> tuple[Block, int] | None:
        """A block and the position that it stands for, to be shipped or published."""
        block = self._store.get(block_id)
        return None if block is None else (block, max(self.visible, block.version))

    def learn(self, relation: Relation) -> None:
        """Take the target's columns for the source's until the log says otherwise."""
        if not cacheable(relation) and relation.name not in self.relations:
            self.relations[relation.name] = relation
            self._learned.add(relation.name)

    def begin_fetch(self, block_id: BlockId) -> int:
        """Note that a block was asked for, and keep its changes from now on; returns the least version to ask for."""
        self._fetches[block_id] = Fetch(self.visible)
        return self.visible

    def end_fetch(self, block_id: BlockId) -> None:
        """The block does not come."""
        self._fetches.pop(block_id, None)

    def install(self, block_id: BlockId, block: Block, generation: int) -> bool:
        """Take a block from another node; False when it can't be joined with what was read since.

        One that nobody asked for has to be as new as what is visible here.
        """
        fetch = self._fetches.pop(block_id, None) or Fetch(self.visible)
        if fetch.lost or generation != self.generation or block.version < fetch.wanted:
            return False
        if cacheable(block.relation) or block_id in self._store:
            return False
        relation = self.relations.get(block.relation.name)
        if relation is None or relation.name in self._learned:  # the sender knows the source's columns
            relation = self._use_columns(block.relation, self.visible + 1)
        if not same_columns(relation, block.relation):
            return False
        fold = TableFold(
            block.relation, lambda key: block if bucket_of(key, self._buckets) == block_id.bucket else None
        )
        for of_relation, change in fetch.tail:
            if not same_columns(of_relation, block.relation):
                return False
            fold.apply(change)
        self._put(block_id, block)
        return True

    def warm(self, blocks: Iterable[tuple[BlockId, Block]]) -> int:
        """Take blocks of the journal at start, of versions at or past the position that the log is read from.

        The newest one of a table tells its columns. Returns how many were taken.
        """
        taken = 0
        for block_id, block in sorted(blocks, key=lambda pair: -pair[1].version):
            relation = self.relations.setdefault(block.relation.name, block.relation)
            if not cacheable(relation) and same_columns(relation, block.relation):
                self._put(block_id, block)
                taken += 1
        return taken

    def _put(self, block_id: BlockId, block: Block) -> None:
        self._store.put(block_id, block)
        self.dirty.difference_update(self._store.shrink())

    def _keep_for_fetches(self, relation: Relation, change: RowChange) -> None:
        if not self._fetches:
            return
        for key in {change.key, change.old_key} - {None}:
            fetch = self._fetches.get(self.block_id(relation.name, key or b""))
            if fetch is not None:
                fetch.keep(relation, change)

    def remastered(self, among: Collection[BlockId] | None = None) -> list[BlockId]:
        """Give blocks the epoch of their present master; returns those that another node masters now.

        What this node masters is journalled anew, as its master's. Without `among` all blocks are looked at.
        """
        given = []
        found = self._store.items() if among is None else ((b, self._store.get(b)) for b in among)
        for block_id, block in found:
            if block is not None and block_id.stream == self.stream:
                owner = self._placement.owner(block_id)
                block.epoch = owner.epoch
                if owner.node == self._node:
                    self.dirty.add(block_id)
                else:
                    given.append(block_id)
        return given
