"""Lag histograms: percentiles within their error, merging by addition, packing."""

from __future__ import annotations

import math
import random

import pytest

from pipeline.lag import BUCKETS, SAMPLES_MAX, Histogram, bucket_of, bucket_top_us
from schemas.errors import SchemaError

ERROR = 2 ** (1 / 4) - 1  # 19 %


def histogram(*lags_us: int) -> Histogram:
    found = Histogram()
    for lag_us in lags_us:
        found.add(lag_us)
    return found


def test_every_lag_falls_into_the_bucket_that_reaches_it() -> None:
    lags_us = [n for power in range(1, 32) for n in (2**power - 1, 2**power, 2**power + 1)]
    for lag_us in [*range(1, 3000), *lags_us, 3_600_000_000]:
        bucket = bucket_of(lag_us)
        assert lag_us <= bucket_top_us(bucket) * (1 + 1e-12)
        assert bucket == 0 or lag_us > bucket_top_us(bucket - 1) * (1 - 1e-12)


def test_ends_of_the_scale() -> None:
    assert bucket_of(-5) == bucket_of(0) == bucket_of(1) == 0
    assert bucket_of(1 << 80) == BUCKETS - 1
    assert bucket_top_us(BUCKETS - 1) / 1e6 == pytest.approx(3600, rel=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_percentiles_are_never_low_and_at_most_19_percent_high(seed: int) -> None:
    rng = random.Random(seed)
    lags_us = sorted(int(rng.lognormvariate(9, 2)) + 1 for _ in range(rng.randint(1, 2000)))
    found = histogram(*lags_us)
    for fraction in (0.0, 0.01, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0):
        exact_s = lags_us[max(0, math.ceil(fraction * len(lags_us)) - 1)] / 1e6
        read_s = found.percentile_s(fraction)
        assert read_s is not None
        assert exact_s * (1 - 1e-9) <= read_s <= exact_s * (1 + ERROR + 1e-9)


def test_nothing_counted_has_no_percentile() -> None:
    assert Histogram().percentile_s(0.5) is None
    assert Histogram().percentile_s(0.0) is None
    assert Histogram.decode(b"").percentile_s(1.0) is None


def test_the_order_of_merging_does_not_matter() -> None:
    rng = random.Random(1)
    lags_us = [rng.randint(0, 10**7) for _ in range(300)]
    whole = histogram(*lags_us)
    lanes = [histogram(*lags_us[n::7]) for n in range(7)]
    for order in (lanes, lanes[::-1]):
        merged = Histogram()
        for lane in order:
            merged.merge(lane)
        assert merged.counts == whole.counts
        assert merged.total == 300


def test_adding_many_is_adding_each() -> None:
    starts_us = [0, 10, 500, 999, 2000]
    found = Histogram()
    found.add_all(1000, starts_us)
    assert found.counts == histogram(*(1000 - start for start in starts_us)).counts
    found.add(7, 3)
    assert found.total == 8


@pytest.mark.parametrize("count", [0, 1, SAMPLES_MAX, SAMPLES_MAX + 1, 3 * SAMPLES_MAX + 7, 4000])
def test_a_sample_counts_everyone(count: int) -> None:
    found = Histogram()
    found.add_sample(5_000_000, [n * 1000 for n in range(count)])
    assert found.total == count
    if count > SAMPLES_MAX:
        whole = Histogram()
        whole.add_all(5_000_000, [n * 1000 for n in range(count)])
        assert found.percentile_s(0.5) == pytest.approx(whole.percentile_s(0.5), rel=ERROR)


@pytest.mark.parametrize("seed", range(5))
def test_mean_and_variance_are_near_the_exact_ones(seed: int) -> None:
    rng = random.Random(seed)
    lags_us = [int(rng.lognormvariate(9, 1)) + 1 for _ in range(2000)]
    found = histogram(*lags_us)
    mean_s = sum(lags_us) / len(lags_us) / 1e6
    variance_s2 = sum((lag / 1e6 - mean_s) ** 2 for lag in lags_us) / len(lags_us)
    assert found.mean_s() == pytest.approx(mean_s, rel=0.03)
    assert found.variance_s2() == pytest.approx(variance_s2, rel=0.12)
    assert Histogram().mean_s() is None
    assert Histogram().variance_s2() is None


def test_packing() -> None:
    for found in (Histogram(), histogram(0), histogram(5, 5, 1 << 40), histogram(*range(100))):
        assert Histogram.decode(found.encode()).counts == found.counts
    assert Histogram().encode() == b""
    assert len(histogram(1 << 60).encode()) == 4 * BUCKETS


def test_counts_do_not_run_over() -> None:
    """A packed count has 32 bits; sums over lanes and hours may need more."""
    full = Histogram.decode(b"\xff\xff\xff\xff")
    full.merge(Histogram.decode(b"\xff\xff\xff\xff"))
    assert full.total == 2 * (2**32 - 1)
    assert full.percentile_s(0.5) == 1e-6
    assert Histogram.decode(full.encode()).total == 2**32 - 1


@pytest.mark.parametrize("data", [b"\1", bytes(4 * BUCKETS + 4), bytes(4 * BUCKETS + 1)], ids=len)
def test_packed_histograms_of_wrong_size_are_refused(data: bytes) -> None:
    with pytest.raises(SchemaError, match="histogram"):
        Histogram.decode(data)
