"""Rows that are missing or there already on the target: counted, and settled as the stream's policy says.

A row at a time, since what is found decides what is done next. Used only after the strict ways have been refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from connectors.errors import RefusedError
from connectors.postgres.mapping import kept_out
from connectors.postgres.ordered import RowChange, RowWriter
from connectors.postgres.pipelined import StatementPipeline
from connectors.settings import TargetSettings
from schemas.change_batch import ChangeBatch


@dataclass(slots=True)
class Anomalies:
    """Rows that a target transaction did not find, or found where it was to insert one."""

    missing: int = 0
    existing: int = 0


class TolerantWriter:
    """Applies changes in source order under the policies of `settings`."""

    def __init__(self, rows: RowWriter, pipeline: StatementPipeline, settings: TargetSettings) -> None:
        self._rows = rows
        self._pipeline = pipeline
        self._on_missing = settings.on_missing_row
        self._on_existing = settings.on_existing_row
        self.active = (self._on_missing, self._on_existing) != ("error", "error")

    def write(self, batches: Sequence[ChangeBatch], anomalies: Anomalies, ranks: range | None = None) -> int:
        """Write the batches (of the given ranks) and count into `anomalies`; return the rows.

        Raises driver errors and RefusedError.
        """
        changes = list(self._rows.changes(batches, ranks, tolerant=True))
        for change in changes:
            count = self._pipeline.run([change.statement])[0]
            if change.counted and count == 0:
                self._settle(change, anomalies)
            elif change.counted and count != 1:
                self._rows.check([change], [count])
        return len(changes)

    def _settle(self, change: RowChange, anomalies: Anomalies) -> None:
        existing = change.op == "INSERT"
        policy = self._on_existing if existing else self._on_missing
        if policy == "error":
            raise RefusedError(_text(change, existing=existing), "HR005" if existing else "HR001")
        if existing:
            anomalies.existing += 1
        else:
            anomalies.missing += 1
        if policy == "ignore" or change.op == "DELETE":
            return
        if change.instead is None:
            raise RefusedError(
                f"{_text(change, existing=existing)} It can't be written whole: the source sends unchanged large "
                "columns only under REPLICA IDENTITY FULL.",
                "HR006",
            )
        if self._pipeline.run([change.instead])[0] != 1:
            raise kept_out(f"table {change.table}: {change.op} at position {change.position}")


def _text(change: RowChange, *, existing: bool) -> str:
    found = "its key is there already" if existing else "its row is not there"
    where = f"table {change.table}: {change.op} at position {change.position}"
    return f"{where}: {found}; was the target changed by someone else?"
