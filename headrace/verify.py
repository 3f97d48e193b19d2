"""`headrace verify`: compare source and target, table by table."""

from __future__ import annotations

import glob
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.table import Table

from connectors.base import TableCheck
from headrace.streams import comparison
from headrace.wait import wait_for_target
from topologies.stream_settings import StreamConfig

TRIES = 5  # of the tables that differ, since the source may go on writing between the two snapshots


@dataclass(frozen=True, slots=True)
class StreamCheck:
    """The comparison of one stream's tables."""

    stream: str
    tables: tuple[TableCheck, ...]

    @property
    def differences(self) -> int:
        """Rows that are on one side only, in all tables (a changed row counts twice)."""
        return sum(table.differences for table in self.tables)


def verify_stream(stream: StreamConfig, timeout_s: float) -> StreamCheck:
    """Wait for the target, then compare; tables that differ are waited for and compared again, a few times.

    Raises NotCaughtUpError, StreamStoppedError, ConfigError, RetriableError.
    """
    compare, source, target = comparison(stream), stream.source_settings(), stream.target_settings()
    wait_for_target(stream, timeout_s)
    checks = {check.table: check for check in compare(source, target)}
    for _ in range(TRIES - 1):
        differing = [check.table for check in checks.values() if check.differences]
        if not differing:
            break
        wait_for_target(stream, timeout_s)
        patterns = tuple(glob.escape(table) for table in differing)
        checks.update({check.table: check for check in compare(replace(source, tables=patterns), target)})
    return StreamCheck(stream.name, tuple(checks.values()))


def as_json(checks: Sequence[StreamCheck]) -> list[dict[str, object]]:
    """The result for programs."""
    return [{"stream": check.stream, "tables": [asdict(table) for table in check.tables]} for check in checks]


def as_table(checks: Sequence[StreamCheck]) -> Table:
    """The result for people."""
    table = Table("stream", "table", title="Source and target compared")
    for column in ("source rows", "target rows", "differences"):
        table.add_column(column, justify="right")
    for check in checks:
        for row in sorted(check.tables, key=lambda table: table.table):
            style = "red" if row.differences else ""
            numbers = (row.source_rows, row.target_rows, row.differences)
            table.add_row(check.stream, row.table, *(f"{number:,}" for number in numbers), style=style)
    return table


def advice(stream: StreamConfig, check: StreamCheck, config: Path) -> list[str]:
    """What to do about a stream's differences, a line each; nothing when there are none."""
    wrong = [table.table for table in check.tables if table.differences]
    if not wrong:
        return []
    begin = ["headrace", "resync", "-c", str(config), "--stream", stream.name, "--table"]
    mapping = stream.source_settings().mapping
    commands = []
    for name in wrong:
        schema, _, table = name.partition(".")
        commands.append(shlex.join([*begin, ".".join(mapping.target_name((schema, table))), "--yes"]))
    return ["A changed row counts as two differences. To copy a table anew while its stream goes on:", *commands]
