"""Random histories of the directory keep every promise; with a bug planted, the same histories show it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pipeline.directory import decider, members, placement, verdicts
from pipeline.directory.block import BlockId, Owner
from pipeline.directory.decider import Decider
from pipeline.directory.directory import Change, Directory
from pipeline.directory.members import HASHED, Affinity, Members
from schemas.grd_accesses import GrdAccesses
from schemas.grd_affinity import GrdAffinity
from tests.simulation import directory_world
from tests.simulation.directory_world import BLOCKS, NAMES, STEP_US, BrokenPromiseError, DirectoryWorld, Log

SEEDS = range(1000)
SEEDS_WITH_A_BUG = 300
STEPS = 80
HAPPENS = {
    "start", "death", "read again", "frozen", "takeover", "fenced", "members", "moved", "predicted", "shared",
    "asked for", "doubled", "lost", "stale master refused", "cut off", "compacted", "late", "zombie decided",
    "unused", "holder dropped", "shared and moved",
}  # fmt: skip
Patch = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def few_slots() -> Any:
    """A few slots do for a few blocks, and are soon computed."""
    placement._weights.cache_clear()
    placement._slot_nodes.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placement, "SLOTS", 64)
        patch.setattr(decider, "SWEEP_US", 2_000_000)
        yield
    placement._weights.cache_clear()
    placement._slot_nodes.cache_clear()


def fault(world: DirectoryWorld, rng: random.Random) -> None:
    """Something goes wrong."""
    kind = rng.randrange(6)
    if kind == 0 and len(world.nodes) < len(NAMES):
        world.start_node(rng.choice([name for name in NAMES if name not in world.nodes]))
    elif kind == 1 and len(world.nodes) > 1:
        world.stop_node(rng.choice(sorted(world.nodes)))
    elif kind == 2:
        world.start_node(rng.choice(sorted(world.nodes)))
    elif kind == 3:
        node = world.nodes[rng.choice(sorted(world.nodes))]
        node.cut_off = not node.cut_off
        world.seen["cut off"] += 1
    elif kind == 4:
        world.start_decider(keep_old=rng.random() < 0.7)
    elif kind == 5:
        world.hot[rng.choice(BLOCKS)] = rng.choice(NAMES)


def simulate(seed: int) -> DirectoryWorld:
    """One history. Raises BrokenPromiseError."""
    rng = random.Random(seed)
    world = DirectoryWorld(rng)
    for _ in range(STEPS):
        world.now_us += rng.choice((1000, 30_000, STEP_US, STEP_US))
        world.heartbeat()
        for node in list(world.nodes.values()):
            if rng.random() < 0.6:
                world.access(node)
            if rng.random() < (0.3 if node.name == "a" else 0.7):  # one is slow
                world.read(node, rng.randint(1, 2 if node.name == "a" else 4))
        for _ in range(4):
            world.deliver_report()
            world.deliver_message()
        if rng.random() < 0.5:
            world.decide(-1)
        if len(world.deciders) > 1 and rng.random() < 0.2:
            world.seen["zombie decided"] += 1
            world.decide(0, group=frozenset(rng.sample(NAMES, 2)))
        if rng.random() < 0.15:
            fault(world, rng)
        if rng.random() < 0.1:
            world.log.compact(world.log.end, world.now_us)
            world.seen["compacted"] += 1
        if world.deciders and rng.random() < 0.1:
            wanted = GrdAffinity(str(rng.choice(BLOCKS)), rng.choice(NAMES), 0, False, (), {}, "operator", 0)
            world.deciders[-1].decider.request(wanted)
        if not world.deciders:
            world.start_decider(keep_old=False)
    world.finish()
    return world


@pytest.mark.parametrize("share", [SEEDS[n : n + 250] for n in range(0, 1000, 250)], ids=str)
def test_random_histories_keep_every_promise(share: range) -> None:
    seen: Counter[str] = Counter()
    for seed in share:
        try:
            seen += simulate(seed).seen
        except BrokenPromiseError as error:
            pytest.fail(f"seed {seed}: {error}")
    assert seen.keys() >= HAPPENS, "the histories no longer hold what they are made for"


# -- planted bugs ------------------------------------------------------------------------------------


def epochs_begin_anew(patch: Patch) -> None:
    patch.setattr(decider, "next_epoch", lambda last, now_us: now_us // 1000)


def zombies_are_not_fenced(patch: Patch) -> None:
    append = Log.append

    def careless(self: Log, producer: int, records: list[GrdAffinity], now_us: int) -> bool:
        self.fencing = False
        return append(self, producer, records, now_us)

    patch.setattr(Log, "append", careless)


def the_epoch_of_members_is_ignored(patch: Patch) -> None:
    owner = Members.owner

    def careless(self: Members, block: BlockId, affinity: Affinity = HASHED) -> Owner:
        found = owner(self, block, affinity)
        return Owner(found.node, affinity.epoch) if affinity.epoch else found

    patch.setattr(Members, "owner", careless)


def the_epoch_of_the_block_is_ignored(patch: Patch) -> None:
    owner = Members.owner

    def careless(self: Members, block: BlockId, affinity: Affinity = HASHED) -> Owner:
        return Owner(owner(self, block, affinity).node, self.epoch)

    patch.setattr(Members, "owner", careless)


def masters_outlive_their_nodes(patch: Patch) -> None:
    owner = Members.owner

    def careless(self: Members, block: BlockId, affinity: Affinity = HASHED) -> Owner:
        found = owner(self, block, affinity)
        return Owner(affinity.master or found.node, found.epoch)

    patch.setattr(Members, "owner", careless)


def old_records_are_taken(patch: Patch) -> None:
    apply = Directory.apply

    def careless(self: Directory, block: BlockId, affinity: Affinity, now_us: int) -> Change | None:
        self._cold.put(block, affinity)
        return apply(self, block, affinity, now_us)

    patch.setattr(Directory, "apply", careless)


def owners_before_the_end_was_read(patch: Patch) -> None:
    patch.setattr(DirectoryWorld, "at_end", lambda self, node: True)


def holes_are_not_noticed(patch: Patch) -> None:
    patch.setattr(Directory, "suspend", lambda self, partition: None)


def stale_masters_are_believed(patch: Patch) -> None:
    patch.setattr(DirectoryWorld, "fresh", lambda self, node, message: True)


def placement_by_remainder(patch: Patch) -> None:
    patch.setattr(placement, "_slot_nodes", lambda nodes: [nodes[slot % len(nodes)] for slot in range(64)])


def entries_are_not_refreshed(patch: Patch) -> None:
    patch.setattr("pipeline.directory.tiers.Tiers.refresh", lambda self, block: None)


def frozen_for_ever(patch: Patch) -> None:
    patch.setattr("pipeline.directory.directory.FREEZE_US_MAX", 10**12)
    patch.setattr(directory_world, "FREEZE_US_MAX", 50_000)


def residency_is_ignored(patch: Patch) -> None:
    patch.setattr(verdicts, "resident", lambda activity, now_us, policy: False)
    patch.setattr(decider, "resident", lambda activity, now_us, policy: False)


def evictions_are_not_heard(patch: Patch) -> None:
    observe = Decider.observe

    def careless(self: Decider, report: GrdAccesses, now_us: int) -> None:
        blocks = tuple(replace(use, gone=False) for use in report.blocks)
        observe(self, replace(report, blocks=blocks), now_us)

    patch.setattr(Decider, "observe", careless)


def holders_outlive_their_nodes(patch: Patch) -> None:
    patch.setattr(verdicts, "_readers", lambda affinity, activity, rates, policy: tuple(sorted(activity.nodes)))


def own_decisions_are_forgotten(patch: Patch) -> None:
    load = Decider.load

    def careless(self: Decider, record: GrdAffinity) -> bool:
        last = self.last_epoch
        news = load(self, record)
        self.last_epoch = last
        return news

    patch.setattr(Decider, "load", careless)


BUGS = [
    epochs_begin_anew, zombies_are_not_fenced, the_epoch_of_members_is_ignored, the_epoch_of_the_block_is_ignored,
    masters_outlive_their_nodes, old_records_are_taken, owners_before_the_end_was_read,
    holes_are_not_noticed, stale_masters_are_believed, placement_by_remainder, entries_are_not_refreshed,
    frozen_for_ever, residency_is_ignored, own_decisions_are_forgotten, evictions_are_not_heard,
    holders_outlive_their_nodes,
]  # fmt: skip


@pytest.mark.parametrize("bug", BUGS, ids=[bug.__name__ for bug in BUGS])
def test_a_planted_bug_shows(bug: Callable[[Patch], None]) -> None:
    assert members.next_epoch(5, 0) == 6
    with pytest.MonkeyPatch.context() as patch:
        bug(patch)
        for seed in range(SEEDS_WITH_A_BUG):
            try:
                simulate(seed)
            except BrokenPromiseError:
                return
    pytest.fail(f"{SEEDS_WITH_A_BUG} histories did not show the bug")
