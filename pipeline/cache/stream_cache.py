"""One stream's part of a node's cache: a state machine over the change log and the target's ledger.

**Invariant:** every block that is held equals the target's rows of its bucket at position
`max(visible, block.version)`.

Blocks are filled from the `changes` log, not from what an apply process reports after its commits: a process that
dies between commit and report would leave blocks behind that nothing corrects. A batch waits in `pending` until the
ledger says that all its transactions are applied; then it is folded into the blocks, whole. So a block can neither
miss a change nor be ahead of the target, whoever applied it and whoever died.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Set
from dataclasses import dataclass, field

from pipeline.cache.blocks import Block, cacheable, same_columns
from pipeline.cache.changes import RowChange, TableFold, section_changes, truncates
from pipeline.cache.store import BlockStore
from pipeline.cache.view import Answer, TargetView, TargetWentBackError
from pipeline.chain import Chain, Verdict
from pipeline.directory.block import BlockId, bucket_of
from pipeline.directory.placement import Placement
from schemas.change_batch import TRUNCATE, ChangeBatch, Relation, Section

PENDING_BYTES_MAX = 64 * 1024 * 1024  # batches read ahead of the target; the reader pauses beyond
FETCH_BYTES_MAX = 16 * 1024 * 1024  # changes kept for blocks that are on their way
TableKey = tuple[str, str]


@dataclass(slots=True)
class _Pending:
    """A batch of the log that is not applied as a whole yet; `first`: transactions before it are folded."""

    batch: ChangeBatch
    first: int
    size: int


@dataclass(slots=True)
class _Fetch:
    """A block on its way: the changes since it was asked for."""

    wanted: int  # the least version that will do
    tail: list[tuple[Relation, RowChange]] = field(default_factory=list)
    size_bytes: int = 0
    lost: bool = False


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
        self.refused_tables: dict[TableKey, str] = {}
        self.dirty: set[BlockId] = set()
        self.pending_bytes = 0
        self._wanted = wanted
        self._buckets = buckets
        self._node = node
        self._placement = placement
        self._store = store
        self._chain = Chain(stream, generation, position)
        self._pending: deque[_Pending] = deque()
        self.current = False  # whether the target is in the same generation
        self._watermark = 0
        self._parked: Set[int] = frozenset()
        self._above: list[int] = []  # folded, and above the watermark last seen
        self._sizes: dict[BlockId, int] = {}  # of the blocks of a section, before it is folded
        self._fetches: dict[BlockId, _Fetch] = {}

    # ---- the log ---------------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """Whether the log's reader should pause."""
        return self.pending_bytes >= PENDING_BYTES_MAX

    @property
    def pending(self) -> bool:
        """Whether something was read that is not folded yet."""
        return bool(self._pending)

    def offer(self, batch: ChangeBatch) -> None:
        """Take the next batch of the log. Raises StreamGapError."""
        link = self._chain.offer(batch)
        if link.verdict is Verdict.REPEAT and not self._is_heartbeat(batch):
            return
        if link.verdict is Verdict.RESTART:
            self._restart(batch.generation)
        if batch.part == 0:
            while self._pending and not self._pending[-1].batch.last_part:  # parts that a new capture begins anew
                self.pending_bytes -= self._pending.pop().size
        size = sum(len(section.rows) + len(section.keys) for section in batch.sections)
        self._pending.append(_Pending(batch, link.first, size))
        self.pending_bytes += size

    def _is_heartbeat(self, batch: ChangeBatch) -> bool:
        """Whether a batch says that the source has nothing more up to its end."""
        chain = self._chain
        here = (chain.generation, chain.position) == (batch.generation, batch.previous_position)
        return here and not batch.positions and chain.open_part < 0

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
        if not self._parked <= view.parked:
            raise TargetWentBackError(f"stream {self.stream}: dead letters were settled; the cache begins anew")
        self._watermark, self._parked = view.watermark, view.parked
        self._above = [position for position in self._above if position > view.watermark]
        moved = False
        while (count := self._applied_prefix(view)) > 0:
            for _ in range(count):
                self._fold(self._pending.popleft(), view.watermark)
            moved = True
        if moved:
            self._forget(self._store.shrink())
        return moved

    def _applied_prefix(self, view: TargetView) -> int:
        """How many batches at the head of `pending` make up a whole applied one: 0 or the parts of it."""
        for number, item in enumerate(self._pending):
            if not all(map(view.has, item.batch.positions)):
                return 0
            if item.batch.last_part:
                return number + 1
        return 0

    def _restart(self, generation: int) -> None:
        """A new snapshot: forget all blocks and what was read of the old one."""
        self.generation, self.visible, self.reached, self._watermark, self.current = generation, 0, 0, 0, False
        self._parked = frozenset()
        self._store.drop_stream(self.stream)
        self.dirty.clear()
        self.relations.clear()
        self._above.clear()
        self._pending.clear()
        self.pending_bytes = 0
        for fetch in self._fetches.values():
            fetch.lost = True

    # ---- folding ---------------------------------------------------------------------------------

    def _fold(self, item: _Pending, watermark: int) -> None:
        batch = item.batch
        self.pending_bytes -= item.size
        positions = batch.positions.tolist()
        for section in batch.sections:
            if batch.table_copy:
                self._forget_table(section.relation)
            elif self._wanted(section.relation.name):
                self._fold_section(section, positions, item.first)
        if batch.last_part:
            self.visible = batch.last_position
            self.reached = max(self.visible, batch.end_position if batch.kind == "live" else 0, self.reached)
            self._above += [position for position in positions if position > watermark]

    def _forget_table(self, relation: Relation) -> None:
        """A table copied anew: its rows come without keys, and what is known of it is superseded."""
        for block_id, _ in [*self._store.of_table(self.stream, *relation.name)]:
            self._store.drop(block_id)
        for block_id, fetch in self._fetches.items():
            fetch.lost = fetch.lost or (block_id.schema, block_id.table) == relation.name

    def _fold_section(self, section: Section, positions: list[int], first: int) -> None:
        relation = section.relation
        if reason := cacheable(relation):
            self.refused_tables[relation.name] = reason
            return
        self._check_relation(relation, positions[-1])
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

    def _check_relation(self, relation: Relation, position: int) -> None:
        """Rows of other columns say nothing about the table any more."""
        before = self.relations.get(relation.name)
        self.relations[relation.name] = relation
        if before is not None and same_columns(before, relation):
            return
        for block_id, block in [*self._store.of_table(self.stream, *relation.name)]:
            if block.version < position and not same_columns(block.relation, relation):
                self._store.drop(block_id)
                self.dirty.discard(block_id)

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
        for block_id, fetch in self._fetches.items():
            fetch.lost = fetch.lost or (block_id.schema, block_id.table) == relation.name
        if change.op == TRUNCATE:
            self._forget_table(relation)
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
        for block_id, fetch in self._fetches.items():
            fetch.lost = fetch.lost or (block_id.schema, block_id.table) == relation.name

    # ---- reading ---------------------------------------------------------------------------------

    def block_id(self, table: TableKey, key: bytes) -> BlockId:
        """The block of a key."""
        return BlockId(self.stream, *table, bucket_of(key, self._buckets))

    def read(self, table: TableKey, key: bytes) -> Answer | None:
        """The row of a key as the cache knows it, None when it does not."""
        block = self._store.get(self.block_id(table, key))
        if block is None or not block.known(key) or not self.current:
            return None
        block.touched = True
        return Answer(max(self.reached, block.version), block.relation, block.rows.get(key))

    def fill(self, table: TableKey, key: bytes, row: bytes | None, view: TargetView) -> bool:
        """Keep a row that was read from the target in the same snapshot as `view`; whether it could be kept.

        It can only while nothing beyond the visible position may have changed it, and while the snapshot has all
        that is folded: between the two, a change of the row may have been read, applied and folded.
        """
        relation = self.relations.get(table)
        if relation is None or view.generation != self.generation or view.watermark > self.visible or view.parked:
            return False  # a row that a dead letter will change looks like any other
        if view.watermark < self._watermark or not all(map(view.has, self._above)):
            return False
        read_ahead = {position for item in self._pending for position in item.batch.positions}
        beyond = {position for position in view.applied if position > self.visible}
        if beyond - read_ahead or self._pending_touches(table, key):
            return False
        block_id = self.block_id(table, key)
        block, owner = self._store.get(block_id), self._placement.owner(block_id)
        if block is None and owner.node == self._node:
            block = Block(relation, complete=False, version=self.visible, epoch=owner.epoch)
            self._store.put(block_id, block)
        if block is None or block.version > self.visible or not same_columns(block.relation, relation):
            return False
        before = block.size_bytes
        block.remove(key) if row is None else block.put(key, row)
        self._store.resized(before, block)
        self._forget(self._store.shrink())
        return True

    def _pending_touches(self, table: TableKey, key: bytes) -> bool:
        """Whether a batch that is read ahead may change the key; a chance hit in other bytes does no harm."""
        sections = (s for item in self._pending for s in item.batch.sections if s.relation.name == table)
        return any(key in s.keys or key in s.old_keys or truncates(s) for s in sections)

    # ---- blocks that come and go -----------------------------------------------------------------

    def export(self, block_id: BlockId) -> tuple[Block, int] | None:
        """A block and the position that it stands for, to be shipped or published."""
        block = self._store.get(block_id)
        return None if block is None else (block, max(self.visible, block.version))

    def learn(self, relation: Relation) -> None:
        """Take the target's columns for the source's until the log says otherwise."""
        if not cacheable(relation):
            self.relations.setdefault(relation.name, relation)

    def begin_fetch(self, block_id: BlockId) -> int:
        """Note that a block was asked for, and keep its changes from now on; returns the least version to ask for."""
        self._fetches[block_id] = _Fetch(self.visible)
        return self.visible

    def end_fetch(self, block_id: BlockId) -> None:
        """The block does not come."""
        self._fetches.pop(block_id, None)

    def install(self, block_id: BlockId, block: Block, generation: int) -> bool:
        """Take a block from another node; False when it can't be joined with what was read since.

        One that nobody asked for has to be as new as what is visible here.
        """
        fetch = self._fetches.pop(block_id, None) or _Fetch(self.visible)
        if fetch.lost or generation != self.generation or block.version < fetch.wanted:
            return False
        relation = self.relations.setdefault((block_id.schema, block_id.table), block.relation)
        if not same_columns(relation, block.relation) or block_id in self._store:
            return False
        fold = TableFold(block.relation, lambda key: block if self._bucket(key) == block_id.bucket else None)
        for of_relation, change in fetch.tail:
            if not same_columns(of_relation, block.relation):
                return False
            fold.apply(change)
        self._put(block_id, block)
        return True

    def warm(self, block_id: BlockId, block: Block) -> None:
        """Take a block of the journal at start, of a version at or past the position that the log is read from."""
        self.relations.setdefault((block_id.schema, block_id.table), block.relation)
        if same_columns(self.relations[block_id.schema, block_id.table], block.relation):
            self._put(block_id, block)

    def _put(self, block_id: BlockId, block: Block) -> None:
        self._store.put(block_id, block)
        self._forget(self._store.shrink())

    def _bucket(self, key: bytes) -> int:
        return bucket_of(key, self._buckets)

    def _keep_for_fetches(self, relation: Relation, change: RowChange) -> None:
        if not self._fetches:
            return
        for key in {change.key, change.old_key} - {None}:
            fetch = self._fetches.get(self.block_id(relation.name, key or b""))
            if fetch is not None and not fetch.lost:
                fetch.tail.append((relation, change))
                fetch.size_bytes += len(change.row) + len(change.key)
                fetch.lost = fetch.size_bytes > FETCH_BYTES_MAX

    def _forget(self, evicted: list[BlockId]) -> None:
        self.dirty.difference_update(evicted)

    def remastered(self) -> list[BlockId]:
        """Give blocks the epoch of their present master; returns those that another node masters now.

        What this node masters is journalled anew, as its master's.
        """
        given = []
        for block_id, block in self._store.items():
            if block_id.stream == self.stream:
                owner = self._placement.owner(block_id)
                block.epoch = owner.epoch
                if owner.node == self._node:
                    self.dirty.add(block_id)
                else:
                    given.append(block_id)
        return given
