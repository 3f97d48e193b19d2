"""The cache against any history: commits, transfers, crashes, remasters, evictions, a target that goes back.

After every step each block of each node equals the source's rows of its bucket at the position it stands for.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from hypothesis import given
from hypothesis import strategies as st

from pipeline.builder import BatchBuilder
from pipeline.cache.blocks import BLOCK_OVERHEAD_BYTES
from pipeline.cache.records import Stamp, block_of, record_of, stamp
from pipeline.cache.store import BlockStore
from pipeline.cache.stream_cache import StreamCache
from pipeline.cache.view import TargetView, TargetWentBackError
from pipeline.directory.block import BlockId, Owner, bucket_of
from schemas.change_batch import DELETE, INSERT, TRUNCATE, UPDATE, Relation
from schemas.change_batch_codec import decode_batch, encode_batch
from schemas.fusion_block import decode_fusion_block, encode_fusion_block
from schemas.rows import pack_fields
from tests.properties.model import Change, Row, Table, fields, pack_change, table, unpack_row

BUCKETS = 3
NODES = ("a", "b", "c")
NAME = ("public", "t")
ALL = (("id", "int8"), ("note", "text"), ("n", "int4"), ("more", "text"))


def numbered(*numbers: int) -> Table:
    """The table with as many columns, numbered as its source does."""
    made = table("t", ALL[: len(numbers)], ("id",))
    pairs = zip(made.relation.columns, numbers, strict=True)
    columns = tuple(replace(column, number=number, modifier=number + 4) for column, number in pairs)
    return replace(made, relation=replace(made.relation, columns=columns))


NARROW = numbered(1, 2, 3)
WIDE = numbered(1, 2, 3, 4)  # `more` was added
FRESH = numbered(1, 5, 3, 4)  # `note` was dropped, and another of its name and type was added
TABLES = (NARROW, WIDE, FRESH)
KEYS = range(8)
State = dict[int, Row]


def altered(row: Row, to: Table) -> Row:
    """What becomes of a row that is there when its table becomes `to`; no record of the log tells it."""
    return (*row, None) if to is WIDE else (row[0], None, *row[2:])


def key_bytes(key: int) -> bytes:
    return pack_fields(fields((key,), Relation(0, "", "", "d", NARROW.relation.columns[:1])))


@dataclass
class Txn:
    """A source transaction and what it leaves."""

    position: int
    changes: tuple[Change, ...]
    after: State
    table: Table

    @property
    def keys(self) -> set[int]:
        """The keys it touches; all of them for a TRUNCATE."""
        if any(change.op == TRUNCATE for change in self.changes):
            return set(range(8))
        return {int(row[0] or 0) for c in self.changes for row in (c.old, c.new) if row is not None}


class Hash:
    """A placement that can be turned."""

    def __init__(self) -> None:
        self.turn, self.epoch = 0, 1

    def owner(self, block: BlockId) -> Owner:
        """The block's master."""
        return Owner(NODES[(block.bucket + self.turn) % len(NODES)], self.epoch)


@dataclass
class TargetRead:
    """A row as a reader has just found it on the target, which may not have told the cache yet."""

    key: int
    relation: Relation
    image: bytes | None
    view: TargetView


@dataclass
class Node:
    """A node and how far it has read the log."""

    cache: StreamCache
    store: BlockStore
    read: int = 0
    asked: dict[BlockId, int] = field(default_factory=dict)
    rows: list[TargetRead] = field(default_factory=list)


class World:
    """One source, one target, one log, three nodes, one journal; everything that happens is drawn from a seed."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.sizes = {name: self.dice.choice([2, 4, 100, 100]) for name in NODES}
        self.placement = Hash()
        self.table = NARROW
        self.state: State = {}
        self.history: list[Txn] = []
        self.log: list[bytes] = []
        self.position = 0
        self.applied: set[int] = set()
        self.watermark = 0
        self.journal: dict[BlockId, bytes] = {}
        self.nodes = {name: self.start(name, 0) for name in NODES}
        self.commit_changes([Change(NARROW, TRUNCATE)])

    def start(self, name: str, position: int) -> Node:
        store = BlockStore(self.sizes[name] * BLOCK_OVERHEAD_BYTES)
        cache = StreamCache("s", lambda name: name == NAME, BUCKETS, name, self.placement, store, 1, position)
        return Node(cache, store)

    # ---- the source and its log ------------------------------------------------------------------

    def commit_changes(self, *transactions: list[Change]) -> None:
        builder = BatchBuilder("s", 1, self.position)
        for changes in transactions:
            self.position += 10
            tx = builder.begin(self.position, 0, 0)
            for change in changes:
                pack_change(builder, tx, change)
                if change.op == TRUNCATE:
                    self.state = {}
                if change.old is not None:
                    self.state.pop(int(change.old[0] or 0))
                if change.new is not None:
                    self.state[int(change.new[0] or 0)] = change.new
            self.history.append(Txn(self.position, tuple(changes), dict(self.state), self.table))
        self.log.append(encode_batch(builder.close("live", self.position, 0)))

    def draw_change(self, state: State) -> Change:
        op = self.dice.choice([INSERT, INSERT, UPDATE, UPDATE, UPDATE, DELETE, TRUNCATE])
        key = self.dice.choice(KEYS)
        note, n = self.dice.choice(["x", "y", "zzzz" * 40]), self.dice.randint(0, 3)
        rest = (note, n, "m")[: len(self.table.relation.columns) - 1]
        if op == TRUNCATE and self.dice.random() < 0.2:
            state.clear()
            return Change(self.table, TRUNCATE)
        if key not in state:
            state[key] = (key, *rest)
            return Change(self.table, INSERT, None, state[key])
        old = state.pop(key)
        if op == DELETE:
            return Change(self.table, DELETE, old)
        to = self.dice.choice(KEYS) if self.dice.random() < 0.3 else key
        to = key if to in state else to
        left_out = frozenset({1}) if self.dice.random() < 0.4 else frozenset()
        state[to] = (to, old[1] if left_out else note, *rest[1:])
        return Change(self.table, UPDATE, old, state[to], left_out)

    def commit(self) -> None:
        state = dict(self.state)
        counts = [self.dice.randint(0, 3) for _ in range(self.dice.randint(1, 3))]
        self.commit_changes(*[[self.draw_change(state) for _ in range(count)] for count in counts])

    def alter_table(self) -> None:
        """The rows that are there get a value that no record tells."""
        if self.table is FRESH:
            return
        self.table = TABLES[TABLES.index(self.table) + 1]
        self.state = {key: altered(row, self.table) for key, row in self.state.items()}
        key = next(key for key in range(99) if key not in self.state)
        self.commit_changes([Change(self.table, INSERT, None, (key, "new", 1, "m"))])

    def beat(self) -> None:
        """The source says that it has committed nothing for a while."""
        self.log.append(encode_batch(BatchBuilder("s", 1, self.position).close("live", self.position + 5, 0)))

    # ---- the target ------------------------------------------------------------------------------

    def apply(self) -> None:
        """Apply transactions whose earlier neighbours are applied, in any order."""
        for _ in range(self.dice.randint(1, 5)):
            waiting = [txn for txn in self.history if not self.has(txn.position)]
            if not waiting:
                return
            free = [
                txn for n, txn in enumerate(waiting)
                if all(not txn.keys & other.keys and txn.table is other.table for other in waiting[:n])
            ]  # fmt: skip
            self.applied.add(self.dice.choice(free).position)

    def has(self, position: int) -> bool:
        return position <= self.watermark or position in self.applied

    def advance(self) -> None:
        """Move the watermark over what is applied without a gap."""
        for txn in self.history:
            if not self.has(txn.position):
                break
            self.watermark = max(self.watermark, txn.position)
        self.applied = {position for position in self.applied if position > self.watermark}

    def crash_target(self) -> None:
        """Asynchronous commits are lost: the newest ones in commit order, so what depends on them too."""
        keep = self.dice.randint(0, len(self.applied))
        self.applied = set(sorted(self.applied)[:keep])

    def view(self) -> TargetView:
        return TargetView(1, self.watermark, frozenset(self.applied))

    def target_row(self, key: int) -> tuple[Row | None, Table]:
        """What the target has, and in which columns: as after the last applied transaction that touches the key."""
        row, now = None, NARROW
        for txn in self.history:
            if self.has(txn.position):
                if txn.table is not now:
                    now = txn.table
                    row = None if row is None else altered(row, now)
                if key in txn.keys:
                    row = txn.after.get(key)
        return row, now

    # ---- the nodes -------------------------------------------------------------------------------

    def follow(self, name: str) -> None:
        node = self.nodes[name]
        for record in self.log[node.read : node.read + self.dice.randint(1, 5)]:
            node.cache.offer(decode_batch(record))
            node.read += 1

    def see(self, name: str) -> None:
        cache = self.nodes[name].cache
        try:
            cache.see(self.view())
        except TargetWentBackError:
            self.nodes[name] = self.start(name, self.watermark)
            return
        assert all(self.has(txn.position) for txn in self.history if txn.position <= cache.visible), (
            "visible, not there"
        )

    def read_target(self, name: str) -> None:
        """A reader reads a row and the ledger in one snapshot."""
        if self.dice.random() < 0.7:
            self.see(name)
        node = self.nodes[name]
        key, relation = self.dice.choice(KEYS), node.cache.relations.get(NAME)
        row, now = self.target_row(key)
        if relation is None or len(relation.columns) > len(now.relation.columns):
            return
        cut = None if row is None else row[: len(relation.columns)]
        packed = None if cut is None else pack_fields(fields(cut, relation))
        image = None if packed is None else len(relation.columns).to_bytes(2, "big") + packed
        node.rows.append(TargetRead(key, relation, image, self.view()))
        if self.dice.random() < 0.5:
            self.keep_row(name)

    def keep_row(self, name: str) -> None:
        """The reader offers it to the cache, which may have moved since."""
        node = self.nodes[name]
        if node.rows:
            found = node.rows.pop(self.dice.randrange(len(node.rows)))
            node.cache.fill(found.relation, key_bytes(found.key), found.image, found.view)

    def answer(self, name: str) -> None:
        """A row that the cache knows is the source's at the position of the answer."""
        cache, key = self.nodes[name].cache, self.dice.choice(KEYS)
        relation = cache.relations.get(NAME)
        found = None if relation is None else cache.read(relation, key_bytes(key))
        if found is not None:
            row = None if found.row is None else unpack_row(found.row, found.relation)
            assert found.position >= cache.reached
            assert row == self.state_at(found.position).get(key), f"{name} {key} at {found.position}"

    def ask(self, name: str) -> None:
        block_id = BlockId("s", *NAME, self.dice.randrange(BUCKETS))
        node = self.nodes[name]
        if block_id not in node.store:
            node.asked[block_id] = node.cache.begin_fetch(block_id)

    def ship(self, name: str) -> None:
        """A block arrives, asked for or not; `install` has to tell whether it can be used."""
        to = self.nodes[name]
        holder = self.dice.choice([other for other in NODES if other != name])
        blocks = [block_id for block_id, _ in self.nodes[holder].store.items()]
        blocks = [block_id for block_id in blocks if block_id in to.asked] or blocks
        if not blocks:
            return
        block_id = self.dice.choice(blocks)
        exported = self.nodes[holder].cache.export(block_id)
        assert exported is not None
        record = encode_fusion_block(record_of(block_id, exported[0], BUCKETS, 1, exported[1], holder))
        to.asked.pop(block_id, None)
        to.cache.install(*block_of(decode_fusion_block(record)), 1)

    def remaster(self) -> None:
        self.placement.turn += self.dice.randint(1, 2)
        self.placement.epoch += 1
        for node in self.nodes.values():
            node.cache.remastered()

    def publish(self, name: str) -> None:
        """Journal the changed blocks that the node masters; an older record never replaces a newer one."""
        node = self.nodes[name]
        for block_id in sorted(node.cache.dirty):
            exported = node.cache.export(block_id)
            if exported is not None and self.placement.owner(block_id).node == name:
                record = record_of(block_id, exported[0], BUCKETS, 1, exported[1], name)
                before = self.journal.get(block_id)
                if before is None or stamp(decode_fusion_block(before)) <= stamp(record):
                    self.journal[block_id] = encode_fusion_block(record)
        node.cache.dirty.clear()

    def crash(self, name: str) -> None:
        """The node starts again, warmed from the journal as far as the log still reaches."""
        horizon = self.dice.choice([0, 30, 100, 1000])
        records = [decode_fusion_block(record) for record in self.journal.values()]
        usable = [r for r in records if self.has(r.version) and r.version >= self.watermark - horizon]
        start = min([self.watermark, *(record.version for record in usable)])
        self.nodes[name] = node = self.start(name, start)
        node.cache.warm(map(block_of, usable))
        columns = self.target_row(0)[1].relation.columns
        node.cache.learn(replace(NARROW.relation, columns=tuple(replace(c, number=0, modifier=-1) for c in columns)))

    # ---- what holds ------------------------------------------------------------------------------

    def state_at(self, position: int) -> State:
        state: State = {}
        for txn in self.history:
            if txn.position <= position:
                state = txn.after
        return state

    def every_block_is_the_source_at_its_position(self) -> None:
        for name, node in self.nodes.items():
            assert node.store.size_bytes == sum(block.size_bytes for _, block in node.store.items())
            for block_id, block in node.store.items():
                exported = node.cache.export(block_id)
                assert exported is not None
                wanted = {
                    key: row for key, row in self.state_at(exported[1]).items()
                    if bucket_of(key_bytes(key), BUCKETS) == block_id.bucket
                }  # fmt: skip
                found = {
                    unpack_row(row, block.relation)[0]: unpack_row(row, block.relation)
                    for row in block.rows.values() if row is not None
                }  # fmt: skip
                where = f"{name} {block_id} at {exported[1]}"
                if block.complete:
                    assert found == wanted, where
                else:
                    assert found.items() <= wanted.items(), where
                    absent = [key for key in range(8) if block.rows.get(key_bytes(key), b"") is None]
                    assert not wanted.keys() & set(absent), where

    def memory_is_bounded(self) -> None:
        for node in self.nodes.values():
            assert node.store.size_bytes <= node.store.bytes_max

    def step(self) -> None:
        """One thing happens; then everything is checked."""
        ours = (self.commit, self.beat, self.alter_table, self.apply, self.advance, self.crash_target, self.remaster)
        theirs = (
            self.follow, self.see, self.read_target, self.keep_row, self.answer, self.ask, self.ship, self.publish,
            self.crash,
        )  # fmt: skip
        if self.dice.random() < 0.32:
            self.dice.choices(ours, (8, 1, 0.3, 14, 4, 0.3, 0.7))[0]()
        else:
            self.dice.choices(theirs, (20, 16, 6, 6, 4, 4, 6, 5, 1.5))[0](self.dice.choice(NODES))
        self.every_block_is_the_source_at_its_position()
        self.memory_is_bounded()


STEPS = 250


@given(st.integers(0, 1 << 32))
def test_blocks_equal_the_source_whatever_happens(seed: int) -> None:
    world = World(seed)
    for _ in range(STEPS):
        world.step()


def test_a_newer_record_is_of_a_later_generation_epoch_then_position() -> None:
    assert Stamp(1, 1, 9) < Stamp(1, 2, 5) < Stamp(2, 1, 1)
