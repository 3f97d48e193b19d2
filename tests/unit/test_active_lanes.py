"""The number of active lanes follows how many units wait for each other."""

from __future__ import annotations

import itertools
import random

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
