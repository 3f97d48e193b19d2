"""Lag as mergeable histograms: commit at the source to a stage, in microseconds.

Buckets grow by a factor of 2**(1/4), so a percentile read from one is at most 19 % too high; 128 of
them reach from 1 µs to an hour and more. Counts merge by addition, over lanes and over time.

Stages, each counted from the commit at the source: `captured` (its batch is closed and on its way to Kafka),
`planned` (its unit is made), `waiting` (what it depends on is applied, its target transaction begins),
`applied` (committed at the target), `visible` (so is everything before it).
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence

from schemas.errors import SchemaError
from schemas.packed import pack, unpack

BUCKETS = 128
STAGES = ("captured", "planned", "waiting", "applied", "visible")
SAMPLES_MAX = 200  # of the transactions that reach a stage together; each stands for its neighbours
_PER_OCTAVE = 4
_COUNT = "Q"
_PACKED_COUNT = "I"
_PACKED_COUNT_MAX = (1 << 32) - 1
_EMPTY = bytes(BUCKETS * array(_COUNT).itemsize)


def bucket_of(lag_us: int) -> int:
    """Return the bucket of a lag; a negative one (clock skew) counts as zero."""
    if lag_us <= 1:
        return 0
    return min(BUCKETS - 1, math.ceil(math.log2(lag_us) * _PER_OCTAVE))


def bucket_top_us(bucket: int) -> float:
    """Return the largest lag that falls into `bucket`."""
    return float(2 ** (bucket / _PER_OCTAVE))


def _middle_s(bucket: int) -> float:
    return float(2 ** ((bucket - 0.5) / _PER_OCTAVE)) / 1e6


class Histogram:
    """Counts of lags by bucket."""

    __slots__ = ("counts",)

    def __init__(self, counts: Iterable[int] | None = None) -> None:
        self.counts = array(_COUNT, counts if counts is not None else _EMPTY)

    def add(self, lag_us: int, count: int = 1) -> None:
        """Count one lag (or `count` equal ones)."""
        self.counts[bucket_of(lag_us)] += count

    def add_all(self, end_us: int, starts_us: Iterable[int]) -> None:
        """Count the lag from each start to `end_us`."""
        counts = self.counts
        for start in starts_us:
            counts[bucket_of(end_us - start)] += 1

    def add_sample(self, end_us: int, starts_us: Sequence[int]) -> None:
        """The same for many starts: at most `SAMPLES_MAX` of them are looked at, each for its neighbours too."""
        step = 1 + (len(starts_us) - 1) // SAMPLES_MAX if starts_us else 1
        for first in range(0, len(starts_us), step):
            self.add(end_us - starts_us[first], min(step, len(starts_us) - first))

    def merge(self, other: Histogram) -> None:
        """Add the counts of `other`."""
        self.counts = array(_COUNT, map(int.__add__, self.counts, other.counts))

    @property
    def total(self) -> int:
        """Number of lags counted."""
        return sum(self.counts)

    def percentile_s(self, fraction: float) -> float | None:
        """Return the lag in seconds at `fraction` (0..1), None when nothing was counted."""
        total = self.total
        if total == 0:
            return None
        wanted = max(1, math.ceil(total * fraction))
        seen = 0
        for bucket, count in enumerate(self.counts):
            seen += count
            if seen >= wanted:
                return bucket_top_us(bucket) / 1e6
        raise AssertionError("counts add up to the total")

    def mean_s(self) -> float | None:
        """Return the mean in seconds, within half a bucket (9 %); None when nothing was counted."""
        total = self.total
        if total == 0:
            return None
        return sum(count * _middle_s(bucket) for bucket, count in enumerate(self.counts) if count) / total

    def variance_s2(self) -> float | None:
        """Return the variance in seconds squared, each lag counted as the middle of its bucket."""
        mean_s = self.mean_s()
        if mean_s is None:
            return None
        squares = ((_middle_s(bucket) - mean_s) ** 2 * count for bucket, count in enumerate(self.counts) if count)
        return sum(squares) / self.total

    def encode(self) -> bytes:
        """Return a packed form, trailing zeros left out."""
        written = len(self.counts.tobytes().rstrip(b"\0"))
        counts = self.counts[: -(-written // self.counts.itemsize)]
        if max(counts, default=0) > _PACKED_COUNT_MAX:
            counts = array(_COUNT, [min(count, _PACKED_COUNT_MAX) for count in counts])
        return pack(array(_PACKED_COUNT, counts))

    @classmethod
    def decode(cls, data: bytes) -> Histogram:
        """Return the histogram in `data`. Raises SchemaError when its size is wrong."""
        counts = unpack(_PACKED_COUNT, data, "lag histogram")
        if len(counts) > BUCKETS:
            raise SchemaError(f"lag histogram: {len(counts)} buckets, there are {BUCKETS}")
        return cls([*counts, *([0] * (BUCKETS - len(counts)))])
