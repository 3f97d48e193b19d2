"""What a source and a target are told of the configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pipeline.linger import AdaptiveLinger
from pipeline.mapping import TableMapping
from pipeline.record_size import RecordSize
from pipeline.schema_change import Policy


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """Where changes come from. `dsn` is secret: never log it.

    `linger`, if there is one, stands for `linger_ms`, and `size` for `batch_transactions_max`, its maximum.
    """

    dsn: str
    tables: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    snapshot: str = "initial"
    linger_ms: float = 5.0
    batch_transactions_max: int = 4000
    batch_bytes_max: int = 1024 * 1024
    linger: AdaptiveLinger | None = None
    size: RecordSize | None = None
    mapping: TableMapping = field(default_factory=TableMapping)
    as_text: bool = False


@dataclass(frozen=True, slots=True)
class TargetSettings:
    """Where changes go. `dsn` is secret: never log it."""

    dsn: str
    synchronous_commit: str = "off"
    session_replication_role: str = "replica"
    schema_changes: Policy = "stop"
    create_tables: Literal["never", "missing"] = "never"
    on_missing_row: str = "error"
    on_existing_row: str = "error"
