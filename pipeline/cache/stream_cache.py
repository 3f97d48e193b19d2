"""One stream's part of a node's cache: a state machine over the change log and the target's ledger.

**Invariant:** every block that is held equals the target's rows of its bucket at position
`max(visible, block.version)`.

Blocks are filled from the `changes` log, not from what an apply process reports after its commits: a process that
dies between commit and report would leave blocks behind that nothing corrects. A batch waits in `pending` until the
ledger says that all its transactions are applied; then it is folded into the blocks, whole. So a block can neither
miss a change nor be ahead of the target, whoever applied it and whoever died.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Set

from pipeline.cache.blocks import Block, cacheable, same_columns
from pipeline.cache.changes import TableFold
from pipeline.cache.columns import TableColumns
from pipeline.cache.fetches import Fetch
from pipeline.cache.folding import Folding
from pipeline.cache.held import HeldBlocks, TableKey
from pipeline.cache.read_ahead import Pending, ReadAhead
from pipeline.cache.store import BlockStore
from pipeline.cache.view import Answer, TargetView, TargetWentBackError
from pipeline.chain import Chain, Verdict
from pipeline.directory.block import BlockId, bucket_of
from pipeline.directory.placement import Placement
from schemas.change_batch import ChangeBatch, Relation

PENDING_BYTES_MAX = 64 * 1024 * 1024  # batches read ahead of the target; the reader pauses beyond


class StreamCache:
    """See the module. `wanted` chooses the tables; `node` is this node's name in `placement`.

    `doubtful`: the target may pass over inserts and updates, so that their rows have to be read there.
    """

    def __init__(
        self, stream: str, wanted: Callable[[TableKey], bool], buckets: int, node: str, placement: Placement,
        store: BlockStore, generation: int = 0, position: int = 0, *, doubtful: bool = False,
    ) -> None:  # fmt: skip
        self.stream = stream
        self.generation = generation
        self.reached = position  # at or past `visible`: the source has committed nothing between the two
        self.current = False  # whether the target is in the same generation
        self._held = HeldBlocks(stream, buckets, node, placement, store, position)
        self._columns = TableColumns(self._held)
        self._folding = Folding(self._held, self._columns, wanted, doubtful=doubtful)
        self._doubtful = doubtful
        self._chain = Chain(stream, generation, position)
        self._begun = position  # at or past what was discarded then: the log has discarded letters, the target not
        self._read_ahead = ReadAhead()
        self._watermark = 0
        self._parked: Set[int] = frozenset()
        self._above: list[int] = []  # folded, and above the watermark last seen

    @property
    def visible(self) -> int:
        """The position that the blocks stand for."""
        return self._held.visible

    @property
    def relations(self) -> Mapping[TableKey, Relation]:
        """The columns of the tables that can be read here."""
        return self._columns.relations

    @property
    def refused_tables(self) -> Mapping[TableKey, str]:
        """The tables that can't be cached, and why."""
        return self._columns.refused

    @property
    def dirty(self) -> set[BlockId]:
        """The blocks that have changed since they were journalled; who journals them takes them out."""
        return self._held.dirty

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
            self._held.shrink()
        return moved

    def _fold(self, item: Pending, watermark: int) -> None:
        batch = item.batch
        self._folding.fold(item, self._parked)
        if batch.last_part:
            self._held.visible = batch.last_position
            self.reached = max(self.visible, batch.end_position if batch.kind == "live" else 0, self.reached)
            self._above += [position for position in batch.positions if position > watermark]

    def _restart(self, generation: int) -> None:
        """A new snapshot: forget all blocks and what was read of the old one."""
        self.generation, self.reached, self._watermark, self.current = generation, 0, 0, False
        self._begun = 0
        self._parked = frozenset()
        self._held.clear()
        self._columns.clear()
        self._above.clear()
        self._read_ahead.clear()

    # ---- reading ---------------------------------------------------------------------------------

    def block_id(self, table: TableKey, key: bytes) -> BlockId:
        """The block of a key."""
        return self._held.block_id(table, key)

    def read(self, relation: Relation, key: bytes) -> Answer | None:
        """The row of a key as the cache knows it, None when it does not; `relation` is that of the key's bytes."""
        block = self._held.get(self.block_id(relation.name, key))
        if block is None or not block.known(key) or not self.current or not same_columns(block.relation, relation):
            return None
        block.reads += 1
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
        block = self._held.get(block_id) or self._held.begin(block_id, known, granted=granted)
        if block is None or block.version > self.visible or not same_columns(block.relation, known):
            return False
        self._held.refill(block, key, row)
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
        block = self._held.get(block_id)
        return None if block is None else (block, max(self.visible, block.version))

    def learn(self, relation: Relation) -> None:
        """Take the target's columns for the source's until the log says otherwise."""
        self._columns.learn(relation)

    def begin_fetch(self, block_id: BlockId) -> int:
        """Note that a block was asked for, and keep its changes from now on; returns the least version to ask for."""
        self._held.fetches[block_id] = Fetch(self.visible)
        return self.visible

    def end_fetch(self, block_id: BlockId) -> None:
        """The block does not come."""
        self._held.fetches.pop(block_id, None)

    def install(self, block_id: BlockId, block: Block, generation: int) -> bool:
        """Take a block from another node; False when it can't be joined with what was read since.

        One that nobody asked for has to be as new as what is visible here.
        """
        fetch = self._held.fetches.pop(block_id, None) or Fetch(self.visible)
        if fetch.lost or generation != self.generation or block.version < fetch.wanted:
            return False
        if cacheable(block.relation) or self._held.get(block_id) is not None:
            return False
        relation = self._columns.of_source(block.relation.name)
        if relation is None:  # the sender knows the source's columns
            relation = self._columns.use(block.relation, self.visible + 1)
        if not same_columns(relation, block.relation):
            return False
        fold = TableFold(
            block.relation,
            lambda key: block if bucket_of(key, self._held.buckets) == block_id.bucket else None,
            doubtful=self._doubtful,
        )
        for of_relation, change in fetch.tail:
            if not same_columns(of_relation, block.relation):
                return False
            fold.apply(change)
        self._held.put(block_id, block)
        return True

    def warm(self, blocks: Iterable[tuple[BlockId, Block]]) -> int:
        """Take blocks of the journal at start, of versions at or past the position that the log is read from.

        The newest one of a table tells its columns. Returns how many were taken.
        """
        taken = 0
        for block_id, block in sorted(blocks, key=lambda pair: -pair[1].version):
            relation = self._columns.relations.setdefault(block.relation.name, block.relation)
            if not cacheable(relation) and same_columns(relation, block.relation):
                self._held.put(block_id, block)
                taken += 1
        return taken

    def remastered(self, among: Collection[BlockId] | None = None) -> list[BlockId]:
        """Give blocks the epoch of their present master; returns those that another node masters now.

        What this node masters is journalled anew, as its master's. Without `among` all blocks are looked at.
        """
        return self._held.remastered(among)
