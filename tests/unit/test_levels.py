"""Levels of lag: raised after a hold, lowered after a longer one, and quiet about a threshold."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from pipeline.levels import LEVELS, LevelWatch, Thresholds

THRESHOLDS = Thresholds(5, 30, 120, hold_s=5, clear_s=30)


def changes(lags_s: Iterable[float], watch: LevelWatch | None = None) -> list[tuple[float, str]]:
    """(second, level) of each change when one lag is seen a second."""
    watch = watch or LevelWatch(THRESHOLDS)
    seen = [watch.observe(float(second), lag_s) for second, lag_s in enumerate(lags_s)]
    return [(change.time_s, change.after) for change in seen if change is not None]


def test_a_step_is_raised_once_it_was_held() -> None:
    assert changes([0.1] * 3 + [200] * 20) == [(8, "critical")]


def test_a_spike_shorter_than_the_hold_changes_nothing() -> None:
    assert changes(([0.1] * 10 + [500] * 5) * 4) == []


def test_a_ramp_goes_through_all_levels_and_back_through_none_too_early() -> None:
    up = changes([float(n) for n in range(200)])
    assert [level for _, level in up] == ["warning", "alarm", "critical"]
    assert [second for second, _ in up] == [10, 35, 125]


def test_a_raise_goes_to_the_level_that_was_held_and_not_to_the_peak() -> None:
    assert changes([6, 6, 500, 500, 6, 6]) == [(5, "warning")]


def test_a_level_is_lowered_to_the_highest_seen_while_it_cleared() -> None:
    watch = LevelWatch(THRESHOLDS)
    changes([200] * 6, watch)
    assert watch.level == "critical"
    seen = [watch.observe(float(second), 40 if second == 20 else 1) for second in range(6, 40)]
    assert [change.after for change in seen if change] == ["alarm"]


def test_a_lag_a_little_below_its_threshold_keeps_the_level() -> None:
    watch = LevelWatch(THRESHOLDS)
    assert changes([31] * 6 + [25] * 500, watch) == [(5, "alarm")]
    assert changes([23.9] * 31, watch) == [(30, "warning")]


@given(st.lists(st.floats(24.01, 40), min_size=1, max_size=300))
def test_a_lag_that_swings_about_a_threshold_changes_at_most_once(lags_s: list[float]) -> None:
    watch = LevelWatch(THRESHOLDS)
    changes([20] * 6, watch)
    assert watch.level == "warning"
    found = [watch.observe(6 + second, lag_s) for second, lag_s in enumerate(lags_s)]
    assert len([change for change in found if change]) <= 1


@given(st.lists(st.floats(0, 1000), max_size=300))
def test_changes_join_up_and_keep_their_distance(lags_s: list[float]) -> None:
    watch = LevelWatch(THRESHOLDS)
    found = [change for n, lag_s in enumerate(lags_s) if (change := watch.observe(float(n), lag_s))]
    before = "ok"
    for change in found:
        assert change.before == before != change.after
        before = change.after
        assert change.after in LEVELS
    for one, other in itertools.pairwise(found):
        falling = LEVELS.index(other.after) < LEVELS.index(other.before)
        assert other.time_s - one.time_s >= (THRESHOLDS.clear_s if falling else THRESHOLDS.hold_s)
