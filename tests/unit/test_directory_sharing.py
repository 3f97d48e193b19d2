"""Who holds copies of what is shared, and for how long."""

from __future__ import annotations

import pytest

from pipeline.directory.access_counter import AccessCounter
from pipeline.directory.activity import HALF_LIFE_US, Activity
from pipeline.directory.block import BlockId
from pipeline.directory.decider import SWEEP_US, UNUSED, Decider
from pipeline.directory.members import HASHED, Affinity
from pipeline.directory.verdicts import DEFAULT, Verdict, judge
from schemas.grd_accesses import BlockAccesses, GrdAccesses
from schemas.grd_affinity import GrdAffinity

NODES = frozenset("abc")
SECOND_US = 1_000_000
START_US = 1_700_000_000 * SECOND_US
BLOCK = BlockId("s", "public", "item", 1)
SHARED = Affinity("a", 5, read_mostly=True, holders=("a", "b"))


def reading(**reads: float) -> Activity:
    """Reads a second by node, for long."""
    made = Activity(at_us=START_US)
    for node, rate in reads.items():
        made.note(node, 0, 0, START_US)
        made.nodes[node].reads = rate * HALF_LIFE_US / 1e6 / 0.6931
    return made


def judged(owner: str, affinity: Affinity, activity: Activity) -> Verdict | None:
    return judge(owner, affinity, activity, NODES, ("", 0.0), START_US)


def test_a_few_reads_by_others_make_nobody_a_holder() -> None:
    assert judged("a", HASHED, reading(a=0.3, b=0.09)) is None
    found = judged("a", HASHED, reading(a=0.3, b=0.11))
    assert found is not None
    assert found.holders == ("a", "b")


def test_what_is_shared_goes_to_who_reads_it_most_by_the_margin() -> None:
    found = judged("a", SHARED, reading(a=10.0, b=14.0, c=12.0))
    assert found is not None
    assert (found.master, found.read_mostly, found.holders) == ("b", True, ("a", "b", "c"))
    assert judged("a", SHARED, reading(a=10.0, b=12.0)) is None


def test_a_holder_that_reads_half_as_much_as_it_takes_to_become_one_is_one_no_more() -> None:
    assert judged("a", SHARED, reading(a=10.0, b=0.6)) is None
    found = judged("a", SHARED, reading(a=10.0, b=0.5))
    assert found is not None
    assert (found.master, found.holders) == ("a", ("a",))


def test_a_holder_that_has_evicted_the_block_is_one_no_more_and_again_once_it_reads() -> None:
    activity = reading(a=10.0, b=9.0)
    activity.note("b", 0, 0, START_US, gone=True)
    found = judged("a", SHARED, activity)
    assert found is not None
    assert found.holders == ("a",)
    activity.told_us = START_US - DEFAULT.residency_us + 1
    assert judged("a", SHARED, activity) is None, "told of lately"
    activity.told_us -= 1
    activity.note("b", 1, 0, START_US)
    found = judged("a", Affinity("a", 6, read_mostly=True, holders=("a",)), activity)
    assert found is not None
    assert found.holders == ("a", "b")


# -- the decider -------------------------------------------------------------------------------------


@pytest.fixture
def decider() -> Decider:
    """One that knows of a block shared by a and b."""
    made = Decider()
    made.directory.catch_up()
    for record in made.set_members("abc", START_US):
        made.load(record)
    made.load(GrdAffinity(str(BLOCK), "a", made.last_epoch + 1, True, ("a", "b")))
    return made


def report(made: Decider, now_us: int, **uses: BlockAccesses) -> None:
    for node, use in uses.items():
        made.observe(GrdAccesses(node, now_us, (use,)), now_us)


def test_reports_of_evictions_change_holders(decider: Decider) -> None:
    now_us = START_US + 60 * SECOND_US
    report(decider, now_us, a=BlockAccesses(str(BLOCK), 50, 0), b=BlockAccesses(str(BLOCK), 50, 0))
    assert not decider.decide(now_us)
    report(decider, now_us, b=BlockAccesses(str(BLOCK), 0, 0, gone=True))
    record = decider.decide(now_us)[0]
    assert (record.master, record.read_mostly, record.holders) == ("a", True, ("a",))


def test_an_eviction_of_what_is_not_tracked_changes_nothing(decider: Decider) -> None:
    report(decider, START_US, b=BlockAccesses(str(BLOCK), 0, 0, gone=True))
    assert not decider.decide(START_US)


def test_what_is_used_no_more_is_shared_no_more(decider: Decider) -> None:
    assert not decider.decide(START_US), "a decider that begins does not know yet what is used"
    few = BlockAccesses(str(BLOCK), 5, 0)
    report(decider, START_US + SWEEP_US, a=few, b=few)
    assert not decider.decide(START_US + SWEEP_US)
    record = decider.decide(START_US + 2 * SWEEP_US)[0]
    assert (record.master, record.read_mostly, record.holders, record.reason) == ("a", False, (), UNUSED)
    decider.load(record)
    assert not decider.decide(START_US + 3 * SWEEP_US)


# -- the counter -------------------------------------------------------------------------------------


def test_evictions_are_told_with_the_reads_before_them() -> None:
    counter = AccessCounter("a", 8)
    other, third = BLOCK._replace(bucket=2), BLOCK._replace(bucket=3)
    for block in (BLOCK, other):
        counter.read(block)
        counter.evicted(block)
    counter.read(other)  # and has it again
    counter.evicted(third)
    found = counter.reports(1, 7)[0].blocks
    assert set(found) == {
        BlockAccesses(str(BLOCK), 1, 0, gone=True), BlockAccesses(str(other), 2, 0),
        BlockAccesses(str(third), 0, 0, gone=True),
    }  # fmt: skip
    assert not counter.reports(1, 8)
