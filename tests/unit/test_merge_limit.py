"""The merge limit against a simulated target: bounded, settles where commits take long enough, does not swing."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.merge_limit import LIMIT_MIN, MergeLimit

MAXIMUM, WANTED_S = 4000, 0.5


class NaiveLimit:
    """A fifth more after a quick commit, a fifth less after a slow one."""

    def __init__(self) -> None:
        self.limit = MAXIMUM

    def observe(self, transactions: int, commit_s: float, now_us: int, *, limited: bool) -> None:
        factor = 0.8 if commit_s > WANTED_S else 1.2
        self.limit = int(min(MAXIMUM, max(LIMIT_MIN, self.limit * factor)))


def run(
    limit: MergeLimit | NaiveLimit, cost: Callable[[int, int], float], commits: int = 600, seed: int = 1,
    noise: float = 0.1,
) -> list[tuple[int, float]]:  # fmt: skip
    """(limit, seconds) of each commit against a target where `cost(commit, transactions)` is the time."""
    rng = random.Random(seed)
    found = []
    for n in range(commits):
        taken_s = cost(n, limit.limit) * rng.uniform(1 - noise, 1 + noise)
        found.append((limit.limit, taken_s))
        limit.observe(limit.limit, taken_s, n, limited=True)
    return found


def turns(found: list[tuple[int, float]]) -> int:
    """How often the limit changed its direction."""
    steps = [after - before for (before, _), (after, _) in pairwise(found) if after != before]
    return sum((one > 0) != (other > 0) for one, other in pairwise(steps))


@pytest.mark.parametrize("row_s", [0.0002, 0.0005, 0.001, 0.004])
def test_it_settles_in_the_band_and_stays_there(row_s: float) -> None:
    found = run(MergeLimit(MAXIMUM, WANTED_S), lambda _, n: 0.005 + n * row_s)
    late = found[300:]
    assert len({limit for limit, _ in late}) == 1, "it stands still"
    assert 0.5 * WANTED_S < sum(s for _, s in late) / len(late) < WANTED_S
    naive = run(NaiveLimit(), lambda _, n: 0.005 + n * row_s)
    assert turns(naive[300:]) > 50, "the naive rule swings for ever"


def test_a_quick_target_keeps_the_maximum() -> None:
    found = run(MergeLimit(MAXIMUM, WANTED_S), lambda _, n: 0.002 + n * 1e-5)
    assert {limit for limit, _ in found} == {MAXIMUM}


def test_a_fixed_cost_does_not_make_transactions_small() -> None:
    """Two seconds a commit whatever is in it: smaller transactions would only make it slower in all."""
    limit = MergeLimit(MAXIMUM, WANTED_S)
    found = run(limit, lambda _, n: 2 + n * 1e-5)
    assert sum(n for n, _ in found) > 0.9 * MAXIMUM * len(found)
    naive = run(NaiveLimit(), lambda _, n: 2 + n * 1e-5)
    assert sum(n for n, _ in naive) < 0.1 * MAXIMUM * len(naive), "the naive rule ends at the minimum"
    assert "no quicker" in limit.reason


def test_steps_and_ramps_of_the_target_are_followed_both_ways() -> None:
    limit = MergeLimit(MAXIMUM, WANTED_S)
    found = run(limit, lambda n, size: size * (0.001 if 200 <= n < 500 else 0.00005), commits=900)
    assert found[199][0] == MAXIMUM
    assert 300 <= found[499][0] <= 500
    assert found[899][0] == MAXIMUM
    ramp = run(MergeLimit(MAXIMUM, WANTED_S), lambda n, size: size * 0.0001 * (1 + n / 100), commits=900)
    assert turns(ramp) <= 2
    assert ramp[-1][1] < 1.3 * WANTED_S


def test_small_commits_say_nothing() -> None:
    limit = MergeLimit(MAXIMUM, WANTED_S)
    for n in range(100):
        limit.observe(MAXIMUM // 3, 60.0, n, limited=False)
    assert limit.limit == MAXIMUM
    assert limit.control().reason == "commits are quick enough"


@given(
    st.lists(st.tuples(st.integers(1, 5000), st.floats(0, 1e4), st.booleans()), max_size=300),
    st.integers(1, 5000), st.floats(0.001, 60),
)  # fmt: skip
def test_whatever_is_observed_it_stays_within_its_bounds(
    commits: list[tuple[int, float, bool]], maximum: int, wanted_s: float
) -> None:
    limit = MergeLimit(maximum, wanted_s)
    for n, (transactions, taken_s, limited) in enumerate(commits):
        limit.observe(transactions, taken_s, n, limited=limited)
        assert min(LIMIT_MIN, maximum) <= limit.limit <= maximum
