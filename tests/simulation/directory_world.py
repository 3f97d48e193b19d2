"""A simulation of the directory: the real decisions, a model of what is around them, and faults.

One partition of the log, which the broker compacts as it likes; deciders that are replaced and go on unaware; nodes
that come, go, are cut off, restart, and read records twice; requests and answers between them, and reports of
accesses, that are lost, late or doubled. `Ledger` checks every claim of mastership.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

from pipeline.directory.block import BlockId
from pipeline.directory.decider import UNUSED, Decider
from pipeline.directory.directory import FREEZE_US_MAX, Directory
from pipeline.directory.following import take
from pipeline.directory.members import Affinity, Members
from pipeline.directory.verdicts import DEFAULT
from schemas.grd_accesses import BlockAccesses, GrdAccesses
from schemas.grd_affinity import MEMBERS, GrdAffinity

NAMES = ("a", "b", "c", "d", "e")
BLOCKS = [BlockId("s", "public", table, n) for table in ("item", "line") for n in range(3)]
STEP_US = 200_000
SKEW_US = 1_000_000  # of the clock of a decider, either way
COMPACTION_LAG_US = 800_000
LATE_US = COMPACTION_LAG_US // 2
EXPIRY_US = 3_000_000  # the group's session timeout
SETTLE_STEPS = 20


class BrokenPromiseError(AssertionError):
    """Something happened that must not."""


@dataclass
class Log:
    """One partition. `fence` is the producer epoch that the broker accepts (KIP-98)."""

    records: list[tuple[int, GrdAffinity]] = field(default_factory=list)
    written_us: dict[int, int] = field(default_factory=dict)
    end: int = 0
    fence: int = 0
    fencing: bool = True

    def append(self, producer: int, records: list[GrdAffinity], now_us: int) -> bool:
        """A transaction: all or none; False for a producer that was fenced."""
        if self.fencing and producer != self.fence:
            return False
        for record in records:
            self.records.append((self.end, record))
            self.written_us[self.end] = now_us
            self.end += 1
        return True

    def compact(self, upto: int, now_us: int) -> None:
        """Drop what a later record with the same key, below `upto`, replaces; leave young records alone."""
        young = (offset for offset, _ in self.records if now_us - self.written_us[offset] < COMPACTION_LAG_US)
        upto = min(upto, next(young, upto))
        newest = {record.block: offset for offset, record in self.records if offset < upto}
        self.records = [(o, r) for o, r in self.records if o >= upto or newest[r.block] == o]


@dataclass
class Ledger:
    """Everything that was ever claimed."""

    claims: dict[tuple[BlockId, int], str] = field(default_factory=dict)

    def claim(self, block: BlockId, epoch: int, node: str, who: str) -> None:
        """One epoch of a block has one owner."""
        known = self.claims.setdefault((block, epoch), node)
        if known != node:
            raise BrokenPromiseError(f"{block} has two owners in epoch {epoch}: {known}, and {node} as {who} sees it")


@dataclass
class Node:
    """A process with a cache: it follows the log and answers for what it masters."""

    name: str
    directory: Directory = field(default_factory=Directory)
    offset: int = 0
    cut_off: bool = False
    seen_us: int = 0  # last heartbeat
    accepted: dict[BlockId, int] = field(default_factory=dict)  # highest epoch an answer was taken of
    epochs: dict[BlockId, int] = field(default_factory=dict)
    frozen_since: dict[BlockId, int] = field(default_factory=dict)


@dataclass
class Deciding:
    """A decider's process. It goes on after it was replaced until a write is refused."""

    decider: Decider
    producer: int
    skew_us: int
    gone: set[tuple[str, BlockId]] = field(default_factory=set)  # which node has told it that it evicted which block

    def hear(self, report: GrdAccesses) -> None:
        """What a report says of evictions."""
        for use in report.blocks:
            (self.gone.add if use.gone else self.gone.discard)((report.node, BlockId.parse(use.block)))


@dataclass(frozen=True)
class Message:
    """A request for a block, or the answer of a master."""

    to: str
    sender: str
    block: BlockId
    epoch: int
    answer: bool


class DirectoryWorld:
    """One history and everything that happens to it. `rng` decides what."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.now_us = 1_000_000_000
        self.log = Log()
        self.ledger = Ledger()
        self.nodes: dict[str, Node] = {}
        self.deciders: list[Deciding] = []
        self.reports: list[GrdAccesses] = []
        self.messages: list[Message] = []
        self.seen: Counter[str] = Counter()
        self.moves: Counter[BlockId] = Counter()
        self.last_move: dict[BlockId, int] = {}
        self.budget_us, self.budget_moves = self.now_us, 0
        self.hot = {block: rng.choice(NAMES) for block in BLOCKS}
        for name in rng.sample(NAMES, 3):
            self.start_node(name)
        self.start_decider(keep_old=False)

    # -- nodes ------------------------------------------------------------------------------------

    def start_node(self, name: str) -> None:
        """A node starts, or starts again with nothing; it claims nothing before it has read to the end."""
        self.nodes[name] = Node(name, seen_us=self.now_us)
        self.seen["start"] += 1

    def stop_node(self, name: str) -> None:
        """A node dies; the group notices later."""
        del self.nodes[name]
        self.seen["death"] += 1

    def read(self, node: Node, most: int = 3) -> None:
        """A node reads on; after a lost connection it may read some records again."""
        if node.cut_off:
            return
        if self.rng.random() < 0.05:
            node.offset = max(0, node.offset - self.rng.randint(1, 5))
            self.seen["read again"] += 1
        todo = [(o, r) for o, r in self.log.records if o >= node.offset][:most]
        for offset, record in todo:
            self._take(node, record, self.log.written_us[offset])
            node.offset = offset + 1
        if self.at_end(node):
            node.directory.catch_up()
        if todo:
            self.look(node)

    def at_end(self, node: Node) -> bool:
        """Whether there is nothing more to read at this moment."""
        return not self.log.records or node.offset > self.log.records[-1][0]

    def _take(self, node: Node, record: GrdAffinity, written_us: int) -> None:
        self.seen["late"] += node.directory.ready and self.now_us - written_us > LATE_US
        change = take(node.directory, 0, record, written_us, self.now_us, LATE_US)
        if change is not None and node.directory.frozen(change.block, self.now_us):
            node.frozen_since[change.block] = self.now_us
            self.seen["frozen"] += 1
        if record.block == MEMBERS:
            self.look(node)

    def look(self, node: Node) -> None:
        """What a node believes, checked."""
        node.directory.settle(self.now_us)
        for block in BLOCKS:
            owner = node.directory.owner(block)
            if not owner.node:
                continue
            self.ledger.claim(block, owner.epoch, owner.node, node.name)
            if owner.epoch < node.epochs.get(block, 0):
                raise BrokenPromiseError(f"{node.name}: {block} goes back from epoch {node.epochs[block]} to {owner}")
            node.epochs[block] = owner.epoch
            if node.directory.frozen(block, self.now_us):
                since = node.frozen_since.get(block)
                if since is None or self.now_us - since > FREEZE_US_MAX:
                    raise BrokenPromiseError(f"{node.name}: {block} is frozen since {since}, it is {self.now_us}")

    # -- the group --------------------------------------------------------------------------------

    def heartbeat(self) -> None:
        """Nodes that are connected are seen by the group."""
        for node in self.nodes.values():
            if not node.cut_off:
                node.seen_us = self.now_us

    def group(self) -> frozenset[str]:
        """Whom the coordinator counts as members."""
        return frozenset(n.name for n in self.nodes.values() if self.now_us - n.seen_us < EXPIRY_US)

    # -- deciders ---------------------------------------------------------------------------------

    def start_decider(self, *, keep_old: bool) -> None:
        """A decider takes over: it fences the one before, then reads the log to its end."""
        self.log.fence += 1
        decider = Decider()
        self.rebuild(decider)
        skew_us = self.rng.choice((0, self.rng.randint(-SKEW_US, SKEW_US)))
        self.deciders = [*(self.deciders[-1:] if keep_old else []), Deciding(decider, self.log.fence, skew_us)]
        self.seen["takeover"] += 1

    def rebuild(self, decider: Decider) -> None:
        """What a decider does first: everything there is, in order."""
        for _, record in self.log.records:
            decider.load(record)
        decider.directory.catch_up()

    def decide(self, which: int, *, group: frozenset[str] | None = None) -> None:
        """A decider writes its decisions; one that was replaced learns that it was."""
        deciding = self.deciders[which]
        decider = deciding.decider
        now_us = self.now_us + deciding.skew_us
        records = decider.set_members(self.group() if group is None else group, now_us)
        if not records:
            records = decider.decide(now_us)
        if not records:
            return
        if not self.log.append(deciding.producer, records, self.now_us):
            self.seen["fenced"] += 1
            self.deciders.remove(deciding)
            return
        for record in records:
            self._check_decision(decider, record)
            decider.load(record)

    def _check_decision(self, decider: Decider, record: GrdAffinity) -> None:
        if record.block == MEMBERS:
            self.seen["members"] += 1
            self._check_share(decider, record)
            return
        block = BlockId.parse(record.block)
        self.seen["shared" if record.read_mostly else "predicted" if "next" in record.reason else "moved"] += 1
        self.seen["asked for"] += "operator" in record.reason
        self.seen["unused"] += record.reason == UNUSED
        before = decider.directory.affinity(block)
        self.seen["holder dropped"] += record.read_mostly and bool({*before.holders} - {*record.holders})
        self.seen["shared and moved"] += record.read_mostly and record.master != decider.directory.owner(block).node
        self._check_holders(decider, block, record)
        after = decider.members.owner(block, Affinity(record.master, record.epoch)).node
        if "operator" in record.reason or after == decider.directory.owner(block).node:
            return
        last = self.last_move.get(block)
        if last is not None and self.now_us - last < DEFAULT.residency_us - 2 * SKEW_US and len(self.deciders) == 1:
            raise BrokenPromiseError(f"{block} moves again after {self.now_us - last} us")
        self.last_move[block] = self.now_us

    def _check_holders(self, decider: Decider, block: BlockId, record: GrdAffinity) -> None:
        """Holders are members, and none has told this decider that it has evicted the block since it used it."""
        gone = next(deciding.gone for deciding in self.deciders if deciding.decider is decider)
        wrong = {node for node in record.holders if node not in decider.members.nodes or (node, block) in gone}
        if wrong:
            raise BrokenPromiseError(f"{block} is shared with {wrong}, who have left or evicted it")

    def _check_share(self, decider: Decider, record: GrdAffinity) -> None:
        """A change of members moves what a leaver had, and what a newcomer gets, and nothing else."""
        before, after = decider.members, Members(record.holders, record.epoch)
        for block in BLOCKS:
            affinity = decider.directory.affinity(block)
            old, new = before.owner(block, affinity).node, after.owner(block, affinity).node
            if old != new and old in after.nodes and new in before.nodes:
                raise BrokenPromiseError(f"{block} moved from {old} to {new}, and both were there all the time")

    # -- accesses ---------------------------------------------------------------------------------

    def access(self, node: Node) -> None:
        """A node uses blocks, reports them, and asks the masters of some."""
        uses = []
        for block in self.rng.sample(BLOCKS, 3):
            often = 30 if self.hot[block] == node.name else 3
            writes = 0 if block.table == "line" and block.bucket < 1 else often
            gone = self.rng.random() < 0.2
            uses.append(BlockAccesses(str(block), often if not writes else 0, writes, gone))
            if gone and self.rng.random() < 0.5:  # some time after it was used
                uses[-1] = BlockAccesses(str(block), 0, 0, gone)
            owner = node.directory.owner(block)
            if owner.node and owner.node != node.name:
                self.messages.append(Message(owner.node, node.name, block, owner.epoch, answer=False))
        for _ in range(self.rng.choice((0, 1, 1, 1, 2))):
            self.reports.append(GrdAccesses(node.name, self.now_us, tuple(uses)))

    def deliver_report(self) -> None:
        """A report reaches whoever decides, late or in another order."""
        if self.reports:
            report = self.reports.pop(self.rng.randrange(len(self.reports)))
            for deciding in self.deciders:
                deciding.decider.observe(report, self.now_us + deciding.skew_us)
                deciding.hear(report)

    def deliver_message(self) -> None:
        """A request or an answer arrives, perhaps twice; across a cut nothing does."""
        if not self.messages:
            return
        message = self.messages.pop(self.rng.randrange(len(self.messages)))
        if self.rng.random() < 0.1:
            self.seen["doubled"] += 1
            self.messages.append(message)
        node = self.nodes.get(message.to)
        if node is None or node.cut_off or self.rng.random() < 0.1:
            self.seen["lost"] += 1
        elif message.answer:
            self._accept(node, message)
        else:
            self._answer(node, message)

    def _answer(self, node: Node, message: Message) -> None:
        """A node answers for what it masters, as far as it knows: it may have lost it without having heard."""
        owner = node.directory.owner(message.block)
        if owner.node == node.name:
            self.ledger.claim(message.block, owner.epoch, node.name, node.name)
            self.messages.append(Message(message.sender, node.name, message.block, owner.epoch, answer=True))

    def _accept(self, node: Node, message: Message) -> None:
        if not self.fresh(node, message):
            self.seen["stale master refused"] += 1
            return
        highest = node.epochs.get(message.block, 0)
        if message.epoch < max(highest, node.accepted.get(message.block, 0)):
            raise BrokenPromiseError(f"{node.name} took {message.block} of epoch {message.epoch} after {highest}")
        node.accepted[message.block] = message.epoch

    def fresh(self, node: Node, message: Message) -> bool:
        """Whether an answer's epoch is not below what this node has seen."""
        known = node.directory.owner(message.block).epoch
        return message.epoch >= max(known, node.accepted.get(message.block, 0))

    # -- the end ----------------------------------------------------------------------------------

    def finish(self) -> None:
        """Without further faults everybody agrees, and every block has one living master."""
        for node in self.nodes.values():
            node.cut_off = False
        self.start_decider(keep_old=False)
        for _ in range(SETTLE_STEPS):
            self.now_us += STEP_US
            self.heartbeat()
            self.decide(-1)
            for node in self.nodes.values():
                self.read(node, most=100)
        reader = Node("reader")
        full = [*self.nodes.values(), reader]
        for node in full:
            node.offset = min(node.offset, self.log.end)
            self.read(node, most=10_000)
        for block in BLOCKS:
            owners = {node.directory.owner(block) for node in full}
            if len(owners) != 1 or next(iter(owners)).node not in self.nodes:
                raise BrokenPromiseError(f"{block} at the end: {owners}, alive are {sorted(self.nodes)}")
