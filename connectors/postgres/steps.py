"""The statements of one target transaction, in as few round trips as they need."""

from __future__ import annotations

from collections.abc import Iterable

import psycopg

from connectors.errors import RefusedError
from connectors.postgres.pipelined import Statement, StatementPipeline


class NotAdmittedError(Exception):
    """The ledger does not admit the group; the open transaction is to be rolled back."""


class Steps:
    """Statements that wait for each other's company: they are sent together, before anything else uses the connection.

    Whoever does must call `flush` first. Each flush is one round trip.
    """

    def __init__(self, pipeline: StatementPipeline, where: str) -> None:
        self._pipeline = pipeline
        self._where = where
        self._waiting: list[tuple[Statement, int | None]] = []
        self._fence: int | None = None  # its place among those that wait
        self._missing = 0

    def add(self, statement: Statement, expected: int | None = None) -> None:
        """Send `statement` with the next flush; `expected` rows should be touched."""
        self._waiting.append((statement, expected))

    def add_fence(self, statement: Statement) -> None:
        """Send what touches one row where the ledger admits the group."""
        self._fence = len(self._waiting)
        self.add(statement)

    def run(self, statements: Iterable[Statement] = ()) -> list[int]:
        """Send all that waits and `statements`; return the rows that each of those touched.

        Raises NotAdmittedError, whatever else has failed behind the fence, and driver errors.
        """
        waiting, fence = self._waiting, self._fence
        self._waiting, self._fence = [], None
        counts: list[int] = []
        try:
            self._pipeline.run([*(statement for statement, _ in waiting), *statements], counts)
        except psycopg.Error:
            if fence is not None and counts[fence : fence + 1] == [0]:
                raise NotAdmittedError from None
            raise
        if fence is not None and counts[fence] != 1:
            raise NotAdmittedError
        self._missing += sum(
            expected - count for (_, expected), count in zip(waiting, counts, strict=False) if expected is not None
        )
        return counts[len(waiting) :]

    def flush(self) -> None:
        """Send all that waits."""
        if self._waiting:
            self.run()

    def finish(self) -> None:
        """Send all that waits. Raises RefusedError where rows were not there, also of earlier flushes."""
        self.flush()
        if self._missing:
            raise RefusedError(
                f"{self._where}: {self._missing} rows to update or delete were not there, or to insert were not taken",
                "HR001",
            )
