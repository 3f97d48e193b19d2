"""The limit of a record's transactions: full for a backlog, small while capture keeps up, calm in between."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.record_size import BACKLOG_S, FRESH_S, SIZE_MIN, RecordSize

MAXIMUM = 4000
RECORD_S, TRANSACTION_S = 0.005, 5e-6  # what the slowest stage needs: 200,000 a second at most, less with small records
LINGER_S = 0.02


def run(rate: Callable[[float], float], seconds: float, *, noise: float = 0.0, queued: float = 0.0) -> list[int]:
    """Arrivals against a reader that takes what is queued, up to the limit; returns the limit of each record."""
    size, dice = RecordSize(MAXIMUM), random.Random(1)
    now_s, limits = 1.0, list[int]()
    while now_s < 1 + seconds:
        taken = min(queued, size.limit)
        spent_s = max(LINGER_S if taken == queued else 0.0, RECORD_S + taken * TRANSACTION_S)
        per_second = rate(now_s - 1) * (1 + noise * dice.uniform(-1, 1))
        queued += per_second * spent_s - taken
        now_s += spent_s
        size.closed(queued / max(per_second, 1.0), int(now_s * 1e6))
        limits.append(size.limit)
    return limits


def test_it_begins_full_and_shrinks_where_there_is_no_backlog() -> None:
    size = RecordSize(MAXIMUM)
    assert size.limit == MAXIMUM
    for n in range(100):
        size.closed(0.01, int((1 + n * 0.1) * 1e6))
    assert size.limit == SIZE_MIN


def test_a_backlog_gets_full_records_at_once() -> None:
    size = RecordSize(MAXIMUM)
    for n in range(100):
        size.closed(0.01, int((1 + n * 0.1) * 1e6))
    size.closed(BACKLOG_S, int(11e6))
    assert size.limit == MAXIMUM
    assert "backlog" in size.control().reason
    assert size.changed_us == int(11e6)


@pytest.mark.parametrize("rate", [500, 5000, 20_000])
def test_small_records_while_they_keep_up(rate: float) -> None:
    limits = run(lambda _: rate, 20)
    assert set(limits[len(limits) // 2 :]) == {SIZE_MIN}


def test_a_step_that_small_records_can_not_carry_settles_without_swinging() -> None:
    assert 100_000 * (RECORD_S / SIZE_MIN + TRANSACTION_S) > 1, "or the step needs no larger records"
    limits = run(lambda at_s: 20_000 if at_s < 10 else 100_000, 40)
    late = limits[-len(limits) // 4 :]
    assert min(late) > SIZE_MIN
    assert max(late) < MAXIMUM
    assert max(late) - min(late) < 0.05 * max(late)
    # Of the two sizes it neither leaps over the one it comes to, nor back: at most a tenth more.
    assert max(limits[len(limits) // 2 :]) < 1.1 * max(late)


def test_a_ramp_is_followed_upwards_and_downwards() -> None:
    limits = run(lambda at_s: 20_000 + 120_000 * max(0.0, 1 - abs(at_s - 30) / 20), 70)
    limits = limits[limits.index(SIZE_MIN) :]  # it begins full
    peak = limits.index(max(limits))
    assert SIZE_MIN < max(limits) < MAXIMUM
    assert all(later > earlier - 60 for earlier, later in pairwise(limits[:peak]))
    assert all(later < earlier + 60 for earlier, later in pairwise(limits[peak:]))
    assert limits[-1] == SIZE_MIN


def test_under_noise_it_moves_little() -> None:
    limits = run(lambda _: 100_000, 60, noise=0.3)
    late = limits[len(limits) // 2 :]
    assert max(late) - min(late) < 0.4 * max(late)
    assert max(abs(later - earlier) for earlier, later in pairwise(late)) < 0.2 * max(late)


def test_a_backlog_is_drained_with_full_records() -> None:
    limits = run(lambda _: 5000, 20, queued=500_000)
    assert limits[:100] == [MAXIMUM] * 100
    assert limits[-1] == SIZE_MIN


def test_pauses_between_bursts_change_nothing() -> None:
    size = RecordSize(MAXIMUM)
    limits = list[int]()
    for n in range(200):
        size.closed(0.5 if n % 4 == 0 else FRESH_S, int((1 + n * 0.02) * 1e6))
        limits.append(size.limit)
    assert max(limits[20:]) - min(limits[20:]) < 0.2 * max(limits)


@given(st.integers(1, 10_000), st.lists(st.tuples(st.floats(-10, 1e6), st.floats(0, 10)), max_size=100))
def test_whatever_happens_it_stays_within_its_bounds(maximum: int, events: list[tuple[float, float]]) -> None:
    size, now_s = RecordSize(maximum), 1.0
    for age_s, pause_s in events:
        now_s += pause_s
        size.closed(age_s, int(now_s * 1e6))
        assert min(SIZE_MIN, maximum) <= size.limit <= maximum
