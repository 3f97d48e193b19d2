"""The status for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from headrace.status import StreamStatus

STYLES = {"stopped": "red", "running": "green", "idle": "green", "snapshot": "yellow", "not started": "yellow"}


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
        "source position": str(status.source_position),
        "watermark": f"{status.watermark} (generation {status.generation})",
        "newest commit applied": _age(status.watermark_age_s),
        "lag p50 / p95 / p99": " / ".join(seconds_text(s) for s in _lags(status)),
        "transactions": f"{status.transactions:,} ({status.transactions_last_minute:,} in the last minute)",
        "rows": f"{status.rows:,}",
        "lanes": "\n".join(f"{n.lane}: epoch {n.epoch}, seq {n.seq}, {n.queued} queued" for n in status.lanes) or "-",
        "dead letters": str(status.dead_letters),
        "last error": status.last_error or "-",
    }


def _lags(status: StreamStatus) -> tuple[float | None, ...]:
    return status.lag_p50_s, status.lag_p95_s, status.lag_p99_s


def _age(age_s: float | None) -> str:
    return "-" if age_s is None else f"{seconds_text(age_s)} ago"


def seconds_text(seconds: float | None) -> str:
    """A duration with its unit: µs to hours."""
    if seconds is None:
        return "-"
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:,.1f} s" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
