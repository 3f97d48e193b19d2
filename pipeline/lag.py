"""Lag as mergeable histograms: commit at the source to a stage, in microseconds.

Buckets grow by a factor of 2**(1/4), so a percentile read from one is at most 19 % too high; 128 of
them reach from 1 µs to an hour and more. Counts merge by addition, over lanes and over time.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable

from schemas.errors import SchemaError
from schemas.packed import pack, unpack

BUCKETS = 128
_PER_OCTAVE = 4
_COUNT = "Q"
_PACKED_COUNT = "I"
_PACKED_COUNT_MAX = (1 << 32) - 1


def bucket_of(lag_us: int) -> int:
    """Return the bucket of a lag; a negative one (clock skew) counts as zero."""
    if lag_us <= 1:
        return 0
    return min(BUCKETS - 1, math.ceil(math.log2(lag_us) * _PER_OCTAVE))


def bucket_top_us(bucket: int) -> float:
    """Return the largest lag that falls into `bucket`."""
    return float(2 ** (bucket / _PER_OCTAVE))


class Histogram:
    """Counts of lags by bucket."""

    __slots__ = ("counts",)

    def __init__(self, counts: Iterable[int] | None = None) -> None:
        self.counts = array(_COUNT, counts if counts is not None else [0] * BUCKETS)

    def add(self, lag_us: int, count: int = 1) -> None:
        """Count one lag (or `count` equal ones)."""
        self.counts[bucket_of(lag_us)] += count

    def add_all(self, end_us: int, starts_us: Iterable[int]) -> None:
        """Count the lag from each start to `end_us`."""
        counts = self.counts
        for start in starts_us:
            counts[bucket_of(end_us - start)] += 1

    def merge(self, other: Histogram) -> None:
        """Add the counts of `other`."""
        for bucket, count in enumerate(other.counts):
            self.counts[bucket] += count

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

    def encode(self) -> bytes:
        """Return a packed form, trailing zeros left out."""
        last = max((n for n, count in enumerate(self.counts) if count), default=-1)
        return pack(array(_PACKED_COUNT, [min(count, _PACKED_COUNT_MAX) for count in self.counts[: last + 1]]))

    @classmethod
    def decode(cls, data: bytes) -> Histogram:
        """Return the histogram in `data`. Raises SchemaError when its size is wrong."""
        counts = unpack(_PACKED_COUNT, data, "lag histogram")
        if len(counts) > BUCKETS:
            raise SchemaError(f"lag histogram: {len(counts)} buckets, there are {BUCKETS}")
        return cls([*counts, *([0] * (BUCKETS - len(counts)))])
