"""What a lane tells others: progress records."""

from __future__ import annotations

import time
from collections.abc import Sequence

from connectors.lane import Applied
from pipeline.fence import LaneRow
from pipeline.merging import QueuedUnit, transactions_of
from pipeline.stages import stage_lags
from schemas.progress import Failure, Progress


def applied_report(
    stream: str, lane: int, group: Sequence[QueuedUnit], applied: Applied, queued: int, *, begun_us: int
) -> Progress:
    """A target transaction that was committed just now; the waits of its units were met at `begun_us`."""
    last = group[-1]
    now_us = time.time_ns() // 1000
    transactions = 0 if last.batch.kind == "snapshot" else transactions_of(group)  # as the ledger counts
    return Progress(
        stream, last.unit.generation, lane, last.unit.epoch, last.unit.seq, last.batch.last_position,
        last.batch.commit_times_us[-1], now_us, transactions, applied.rows,
        queued, stage_lags(group, begun_us, now_us),
    )  # fmt: skip


def trouble_report(
    stream: str, lane: int, row: LaneRow, queued: int, *, failure: Failure | None = None, alert: str = ""
) -> Progress:
    """Nothing was applied: a failure for the planner, or an alert for people."""
    now_us = time.time_ns() // 1000
    return Progress(
        stream, 0, lane, row.epoch, row.seq, 0, 0, now_us, 0, 0, queued, failure=failure, alert=alert
    )  # fmt: skip
