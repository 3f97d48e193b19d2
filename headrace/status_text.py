"""The status for people."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from rich.markup import escape
from rich.table import Table

from headrace.status import StreamStatus, TableCopyStatus
from pipeline.lag import STAGES
from pipeline.lag_windows import WINDOWS_S
from schemas.lag import LagWindow
from schemas.role_report import Buffer, Control

MIB = 1024 * 1024
LEVEL_STYLES = {"ok": "green", "warning": "yellow", "alarm": "red", "critical": "bold red", "no monitor": "dim"}
STYLES = {
    "stopped": "red",
    "running": "green",
    "idle": "green",
    "snapshot": "yellow",
    "paused": "red",
    "not started": "yellow",
    "no broker": "red",
}


def status_table(statuses: Sequence[StreamStatus]) -> Table:
    """A column a stream."""
    table = Table("", title="Streams")
    for status in statuses:
        table.add_column(status.stream)
    texts = [_lines(status) for status in statuses]
    for name in texts[0]:
        table.add_row(name, *(text[name] for text in texts))
    return table


def _lines(status: StreamStatus) -> dict[str, str]:
    style = STYLES[status.state]
    return {
        "state": f"[{style}]{status.state}[/{style}]",
        "source position": f"{status.source_position_text} ({status.source_position})",
        "watermark": f"{status.watermark_text} ({status.watermark}, generation {status.generation})",
        "newest commit applied": _age(status.watermark_age_s),
        "lag level": _level(status),
        "lag p50 / p95 / p99": " / ".join(seconds_text(s) for s in _lags(status)),
        "by stage, p50 / p99": "\n".join(_stages(status.windows)) or "-",
        "transactions": f"{status.transactions:,} ({status.transactions_last_minute:,} in the last minute)",
        "rows": f"{status.rows:,}",
        "lanes": "\n".join(f"{n.lane}: epoch {n.epoch}, seq {n.seq}, {n.queued} queued" for n in status.lanes) or "-",
        "controllers": "\n".join(_controls(status)) or "-",
        "buffers": "\n".join(_buffers(status)) or "-",
        "dead letters": str(status.dead_letters),
        "tables copied anew": "\n".join(map(_copy, status.table_copies)) or "-",
        "rows missing / there already": f"{status.missing_rows:,} / {status.existing_rows:,}",
        "tables not replicated": escape("\n".join(status.left_out)) or "-",
        "last error": escape(status.last_error) or "-",
    }


def _copy(copy: TableCopyStatus) -> str:
    where = f" at {copy.position_text} ({copy.position})" if copy.position is not None else ""
    return f"{escape(copy.table)}: {copy.state}{where}"


def _lags(status: StreamStatus) -> tuple[float | None, ...]:
    return status.lag_p50_s, status.lag_p95_s, status.lag_p99_s


def _level(status: StreamStatus) -> str:
    style = LEVEL_STYLES[status.level]
    behind = "" if status.behind_s is None else f", target behind by {seconds_text(status.behind_s)}"
    reason = f"\nraised when {status.level_reason}" if status.level not in ("ok", "no monitor") else ""
    return f"[{style}]{status.level}[/{style}]{behind}{reason}"


def _stages(windows: Sequence[LagWindow]) -> Iterator[str]:
    """A line a stage: its lag over each window."""
    for stage in STAGES:
        found = {window.seconds: window for window in windows if window.stage == stage and window.p50_s is not None}
        if found:
            spans = (
                f"{seconds_text(found[s].p50_s)} / {seconds_text(found[s].p99_s)} in {_span(s)}"
                for s in WINDOWS_S if s in found
            )  # fmt: skip
            yield f"{stage}: {', '.join(spans)}"


def _span(seconds: int) -> str:
    return f"{seconds} s" if seconds < 60 else f"{seconds // 60} min"


def _controls(status: StreamStatus) -> Iterator[str]:
    for role in status.roles:
        for control in role.controls:
            yield f"{role.role}: {escape(control_text(control))}"


def control_text(control: Control) -> str:
    """A controller's value, when it changed and why."""
    since = f", {seconds_text(max(0.0, time.time() - control.changed_us / 1e6))} ago" if control.changed_us else ""
    why = f" ({control.reason}{since})" if control.reason else ""
    return f"{control.name} = {control.value:,.4g} {control.unit}{why}"


def _buffers(status: StreamStatus) -> Iterator[str]:
    for role in status.roles:
        used = [f"{buffer.name} {share_text(buffer)}" for buffer in role.buffers]
        if used:
            yield f"{role.role}: {', '.join(used)}"


def share_text(buffer: Buffer) -> str:
    """How full a buffer is; bytes in MiB."""
    if buffer.unit == "bytes":
        return f"{buffer.used / MIB:,.1f} of {buffer.limit / MIB:,.0f} MiB"
    return f"{buffer.used:,} of {buffer.limit:,}"


def _age(age_s: float | None) -> str:
    return "-" if age_s is None else f"{seconds_text(age_s)} ago"


def seconds_text(seconds: float | None) -> str:
    """A duration with its unit: µs to hours."""
    if seconds is None:
        return "-"
    if seconds == 0:
        return "0 s"
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:,.1f} s" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
