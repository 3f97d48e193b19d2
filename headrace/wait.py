"""`headrace wait`: until everything committed at the source before the call is applied at the target."""

from __future__ import annotations

import time
from dataclasses import dataclass

from connectors.ledger import StreamRow
from headrace.streams import open_ledger, source_admin
from pipeline.errors import HeadraceError, StreamStoppedError
from topologies.stream_settings import StreamConfig

POLL_S = 0.05


class NotCaughtUpError(HeadraceError):
    """The time was over before the target had caught up; both positions are in the text."""


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """The target has passed `position`, a marker's at the source, after `seconds`."""

    stream: str
    position: int
    watermark: int
    seconds: float


def wait_for_target(stream: StreamConfig, timeout_s: float) -> CaughtUp:
    """Write a marker at the source and wait until the ledger's watermark has reached it.

    Raises NotCaughtUpError after `timeout_s`, StreamStoppedError at once for a stopped stream, ConfigError,
    RetriableError.
    """
    admin, started_s = source_admin(stream), time.monotonic()
    with open_ledger(stream) as ledger:
        mark, generation = admin.mark(), _row_generation(ledger.stream_row())
        while True:
            row = ledger.stream_row()
            if row is not None and row.stopped:
                raise StreamStoppedError(f"stream {stream.name} is stopped: {row.stopped}")
            if row is not None and row.generation != generation:
                # The stream has begun (anew): a marker from before its slot would never arrive.
                mark, generation = admin.mark(), row.generation
            seconds = time.monotonic() - started_s
            if row is not None and generation and row.watermark >= mark:
                return CaughtUp(stream.name, mark, row.watermark, seconds)
            if seconds >= timeout_s:
                raise NotCaughtUpError(_late(stream.name, mark, row, timeout_s))
            time.sleep(POLL_S)


def _row_generation(row: StreamRow | None) -> int:
    return row.generation if row is not None else 0


def _late(stream: str, mark: int, row: StreamRow | None, timeout_s: float) -> str:
    start = f"stream {stream}: not caught up after {timeout_s:g} s: the source is at position {mark}, the target"
    if row is None or not row.generation:
        return f"{start} has nothing yet (is `headrace run` running?)"
    behind_s = time.time() - row.watermark_time_us / 1e6
    return f"{start} at {row.watermark} (generation {row.generation}), its newest commit is {behind_s:,.1f} s old"
