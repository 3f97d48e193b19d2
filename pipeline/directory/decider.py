"""The decider of one partition: accesses and members in, numbered decisions out.

It may die at any moment and keeps nothing of its own: the next one starts from the partition's records. That two do
not write at once is the log's affair (a transactional producer fences the one before, KIP-98).
"""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.directory.activity import HALF_LIFE_US, HeavyHitters
from pipeline.directory.block import BlockId
from pipeline.directory.directory import Directory
from pipeline.directory.members import Affinity, Members, next_epoch
from pipeline.directory.prediction import NextAccessor, after, likeliest
from pipeline.directory.verdicts import DEFAULT, KEEP_SHARE, Policy, Verdict, judge, resident
from schemas.grd_accesses import GrdAccesses
from schemas.grd_affinity import MEMBERS, GrdAffinity

AGE_US = 10_000_000  # between two halvings of the heavy hitters' counts
SWEEP_US = 3 * HALF_LIFE_US  # between two looks at all that is shared
REQUESTS_MAX = 1000  # moves asked for from outside that wait for the next decision
UNUSED = "hardly used any more: shared no more"
TableKey = tuple[str, str, str]


class Decider:
    """Decides for the blocks of one partition. `decide` returns records; `load` takes them once they are written."""

    def __init__(self, policy: Policy = DEFAULT) -> None:
        self.directory = Directory()
        self.last_epoch = 0
        self.refused = 0  # outside requests that named no block or no member, or came too many at once
        self._policy = policy
        self._hitters = HeavyHitters(policy.tracked_max)
        self._models: dict[TableKey, NextAccessor] = {}
        self._touched: set[BlockId] = set()  # used since they were judged
        self._shared: set[BlockId] = set()
        self._swept_us = 0
        self._requests: list[GrdAffinity] = []
        self._allowance = policy.moves_burst
        self._allowed_us = 0
        self._aged_us = 0

    @property
    def members(self) -> Members:
        """The nodes that take part."""
        return self.directory.partition_members(0)

    # ---- what is read ----------------------------------------------------------------------------

    def load(self, record: GrdAffinity) -> bool:
        """Take a record of the topic, own or another's; whether it was news. Raises ValueError for a foreign block."""
        self.last_epoch = max(self.last_epoch, record.epoch)
        if record.block == MEMBERS:
            return self.directory.join(Members(record.holders, record.epoch))
        block = BlockId.parse(record.block)
        affinity = Affinity(record.master, record.epoch, record.read_mostly, record.holders)
        change = self.directory.apply(block, affinity, record.decided_us)
        (self._shared.add if self.directory.affinity(block).read_mostly else self._shared.discard)(block)
        activity = self._hitters.activities.get(block)
        if change is not None and activity is not None:
            activity.told_us = record.decided_us
            if change.before.node != change.after.node:
                activity.decay_to(record.decided_us)
                activity.moved_us = record.decided_us
                activity.moves += 1
        return change is not None

    def observe(self, report: GrdAccesses, now_us: int) -> None:
        """Count what a node reports. Raises ValueError for a text that names no block."""
        for use in report.blocks:
            block = BlockId.parse(use.block)
            known = block in self._hitters.activities
            if not use.reads and not use.writes:  # evicted, some time after it was last used
                if known:
                    self._hitters.activities[block].note(report.node, 0, 0, now_us, gone=use.gone)
                    self._touched.add(block)
                continue
            activity = self._hitters.note(block, use.reads + use.writes)
            if not known:  # a decider that starts knows of earlier moves from their epochs, which tell the time
                activity.moved_us = self.directory.affinity(block).epoch * 1000
            model = self._models.setdefault(block[:3], NextAccessor())
            model.learn(activity.recent, activity.rates(), report.node)
            activity.note(report.node, use.reads, use.writes, now_us, gone=use.gone)
            activity.recent = after(activity.recent, report.node)
            self._touched.add(block)
        if now_us - self._aged_us >= AGE_US:
            self._aged_us = now_us
            self._hitters.age()

    def request(self, wanted: GrdAffinity) -> None:
        """Take an affinity event from outside: who should master a block. Its epoch says what its writer had seen.

        0: whatever the present epoch is.
        """
        if len(self._requests) >= REQUESTS_MAX:
            self.refused += 1
        else:
            self._requests.append(wanted)

    @property
    def asked(self) -> bool:
        """Whether somebody outside waits for a decision."""
        return bool(self._requests)

    # ---- what is decided -------------------------------------------------------------------------

    def set_members(self, nodes: Iterable[str], now_us: int) -> list[GrdAffinity]:
        """The record of a new set of members; nothing when it is the one in force, or empty."""
        wanted = frozenset(nodes)
        present = self.members.nodes
        if not wanted or wanted == present:
            return []
        came, left = sorted(wanted - present), sorted(present - wanted)
        reason = "; ".join(f"{what}: {', '.join(names)}" for what, names in (("came", came), ("left", left)) if names)
        epoch = next_epoch(self.last_epoch, now_us)
        return [GrdAffinity(MEMBERS, "", epoch, False, tuple(sorted(wanted)), {}, reason, now_us)]

    def decide(self, now_us: int) -> list[GrdAffinity]:
        """Decisions for now, best first, within the budget; ordered by destination, so each gets one batch."""
        decided = [*self._asked(now_us), *self._judged(now_us)]
        if now_us - self._swept_us >= SWEEP_US:
            decided += self._unused({block for block, _ in decided}, now_us)
        epoch = self.last_epoch
        records = []
        for block, verdict in sorted(decided, key=lambda each: each[1].master):
            epoch = next_epoch(epoch, now_us)
            activity = self._hitters.activities.get(block)
            scores = activity.rates() if activity is not None else {}
            records.append(
                GrdAffinity(
                    str(block), verdict.master, epoch, verdict.read_mostly, verdict.holders, scores, verdict.reason,
                    now_us,
                )
            )  # fmt: skip
        return records

    def _judged(self, now_us: int) -> list[tuple[BlockId, Verdict]]:
        policy, members = self._policy, self.members
        self._refill(now_us)
        found = []
        touched, self._touched = self._touched, set()
        for block in touched & self._hitters.activities.keys():
            activity = self._hitters.activities[block]
            activity.decay_to(now_us)
            if resident(activity, now_us, policy):
                self._touched.add(block)
                continue
            affinity = self.directory.affinity(block)
            owner = members.owner(block, affinity).node
            prediction = likeliest(self._models[block[:3]].predict(activity.recent, activity.rates()))
            if prediction[0] not in members.nodes:
                prediction = ("", 0.0)
            verdict = judge(owner, affinity, activity, members.nodes, prediction, now_us, policy)
            if verdict is not None:
                found.append((block, verdict))
        found.sort(key=lambda each: (-each[1].gain_us, each[0]))
        chosen = found[: int(self._allowance)]
        self._allowance -= len(chosen)
        self._touched.update(block for block, _ in found[len(chosen) :])
        return chosen

    def _unused(self, but: set[BlockId], now_us: int) -> list[tuple[BlockId, Verdict]]:
        """Shared blocks that are hardly used any more: who had them has long had other uses for the memory.

        Not before this decider has seen long enough what is used.
        """
        first, self._swept_us = not self._swept_us, now_us
        found = []
        for block in sorted(self._shared - but) if not first else ():
            activity = self._hitters.activities.get(block)
            if activity is not None:
                activity.decay_to(now_us)
            if activity is None or sum(activity.rates().values()) < self._policy.rate_min * KEEP_SHARE:
                master = self.directory.affinity(block).master
                found.append((block, Verdict(master if master in self.members.nodes else "", (), False, 0.0, UNUSED)))
        chosen = found[: int(self._allowance)]
        self._allowance -= len(chosen)
        return chosen

    def _refill(self, now_us: int) -> None:
        policy = self._policy
        passed_s = max(0, now_us - self._allowed_us) / 1e6 if self._allowed_us else 0.0
        self._allowance = min(policy.moves_burst, self._allowance + passed_s * policy.moves_per_s)
        self._allowed_us = max(now_us, self._allowed_us)

    def _asked(self, now_us: int) -> list[tuple[BlockId, Verdict]]:
        requests, self._requests = self._requests, []
        found: dict[BlockId, Verdict] = {}
        for wanted in requests:
            try:
                block = BlockId.parse(wanted.block)
            except ValueError:
                self.refused += 1
                continue
            owner = self.directory.owner(block)
            master_unknown = wanted.master and wanted.master not in self.members.nodes
            if master_unknown or wanted.epoch not in (0, owner.epoch):
                self.refused += 1
                continue
            found[block] = Verdict(
                wanted.master, wanted.holders, wanted.read_mostly, 0.0, wanted.reason or "asked for from outside"
            )
            self._stay(block, now_us)
        return list(found.items())

    def _stay(self, block: BlockId, now_us: int) -> None:
        """What somebody asked for is not undone at once by what was counted before."""
        activity = self._hitters.activities.get(block)
        if activity is not None and not resident(activity, now_us, self._policy):
            activity.moved_us = now_us
