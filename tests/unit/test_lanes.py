"""Choosing lanes: dependents queue behind what they depend on, the rest is spread by load."""

from __future__ import annotations

import random

import pytest

from pipeline.inflight import LaneSeqs
from pipeline.lanes import GRAIN_TRANSACTIONS, LaneLoads, assign


def sets(*sizes: int) -> dict[int, list[int]]:
    """Independent sets of the given sizes, named by their first transaction."""
    found: dict[int, list[int]] = {}
    first = 0
    for size in sizes:
        found[first] = list(range(first, first + size))
        first += size
    return found


def queued(*loads: int) -> LaneLoads:
    """As many active lanes, from 0 on, with so many transactions each."""
    return dict(enumerate(loads))


def test_a_set_that_depends_on_one_lane_goes_there_without_waiting() -> None:
    lane_of, waits = assign(sets(1, 1), {0: {2: 7}}, queued(0, 0, 100))
    assert lane_of[0] == 2
    assert waits[2] == {}
    assert lane_of[1] != 2


def test_a_set_that_depends_on_several_goes_to_the_fullest_and_waits_for_the_others() -> None:
    lane_of, waits = assign(sets(1), {0: {0: 3, 1: 9, 2: 5}}, queued(10, 80, 40))
    assert lane_of == {0: 1}
    assert waits == {1: {0: 3, 2: 5}}


def test_waits_of_sets_in_one_unit_are_joined_at_their_highest() -> None:
    dependencies: dict[int, LaneSeqs] = {0: {0: 3, 1: 9}, 1: {1: 4, 0: 8}, 2: {1: 1, 2: 2}}
    lane_of, waits = assign(sets(1, 1, 1), dependencies, queued(0, 90, 0))
    assert set(lane_of.values()) == {1}
    assert waits == {1: {0: 8, 2: 2}}


def test_a_lane_that_is_no_longer_active_gets_nothing_more() -> None:
    lane_of, waits = assign(sets(1, 1), {0: {5: 1}, 1: {5: 1, 0: 2}}, queued(9, 0))
    assert lane_of == {0: 1, 1: 0}
    assert waits == {1: {5: 1}, 0: {5: 1}}


def test_small_windows_stay_in_one_lane() -> None:
    lane_of, _ = assign(sets(*[1] * (2 * GRAIN_TRANSACTIONS - 1)), {}, queued(*[0] * 8))
    assert len(set(lane_of.values())) == 1


def test_the_first_active_lane_need_not_have_the_lowest_number() -> None:
    lane_of, _ = assign(sets(1, 1), {1: {1: 3}}, {0: 80, 9: 0, 3: 0})
    assert lane_of == {0: 9, 1: 9}


def test_wide_windows_are_spread_by_load() -> None:
    loads = queued(0, 2 * GRAIN_TRANSACTIONS, 0, 0)
    lane_of, _ = assign(sets(*[1] * 3 * GRAIN_TRANSACTIONS), {}, loads)
    shares = [sum(lane == of for of in lane_of.values()) for lane in range(4)]
    assert shares == [GRAIN_TRANSACTIONS, 0, GRAIN_TRANSACTIONS, GRAIN_TRANSACTIONS]
    assert list(loads.values()) == [GRAIN_TRANSACTIONS, 2 * GRAIN_TRANSACTIONS, GRAIN_TRANSACTIONS, GRAIN_TRANSACTIONS]


@pytest.mark.parametrize(("wanted", "lane"), [(1, 1), (2, 2), (None, 0), (3, 0), (99, 0)])
def test_a_preference_for_an_active_lane_is_followed(wanted: int | None, lane: int) -> None:
    asked: list[list[int]] = []

    def prefer(transactions: list[int], loads: LaneLoads) -> int | None:
        asked.append(transactions)
        return wanted

    lane_of, _ = assign(sets(2), {}, queued(0, 0, 0), prefer)
    assert lane_of == {0: lane}
    assert asked == [[0, 1]]


def test_a_dependence_comes_before_a_preference() -> None:
    lane_of, _ = assign(sets(1), {0: {2: 1}}, queued(0, 0, 0), lambda _, loads: 1)
    assert lane_of == {0: 2}


@pytest.mark.parametrize("seed", range(30))
def test_every_set_gets_a_lane_and_every_dependence_is_kept(seed: int) -> None:
    rng = random.Random(seed)
    components = sets(*(rng.randint(1, 40) for _ in range(rng.randint(1, 20))))
    active = rng.randint(1, 8)
    dependencies = {
        name: {lane: rng.randint(1, 9) for lane in rng.sample(range(8), rng.randint(1, 3))}
        for name in components
        if rng.random() < 0.5
    }
    before = {lane: rng.randint(0, 500) for lane in rng.sample(range(8), active)}
    loads = dict(before)
    lane_of, waits = assign(components, dependencies, loads)
    assert lane_of.keys() == components.keys()
    for name, seqs in dependencies.items():
        lane = lane_of[name]
        assert all(other == lane or waits[lane][other] >= seq for other, seq in seqs.items())
    assert all(lane not in others for lane, others in waits.items())
    for lane in before:
        assert loads[lane] - before[lane] == sum(len(components[name]) for name, of in lane_of.items() if of == lane)
