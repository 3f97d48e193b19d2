"""`headrace status`: where each stream stands, from source, ledger and the last minute of progress."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from connectors.ledger import StreamRow
from headrace.recent import Recent, recent
from headrace.streams import open_ledger, position_text, source_admin
from pipeline.fence import LaneRow
from pipeline.lag import Histogram
from pipeline.table_copies import TableCopy
from schemas.lag import Lag, LagWindow
from schemas.progress import Progress
from schemas.role_report import Buffer, Control, RoleReport
from topologies.settings import EMBEDDED, Settings
from topologies.stream_settings import StreamConfig

STAGE = "applied"
IDLE_S = 10.0  # without a commit for so long, and with nothing left to apply, a stream is idle


@dataclass(frozen=True, slots=True)
class LaneStatus:
    """One lane in the ledger; `queued` units as its last progress record of the minute says."""

    lane: int
    epoch: int
    seq: int
    queued: int


@dataclass(frozen=True, slots=True)
class RoleStatus:
    """What a role has said of itself, so long ago: its controllers' values with reasons, its buffers with limits."""

    role: str
    age_s: float
    controls: tuple[Control, ...]
    buffers: tuple[Buffer, ...]


@dataclass(frozen=True, slots=True)
class TableCopyStatus:
    """A table that is copied anew (`headrace resync --table`), as the target calls it, and how far that has come.

    `state`: "requested" (the capture has not sent all of it), "in Kafka", "applied" (the target has it, at
    `position`; the watermark has not passed that yet). Until it is applied the table's changes are left out.
    """

    table: str
    state: str
    position: int | None
    position_text: str


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """One stream. Positions are the connector's numbers; lags in seconds over the last minute, None: no commit.

    `state`: not started, snapshot, running, idle (all that Kafka has is applied), paused (a fault of the target
    that may pass), stopped, no broker (an embedded one that does not run: the databases alone have been asked).
    `level`, `behind_s` and `windows` are the monitor's; without one the level is "no monitor". `left_out` are tables
    that wait for `headrace resync --table`.
    """

    stream: str
    state: str
    source_position: int
    source_position_text: str
    generation: int
    watermark: int
    watermark_text: str
    watermark_age_s: float | None
    transactions: int
    rows: int
    transactions_last_minute: int
    lag_p50_s: float | None
    lag_p95_s: float | None
    lag_p99_s: float | None
    level: str
    level_reason: str
    behind_s: float | None
    windows: tuple[LagWindow, ...]
    lanes: tuple[LaneStatus, ...]
    roles: tuple[RoleStatus, ...]
    dead_letters: int
    table_copies: tuple[TableCopyStatus, ...]
    missing_rows: int
    existing_rows: int
    left_out: tuple[str, ...]
    last_error: str


def stream_status(settings: Settings, stream: StreamConfig) -> StreamStatus:
    """Collect the status of one stream; without a broker (`located` has found none) what the databases tell.

    Raises ConfigError, RetriableError, SchemaError, KafkaException.
    """
    with open_ledger(stream) as ledger:
        row = ledger.stream_row()
        lanes = ledger.lane_rows() if row is not None else {}
        transactions, rows = ledger.totals() if row is not None else (0, 0)
        dead_letters = ledger.parked_count()
        wanted = ledger.table_copies()
        missing_rows, existing_rows = ledger.anomalies() if row is not None else (0, 0)
    brokered = settings.kafka.bootstrap_servers != EMBEDDED
    found = recent(settings, stream.name) if brokered else Recent()
    progress, lag = found.progress, _lag(found.progress)
    admin = source_admin(stream)
    source = admin.current_position()
    left_out = tuple(".".join(name) for name in admin.left_out())
    generation, watermark = (row.generation, row.watermark) if row is not None else (0, 0)
    copies = tuple(_copy(stream, generation, copy) for copy in wanted)
    return StreamStatus(
        stream.name, _state(row, found, brokered=brokered),
        source, position_text(stream, 0, source), generation, watermark,
        position_text(stream, generation, watermark), _age_s(row),
        transactions, rows, sum(p.transactions for p in progress),
        lag.percentile_s(0.5), lag.percentile_s(0.95), lag.percentile_s(0.99), *_level(found.lag),
        _lanes(lanes, progress), _roles(found.reports),
        dead_letters, copies, missing_rows, existing_rows, left_out, _last_error(row, progress),
    )  # fmt: skip


def _copy(stream: StreamConfig, generation: int, copy: TableCopy) -> TableCopyStatus:
    where = "" if copy.position is None else position_text(stream, generation, copy.position)
    return TableCopyStatus(".".join(copy.table), copy.state, copy.position, where)


def _level(lag: Lag | None) -> tuple[str, str, float | None, tuple[LagWindow, ...]]:
    if lag is None:
        return "no monitor", "", None, ()
    return lag.level, lag.level_reason, lag.age_s, tuple(lag.windows)


def _roles(reports: Sequence[RoleReport]) -> tuple[RoleStatus, ...]:
    now_us = time.time_ns() // 1000
    return tuple(
        RoleStatus(r.role, max(0, now_us - r.time_us) / 1e6, tuple(r.controls), tuple(r.buffers)) for r in reports
    )


def _state(row: StreamRow | None, found: Recent, *, brokered: bool) -> str:
    newest, progress = found.batch, found.progress
    if row is not None and row.stopped:
        return "stopped"
    if not brokered:
        return "no broker"
    if newest is None:
        return "not started"
    if _alerts(progress):
        return "paused"
    if newest.kind == "snapshot":
        return "snapshot"
    behind = row is None or (row.generation, row.watermark) < (newest.generation, newest.last_position)
    recent = bool(progress) and time.time() - progress[-1].applied_us / 1e6 < IDLE_S
    return "running" if behind or recent else "idle"


def _lag(progress: Iterable[Progress]) -> Histogram:
    total = Histogram()
    for record in progress:
        if STAGE in record.lag_buckets:
            total.merge(Histogram.decode(record.lag_buckets[STAGE]))
    return total


def _age_s(row: StreamRow | None) -> float | None:
    return time.time() - row.watermark_time_us / 1e6 if row is not None and row.watermark_time_us else None


def _lanes(rows: dict[int, LaneRow], progress: Sequence[Progress]) -> tuple[LaneStatus, ...]:
    queued = {record.lane: record.queued for record in progress}
    used = {lane: row for lane, row in rows.items() if row.seq or lane in queued}
    return tuple(LaneStatus(lane, row.epoch, row.seq, queued.get(lane, 0)) for lane, row in sorted(used.items()))


def _last_error(row: StreamRow | None, progress: Sequence[Progress]) -> str:
    if row is not None and row.stopped:
        return row.stopped
    if alerts := _alerts(progress):
        return alerts[-1]
    failures = [record.failure.error for record in progress if record.failure is not None]
    return failures[-1] if failures else ""


def _alerts(progress: Iterable[Progress]) -> list[str]:
    """What keeps lanes from going on: those whose last word is an alert, and not an old one."""
    last = {record.lane: record for record in progress}
    return [r.alert for r in last.values() if r.alert and time.time() - r.applied_us / 1e6 < IDLE_S]
