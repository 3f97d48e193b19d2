"""When the transactions of a target transaction reached each stage, as packed histograms for its progress."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.lag import Histogram
from pipeline.merging import QueuedUnit


def stage_lags(group: Sequence[QueuedUnit], begun_us: int, applied_us: int) -> dict[str, bytes]:
    """Return stage -> packed histogram of the live transactions in `group`.

    `begun_us`: its waits were met and its target transaction began; `applied_us`: it was committed.
    """
    found = {stage: Histogram() for stage in ("captured", "planned", "waiting", "applied")}
    for queued in group:
        batch = queued.batch
        if batch.kind != "live":
            continue
        ends_us = (batch.captured_us, queued.unit.planned_us, begun_us, applied_us)
        for histogram, end_us in zip(found.values(), ends_us, strict=True):
            histogram.add_sample(end_us, batch.commit_times_us)
    return {stage: histogram.encode() for stage, histogram in found.items()}
