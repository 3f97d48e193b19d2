"""The number of active lanes follows how many units wait for each other, and what the target applies."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.active_lanes import PROBE_WINDOWS_MIN, SETTLE_WINDOWS, ActiveLanes


def _run(active: ActiveLanes, windows: int, waiting_share: float, seed: int = 1) -> list[int]:
    """Counts over `windows` windows in which each unit of several waits with the given probability."""
    rng = random.Random(seed)
    counts = []
    for _ in range(windows):
        units = active.count
        waiting = sum(rng.random() < waiting_share for _ in range(units)) if units > 1 else 0
        active.observe(units, waiting)
        counts.append(active.count)
    return counts


def test_a_chain_ends_in_one_lane() -> None:
    active = ActiveLanes(8)
    counts = _run(active, 8 * SETTLE_WINDOWS, 0.9)
    assert counts[-1] == 1
    assert sorted(set(counts), reverse=True) == [8, 4, 2, 1]


def test_independent_work_keeps_all_lanes() -> None:
    assert set(_run(ActiveLanes(16), 1000, 0.0)) == {16}


def test_lanes_come_back_when_the_work_becomes_independent() -> None:
    active = ActiveLanes(4)
    _run(active, 8 * SETTLE_WINDOWS, 1.0)
    assert active.count == 1
    _run(active, 2 * PROBE_WINDOWS_MIN + 8 * SETTLE_WINDOWS, 0.0)
    assert active.count == 4


def test_a_second_lane_is_tried_ever_less_often_where_it_never_helps() -> None:
    active = ActiveLanes(4)
    counts = _run(active, 20_000, 1.0)
    tried = [n for n in range(1, len(counts)) if counts[n - 1] == 1 and counts[n] == 2]
    pauses = [later - earlier for earlier, later in itertools.pairwise(tried)]
    assert pauses == sorted(pauses)
    assert sum(count == 1 for count in counts) > 0.95 * len(counts)


def test_a_share_between_the_limits_changes_nothing() -> None:
    active = ActiveLanes(4)
    counts = set()
    for _ in range(2000):
        active.observe(units=20, waiting=3)
        counts.add(active.count)
    assert counts == {4}


def test_one_lane_stays_one() -> None:
    assert set(_run(ActiveLanes(1), 2000, 0.0)) == {1}


# -- throughput --------------------------------------------------------------------------------------


def _drain(
    active: ActiveLanes, rate_of: Callable[[int], float], seconds: float, *, noise: float = 0.05, seed: int = 1,
    start_s: float = 0, waiting: float = 0.0,
) -> list[int]:  # fmt: skip
    """Counts, a tenth of a second each, while a backlog is applied at `rate_of(lanes)` transactions a second."""
    rng = random.Random(seed)
    applied, counts = 0.0, []
    for n in range(int(seconds * 10)):
        applied += rate_of(active.count) / 10 * rng.uniform(1 - noise, 1 + noise)
        active.measure(int((start_s + n / 10) * 1e6), int(applied), backlog=True)
        for _ in range(4):
            active.observe(active.count, round(active.count * waiting))
        counts.append(active.count)
    return counts


class NaiveLanes:
    """One lane more while the rate rises, one fewer while it falls."""

    def __init__(self, lanes_max: int) -> None:
        self.count, self._max, self._rate, self._step = lanes_max, lanes_max, 0.0, -1

    def observe(self, rate: float) -> None:
        if rate < self._rate:
            self._step = -self._step
        self._rate = rate
        self.count = min(self._max, max(1, self.count + self._step))


@pytest.mark.parametrize("best", [1, 2, 4, 8, 16])
def test_the_number_of_lanes_that_applies_most_is_found(best: int) -> None:
    active = ActiveLanes(16)
    counts = _drain(active, lambda lanes: 10_000 / (1 + abs(math.log2(lanes / best))), 200)
    late = counts[500:]
    assert sum(count == best for count in late) > 0.8 * len(late)
    assert "transactions/s" in active.reason or best == 16


def test_lanes_that_make_no_difference_are_given_up() -> None:
    counts = _drain(ActiveLanes(8), lambda _: 20_000.0, 60)
    assert sum(counts[200:]) / len(counts[200:]) < 1.5


def test_more_lanes_have_to_be_worth_it() -> None:
    counts = _drain(ActiveLanes(8), lambda lanes: {1: 5000.0, 2: 10_000.0}.get(lanes, 10_200.0), 100, noise=0.0)
    assert sum(count == 2 for count in counts[200:]) > 0.8 * len(counts[200:])


def test_trials_become_rare_where_nothing_is_better() -> None:
    counts = _drain(ActiveLanes(4), lambda lanes: {1: 5000.0, 2: 10_000.0, 4: 5000.0}.get(lanes, 7000.0), 600)
    changes = [n for n in range(1, len(counts)) if counts[n] != counts[n - 1]]
    assert len([n for n in changes if n >= 3000]) <= 10
    rng, naive, moves, before = random.Random(1), NaiveLanes(4), 0, 4
    for _ in range(300):  # as many decisions as there are trials of a second
        naive.observe({1: 5000.0, 2: 10_000.0, 4: 5000.0}.get(naive.count, 7000.0) * rng.uniform(0.95, 1.05))
        moves, before = moves + (naive.count != before), naive.count
    assert moves > 200, "the naive rule never stands still"


def test_a_target_that_becomes_far_gets_its_lanes_back() -> None:
    active = ActiveLanes(8)
    _drain(active, lambda _: 20_000.0, 30)
    assert active.count <= 2
    counts = _drain(active, lambda lanes: 1000.0 * lanes, 120, start_s=30)
    assert counts[-1] == 8


def test_without_a_backlog_nothing_is_tried() -> None:
    active = ActiveLanes(4)
    for n in range(1000):
        active.measure(n * 100_000, n * 10, backlog=False)
    assert active.count == 4


@given(
    st.integers(1, 16), st.lists(st.tuples(st.integers(0, 16), st.integers(0, 16), st.integers(0, 9999)), max_size=300)
)
def test_whatever_is_observed_the_count_stays_within_its_bounds(
    lanes_max: int, events: list[tuple[int, int, int]]
) -> None:
    active, applied = ActiveLanes(lanes_max), 0
    for n, (units, waiting, more) in enumerate(events):
        applied += more
        active.measure(n * 300_000, applied, backlog=bool(more))
        active.observe(units, min(units, waiting))
        assert 1 <= active.count <= lanes_max
