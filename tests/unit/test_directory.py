"""The directory of a process: tiers, packed entries, members, freezing."""

from __future__ import annotations

import random
from collections import OrderedDict
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.directory.block import BlockId, Owner, partition_of
from pipeline.directory.directory import FREEZE_US_MAX, FROZEN_MAX, Directory
from pipeline.directory.following import LATE_US, take
from pipeline.directory.members import HASHED, Affinity, Members, next_epoch
from pipeline.directory.pages import EPOCH_BITS, ColdTier
from schemas.grd_affinity import EPOCH_MAX, MEMBERS, GrdAffinity


def block(bucket: int, table: str = "item") -> BlockId:
    return BlockId("s", "public", table, bucket)


def directory(nodes: str = "abc", entries_max: int = 100) -> Directory:
    made = Directory(entries_max=entries_max)
    made.join(Members(nodes, 1))
    made.catch_up()
    return made


# -- the cold tier -----------------------------------------------------------------------------------

AFFINITIES = st.builds(
    Affinity, st.sampled_from(["", "a", "b", "c"]), st.integers(1, (1 << EPOCH_BITS) - 1), st.booleans(),
    st.lists(st.sampled_from("abc"), unique=True).map(tuple),
)  # fmt: skip
BLOCKS = st.builds(block, st.integers(0, 2000) | st.integers(0, 2**31 - 1), st.sampled_from(["item", "line"]))


@given(st.lists(st.tuples(BLOCKS, AFFINITIES), max_size=30))
def test_packed_entries_come_back_as_they_were(puts: list[tuple[BlockId, Affinity]]) -> None:
    cold, expected = ColdTier(), dict(puts)
    for key, affinity in puts:
        cold.put(key, affinity)
    assert dict(cold.items()) == expected
    assert cold.blocks == len(expected)
    assert all(cold.get(key) == affinity for key, affinity in expected.items())
    assert cold.get(block(3_000_000)) == HASHED


@pytest.mark.parametrize("epoch", [0, -1, 1 << EPOCH_BITS])
def test_an_epoch_beyond_its_bits_is_refused(epoch: int) -> None:
    with pytest.raises(ValueError, match="epoch"):
        ColdTier().put(block(1), Affinity("a", epoch))
    assert EPOCH_MAX == (1 << EPOCH_BITS) - 1


# -- the ready tiers ---------------------------------------------------------------------------------


def hits(trace: list[int], capacity: int) -> tuple[int, int]:
    """Hits of the tiers and of an LRU list of the same size."""
    made, lru, lru_hits = directory(entries_max=capacity), OrderedDict[int, None](), 0
    for number, bucket in enumerate(trace):
        made.owner(block(bucket))
        if number % 8 == 0:
            made.settle(0)
        lru_hits += bucket in lru
        lru[bucket] = None
        lru.move_to_end(bucket)
        if len(lru) > capacity:
            lru.popitem(last=False)
    return made.lookups.ready, lru_hits


def zipf(count: int, rng: random.Random) -> list[int]:
    return rng.choices(range(5000), cum_weights=list(accumulate(1 / n for n in range(1, 5001))), k=count)


def test_more_hits_than_an_lru_list() -> None:
    tiers, lru = hits(zipf(30_000, random.Random(1)), 250)
    assert tiers > lru


def test_a_scan_does_not_push_out_what_is_used() -> None:
    rng = random.Random(2)
    trace = [each for n in range(20) for each in [*zipf(1000, rng), *range(10_000 + 500 * n, 10_500 + 500 * n)]]
    tiers, lru = hits(trace, 250)
    assert tiers > 1.1 * lru


def test_ready_entries_are_bounded_and_follow_changes() -> None:
    made = directory(entries_max=50)
    for n in range(2000):
        made.owner(block(n % 70))
        made.settle(0)
        made.owner(block(n % 70 if n % 3 else n % 7))
        if n % 10 == 0:
            made.apply(block(n % 70), Affinity("abc"[n % 3], 10 + n), 0)
        assert len(list(made.tiers.entries())) <= 50
    assert made.tiers.promoted
    assert made.tiers.demoted
    for n in range(70):
        key = block(n)
        assert made.owner(key) == made.members(key).owner(key, made.affinity(key))


# -- owners ------------------------------------------------------------------------------------------


def test_older_records_change_nothing() -> None:
    made = directory()
    assert made.apply(block(1), Affinity("b", 9), 0) is not None
    assert made.apply(block(1), Affinity("c", 9), 0) is None
    assert made.apply(block(1), Affinity("c", 8), 0) is None
    assert made.owner(block(1)) == Owner("b", 9)


def test_a_master_that_left_gives_way_to_the_hash_and_epochs_grow() -> None:
    made = directory()
    made.apply(block(1), Affinity("b", 9), 0)
    seen = [made.owner(block(1))]
    for nodes, epoch in (("ac", 10), ("abc", 11), ("c", 12)):
        made.join(Members(nodes, epoch))
        seen.append(made.owner(block(1)))
    assert [owner.epoch for owner in seen] == [9, 10, 11, 12]
    assert seen[1].node in "ac"
    assert [seen[0].node, seen[2].node, seen[3].node] == ["b", "b", "c"]


def test_partitions_have_members_of_their_own() -> None:
    made = Directory(partitions=8)
    keys = [block(n) for n in range(100)]
    made.join(Members("a", 5), partition_of(keys[0], 8))
    assert {made.owner(key) for key in keys} == {Owner("", 0)}
    assert not made.ready
    for partition in range(8):
        made.catch_up(partition)
    assert made.ready
    assert made.owner(keys[0]) == Owner("a", 5)
    assert {made.owner(key) for key in keys} == {Owner("a", 5), Owner("", 0)}


def test_a_late_reader_has_no_owners_until_it_is_at_the_end() -> None:
    made = directory()
    record = GrdAffinity(str(block(1)), "b", 9, False, ())
    take(made, 0, record, written_us=0, now_us=LATE_US + 1)
    assert made.owner(block(1)) == Owner("", 9)
    take(made, 0, GrdAffinity(MEMBERS, "", 10, False, ("a", "b")), written_us=LATE_US, now_us=LATE_US + 1)
    assert made.owner(block(2)).node == ""
    made.catch_up()
    assert made.owner(block(1)) == Owner("b", 10)


@pytest.mark.parametrize(("last", "now_us", "epoch"), [(0, 5000, 5), (7, 5000, 8), (4, 5000, 5), (5, 5000, 6)])
def test_epochs_tell_the_time_and_never_repeat(last: int, now_us: int, epoch: int) -> None:
    assert next_epoch(last, now_us) == epoch


# -- freezing ----------------------------------------------------------------------------------------


def test_a_move_freezes_its_block_alone_and_not_for_long() -> None:
    made = directory()
    before = made.owner(block(1)).node
    other = next(node for node in "abc" if node != before)
    made.apply(block(1), Affinity(other, 5), 1000)
    assert made.frozen(block(1), 1000)
    assert not made.frozen(block(2), 1000)
    assert not made.frozen(block(1), 1000 + FREEZE_US_MAX)
    made.thaw(block(1))
    assert not made.frozen(block(1), 1000)


def test_a_record_without_a_new_master_freezes_nothing() -> None:
    made = directory()
    made.apply(block(1), Affinity(made.owner(block(1)).node, 5), 0)
    assert not made.frozen(block(1), 0)


def test_frozen_blocks_are_bounded_and_forgotten() -> None:
    made = directory("ab")
    for n in range(3 * FROZEN_MAX):
        other = "b" if made.owner(block(n)).node == "a" else "a"
        made.apply(block(n), Affinity(other, 5), 0)
    assert len(made._frozen) == FROZEN_MAX
    made.settle(FREEZE_US_MAX)
    assert not made._frozen
