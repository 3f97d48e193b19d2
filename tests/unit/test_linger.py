"""The linger of capture: short when transactions are rare, records within their budget, calm under noise."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.linger import LINGER_MAX_MS, LINGER_MIN_MS, RECORDS_MAX, RECORDS_MIN, AdaptiveLinger


def run(rate: float, seconds: float, *, linger: AdaptiveLinger | None = None, ack_ms: float = 3, seed: int = 1,
        start_s: float = 0) -> tuple[AdaptiveLinger, list[int], list[float]]:  # fmt: skip
    """Poisson arrivals against the linger; returns it, the sizes of the batches, and the lingers they had."""
    linger, rng = linger or AdaptiveLinger(), random.Random(seed)
    now_s, sizes, lingers = start_s, [], []
    while now_s < start_s + seconds:
        now_s += rng.expovariate(rate)
        closes_s, size = now_s + linger.ms / 1000, 1
        while (gap_s := rng.expovariate(rate)) and now_s + gap_s < closes_s:
            now_s, size = now_s + gap_s, size + 1
        now_s = closes_s
        linger.batch(size, int(now_s * 1e6))
        linger.acknowledged(ack_ms * rng.uniform(0.5, 1.5))
        sizes.append(size)
        lingers.append(linger.ms)
    return linger, sizes, lingers


def test_rare_transactions_hardly_wait() -> None:
    _, sizes, lingers = run(20, 30)
    assert set(lingers) == {LINGER_MIN_MS}
    assert sum(sizes) / len(sizes) < 1.1


@pytest.mark.parametrize("rate", [100, 500, 2000, 20_000])
def test_records_stay_within_the_budget(rate: float) -> None:
    _, sizes, _ = run(rate, 20)
    assert len(sizes) / 20 < 1.15 * RECORDS_MAX


def test_a_slow_broker_gets_fewer_and_larger_records() -> None:
    linger, sizes, lingers = run(2000, 20, ack_ms=60)
    assert len(sizes[len(sizes) // 2 :]) / 10 < 3 * RECORDS_MIN
    assert lingers[-1] == pytest.approx(1000 / RECORDS_MIN, abs=1)
    _, _, later = run(2000, 30, linger=linger, start_s=20, ack_ms=3)
    assert later[-1] == pytest.approx(1000 / RECORDS_MAX, abs=1)


@pytest.mark.parametrize("rate", [200, 1000, 5000])
def test_under_a_steady_noisy_load_it_stands_nearly_still(rate: float) -> None:
    _, _, lingers = run(rate, 30)
    late = lingers[len(lingers) // 2 :]
    assert max(late) - min(late) < 3
    assert max(abs(one - other) for one, other in pairwise(late)) < 1


def test_it_follows_a_step_and_falls_back_when_the_load_ends() -> None:
    linger, _, _ = run(5000, 5)
    assert linger.ms > 4
    for n in range(100):
        linger.batch(0, int((5 + n * 0.05) * 1e6))
    assert linger.ms == LINGER_MIN_MS


@given(st.lists(st.tuples(st.integers(0, 10_000), st.floats(0, 10), st.floats(0, 1e5)), max_size=200))
def test_whatever_happens_it_stays_within_its_bounds(events: list[tuple[int, float, float]]) -> None:
    linger, now_s = AdaptiveLinger(), 0.0
    for transactions, pause_s, ack_ms in events:
        now_s += pause_s
        linger.batch(transactions, int(now_s * 1e6))
        linger.acknowledged(ack_ms)
        assert LINGER_MIN_MS <= linger.ms <= LINGER_MAX_MS
