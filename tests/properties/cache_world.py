"""Three cache nodes beside a source and a target: everything that may happen to them, drawn from a seed.

After every step each block of each node equals the rows of its bucket at the position it stands for.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from pipeline.cache.blocks import BLOCK_OVERHEAD_BYTES
from pipeline.cache.conflict import Conflict, conflict, row_tag
from pipeline.cache.records import block_of, record_of, stamp
from pipeline.cache.store import BlockStore
from pipeline.cache.stream_cache import StreamCache
from pipeline.cache.view import TargetView, TargetWentBackError
from pipeline.directory.block import BlockId, Owner, bucket_of
from schemas.change_batch import Relation
from schemas.change_batch_codec import decode_batch
from schemas.fusion_block import decode_fusion_block, encode_fusion_block
from schemas.rows import pack_fields
from tests.properties.cache_databases import KEYS, NAME, TARGET, Databases, key_bytes
from tests.properties.model import Row, fields, unpack_row

BUCKETS = 3
NODES = ("a", "b", "c")


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
class Seen:
    """A row that a client was answered, and its tag."""

    key: int
    columns: list[str]
    row: Row | None
    tag: str


@dataclass
class Node:
    """A node and how far it has read the log."""

    cache: StreamCache
    store: BlockStore
    read: int = 0
    asked: dict[BlockId, int] = field(default_factory=dict)
    rows: list[TargetRead] = field(default_factory=list)


class World(Databases):
    """The databases, three nodes, one journal."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.sizes = {name: self.dice.choice([2, 4, 100, 100]) for name in NODES}
        self.placement = Hash()
        self.journal: dict[BlockId, bytes] = {}
        self.seen: list[Seen] = []
        self.checked: Counter[str] = Counter()
        self.nodes = {name: self.start(name, 0) for name in NODES}
        for node in self.nodes.values():
            node.cache.learn(TARGET)

    def start(self, name: str, position: int) -> Node:
        store = BlockStore(self.sizes[name] * BLOCK_OVERHEAD_BYTES)
        cache = StreamCache("s", lambda name: name == NAME, BUCKETS, name, self.placement, store, 1, position)
        return Node(cache, store)

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
            self.wait_for_discarded()
            self.nodes[name] = self.start(name, self.watermark)
            self.nodes[name].cache.learn(self.target_relation())
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
        state, now = self.target_state()
        row = state.get(key)
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
        self.look(name, self.dice.choice(KEYS))

    def look(self, name: str, key: int) -> Seen | None:
        """What a client is answered from the cache, if anything."""
        cache = self.nodes[name].cache
        relation = cache.relations.get(NAME)
        found = None if relation is None else cache.read(relation, key_bytes(key))
        if found is None:
            return None
        row = None if found.row is None else unpack_row(found.row, found.relation)
        assert found.position >= cache.reached
        assert row == self.state_at(found.position).get(key), f"{name} {key} at {found.position}"
        columns = [column.name for column in found.relation.columns]
        seen = Seen(key, columns, row, row_tag(found.relation, found.row))
        self.seen.append(seen)
        return seen

    def check(self, name: str) -> None:
        """Whether a row that was seen, here or at another node, is still the same: as a look at both rows says."""
        seen = self.dice.choice(self.seen) if self.seen else None
        now = None if seen is None else self.look(name, seen.key)
        if seen is None or now is None:
            return
        kind = conflict(seen.tag, now.tag)
        self.checked[str(kind)] += 1
        if seen.row is None or now.row is None:
            there = Conflict.DELETED if now.row is None else Conflict.INSERTED
            assert kind is (None if seen.row is now.row else there), (seen, now)
        else:
            same = (seen.columns, seen.row) == (now.columns, now.row)
            assert kind is (None if same else Conflict.UPDATED), (seen, now)

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
        self.wait_for_discarded()
        floor = max([self.watermark - horizon, *self.discarded])
        usable = [r for r in records if self.has(r.version) and r.version >= floor]
        start = min([self.watermark, *(record.version for record in usable)])
        self.nodes[name] = node = self.start(name, start)
        node.cache.warm(map(block_of, usable))
        node.cache.learn(self.target_relation())

    # ---- what holds ------------------------------------------------------------------------------

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
        ours = (
            self.commit, self.beat, self.alter_table, self.apply, self.advance, self.crash_target, self.remaster,
            self.settle,
        )  # fmt: skip
        theirs = (
            self.follow, self.see, self.read_target, self.keep_row, self.answer, self.check, self.ask, self.ship,
            self.publish, self.crash,
        )  # fmt: skip
        if self.dice.random() < 0.32:
            self.dice.choices(ours, (8, 1, 0.3, 14, 4, 0.3, 0.7, 0.7))[0]()
        else:
            self.dice.choices(theirs, (20, 16, 6, 6, 4, 4, 4, 6, 5, 1.5))[0](self.dice.choice(NODES))
        self.every_block_is_the_source_at_its_position()
        self.memory_is_bounded()
