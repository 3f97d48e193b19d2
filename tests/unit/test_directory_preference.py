"""Which lane a set goes to when nodes master rows; and how accesses are counted."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from pipeline.directory.access_counter import BLOCKS_MAX, SAMPLES_MAX, AccessCounter
from pipeline.directory.block import BlockId, Owner, bucket_of, partition_of
from pipeline.directory.directory import Directory
from pipeline.directory.members import Affinity, Members
from pipeline.directory.preference import SLACK_TRANSACTIONS, LanePreference, in_turn
from pipeline.directory.recent_moves import KEPT, RecentMoves
from pipeline.lanes import LaneLoads
from schemas.apply_unit import LANES_MAX
from schemas.change_batch import ChangeBatch, Relation, Section
from schemas.packed import INT32
from tests.unit.golden import EXPECTED

RELATION = Relation(1, "public", "item", "d", ())


def key_of(bucket: int, buckets: int = 8) -> bytes:
    return next(key for key in (n.to_bytes(4, "big") for n in range(10_000)) if bucket_of(key, buckets) == bucket)


def batch(*rows: tuple[int, int]) -> ChangeBatch:
    """Rows as (transaction, bucket)."""
    keys = [key_of(bucket) for _, bucket in rows]
    count = len(rows)
    section = Section(
        RELATION, b"U" * count, array(INT32, [tx for tx, _ in rows]), array(INT32, range(count)), b"".join(keys),
        array(INT32, range(0, 4 * count + 4, 4)), b"", array(INT32, [0] * (count + 1)),
    )  # fmt: skip
    whole: ChangeBatch = EXPECTED["change_batch"]
    return replace(whole, stream="s", positions=array("q", range(1, 1 + max(tx for tx, _ in rows) + 1)),
                   sections=[section])  # fmt: skip


class EvenOdd:
    """Even buckets belong to node a, odd ones to b."""

    def __init__(self) -> None:
        self.names, self.moves, self.asked = "ab", RecentMoves(), 0

    def owner(self, block: BlockId) -> Owner:
        self.asked += 1
        return Owner(self.names[block.bucket % 2], 1)


def queued(*loads: int) -> LaneLoads:
    return dict(enumerate(loads))


def preference(lanes: Mapping[str, Sequence[int]]) -> LanePreference:
    return LanePreference("s", EvenOdd(), 8, lambda: lanes)


def test_a_set_goes_to_the_node_of_most_of_its_rows() -> None:
    prefer = preference({"a": (0, 2), "b": (1, 3)}).window(batch((0, 0), (1, 1), (2, 2), (2, 3), (2, 5)))
    assert prefer is not None
    assert prefer([0], queued(0, 0, 0, 0)) == 0
    assert prefer([0], queued(5, 0, 4, 0)) == 2
    assert prefer([1], queued(0, 9, 0, 10)) == 1
    assert prefer([0, 1, 2], queued(0, 0, 0, 0)) == 1


def test_one_node_prefers_nothing() -> None:
    assert preference({"a": (0, 1)}).window(batch((0, 0))) is None
    assert preference({}).window(batch((0, 0))) is None


def test_a_lane_that_is_far_behind_is_not_preferred() -> None:
    found = preference({"a": (0,), "b": (1,)})
    prefer = found.window(batch((0, 0)))
    assert prefer is not None
    assert prefer([0], queued(SLACK_TRANSACTIONS, 0)) == 0
    assert prefer([0], queued(SLACK_TRANSACTIONS + 1, 0)) is None
    assert (found.followed, found.overruled) == (1, 1)


def test_how_far_a_lane_is_behind_is_judged_by_the_emptiest_one_of_now() -> None:
    prefer = preference({"a": (0,), "b": (1,)}).window(batch((0, 0)))
    assert prefer is not None
    found = [prefer([0], queued(ours, theirs)) for ours, theirs in ((60, 0), (60, 8), (100, 40), (101, 40), (101, 41))]
    assert found == [None, 0, 0, None, 0]
    far = [prefer([0], queued(ours, 10_000)) for ours in (10_500, 10_501)]
    assert far == [0, None]


def test_a_master_that_has_changed_counts_from_the_next_window_on() -> None:
    masters = EvenOdd()
    found = LanePreference("s", masters, 8, lambda: {"a": (0,), "b": (1,)})
    rows = batch((0, 0), (1, 1))

    def chosen() -> list[int | None]:
        prefer = found.window(rows)
        assert prefer is not None
        return [prefer([number], queued(0, 0)) for number in (0, 1)]

    assert chosen() == chosen() == [0, 1]
    assert masters.asked == 2, "masters are remembered"
    masters.names = "bb"
    masters.moves.add(BlockId("s", "public", "item", 0))
    masters.moves.add(BlockId("s", "public", "other", 1))
    masters.moves.add(BlockId("another stream", "public", "item", 1))
    assert chosen() == [1, 1]
    assert masters.asked == 3, "only the one that has moved is asked for"
    masters.names = "ba"
    assert chosen() == [1, 1]
    masters.moves.add(None)
    assert chosen() == [1, 0], "all are asked for"


def test_a_reader_of_moves_is_told_each_or_that_it_does_not_know() -> None:
    moves = RecentMoves()
    blocks = [BlockId("s", "public", "item", n) for n in range(3 * KEPT)]
    for before in (0, KEPT - 1, KEPT):
        start = moves.version
        for block in blocks[:before]:
            moves.add(block)
        assert moves.since(start) == (start + before, blocks[:before] if before < KEPT else None)
    assert moves.since(moves.version) == (moves.version, [])
    moves.add(None)
    moves.add(blocks[0])
    assert moves.since(moves.version - 2)[1] is None
    assert moves.since(moves.version - 1)[1] == [blocks[0]]


def test_a_slot_that_is_written_while_it_is_read_is_not_believed() -> None:
    moves = RecentMoves()
    block, other = BlockId("s", "public", "item", 0), BlockId("s", "public", "item", 1)
    for _ in range(KEPT - 1):
        moves.add(block)

    class Overtaken(list[BlockId | None]):
        """The writer comes around while a reader is at its first slot."""

        def __getitem__(self, index: object) -> Any:
            if not reading:
                reading.append(True)
                moves.add(other)
                moves.add(other)
            return super().__getitem__(cast(int, index))

    reading: list[bool] = []
    moves._slots = Overtaken(moves._slots)
    assert moves.since(0) == (KEPT - 1, None)


def test_votes_of_many_rows_and_nodes_do_not_run_into_each_other() -> None:
    rows = [(0, 0)] * 300 + [(0, 1)] * 299 + [(1, 1)] * 2
    prefer = preference({"a": (0,), "b": (1,)}).window(batch(*rows))
    assert prefer is not None
    assert [prefer(found, queued(0, 0)) for found in ([0], [1], [0, 1])] == [0, 1, 1]


def test_lanes_that_are_not_active_are_not_preferred() -> None:
    prefer = preference({"a": (0,), "b": (3,)}).window(batch((0, 1)))
    assert prefer is not None
    assert prefer([0], queued(0, 0)) is None


def test_any_number_of_active_lanes_is_spread_over_the_nodes() -> None:
    for nodes in range(1, 7):
        runs = [tuple(range(n * LANES_MAX // nodes, (n + 1) * LANES_MAX // nodes)) for n in range(nodes)]
        lanes = dict(zip("xyzabc", runs, strict=False))
        order = in_turn(lanes)
        assert sorted(order) == list(range(LANES_MAX))
        assert order[0] == 0
        for active in range(1, LANES_MAX + 1):
            counts = [len(set(own) & set(order[:active])) for own in lanes.values()]
            assert max(counts) - min(counts) <= 1 or active > nodes * min(map(len, lanes.values()))


def test_the_order_of_lanes_has_each_lane_once_whatever_the_group_says() -> None:
    assert in_turn({}) == tuple(range(LANES_MAX))
    assert in_turn({"a": (5, 6), "b": (5, 99), "c": ()})[:4] == (0, 5, 6, 1)
    assert in_turn({"a": (8, 9), "b": (0, 1)})[:4] == (0, 8, 1, 9)


def test_four_lanes_of_two_nodes_are_preferred_by_both() -> None:
    found = preference({"a": tuple(range(8)), "b": tuple(range(8, 16))})
    active = list(found.lane_order())[:4]
    prefer = found.window(batch((0, 0), (1, 1)))
    assert prefer is not None
    loads = dict.fromkeys(active, 0)
    assert (prefer([0], loads), prefer([1], loads)) == (0, 8)
    assert (found.followed, found.overruled) == (2, 0)


# -- counting ----------------------------------------------------------------------------------------


def test_accesses_are_reported_once_each_partition_its_own() -> None:
    counter = AccessCounter("a", 8)
    counter.wrote("s", batch((0, 1), (1, 1), (1, 2)).sections[0])
    counter.read(BlockId("s", "public", "item", 1))
    found = counter.reports(4, 77)
    assert {(use.block, use.reads, use.writes) for report in found.values() for use in report.blocks} == {
        ("s/public/item/1", 1, 2), ("s/public/item/2", 0, 1),
    }  # fmt: skip
    for partition, report in found.items():
        assert (report.node, report.time_us) == ("a", 77)
        assert all(partition_of(BlockId.parse(use.block), 4) == partition for use in report.blocks)
    assert counter.reports(4, 78) == {}


def test_large_sections_are_sampled_with_weights() -> None:
    counter = AccessCounter("a", 8)
    rows = 10 * SAMPLES_MAX
    counter.wrote("s", batch(*((0, n % 2) for n in range(rows))).sections[0])
    total = sum(use.writes for report in counter.reports(4, 0).values() for use in report.blocks)
    assert 0.95 * rows <= total <= 1.05 * rows


def test_what_is_counted_is_bounded() -> None:
    counter = AccessCounter("a", 8)
    for bucket in range(BLOCKS_MAX + 100):
        counter.read(BlockId("s", "public", "item", bucket))
    assert len(counter._counts) == BLOCKS_MAX


@given(st.lists(st.tuples(st.sampled_from("mjsc"), st.integers(0, 5), st.sampled_from(["", "a", "b", "c"]))))
def test_masters_remembered_by_moves_are_those_of_the_directory(steps: list[tuple[str, int, str]]) -> None:
    directory = Directory()
    blocks = [BlockId("s", "public", "item", n) for n in range(6)]
    known: dict[BlockId, str] = {}
    version = directory.moves.version
    for epoch, (what, bucket, node) in enumerate(steps, 1):
        if what == "m":
            directory.apply(blocks[bucket], Affinity(node, epoch), epoch)
        elif what == "j":
            directory.join(Members({"a", node or "b"}, epoch))
        elif what == "s":
            directory.suspend(0)
        else:
            directory.catch_up()
        version, moved = directory.moves.since(version)
        for block in known if moved is None else moved:
            known[block] = directory.owner(block).node
        for block in blocks:
            assert directory.owner(block).node == known.setdefault(block, directory.owner(block).node)
