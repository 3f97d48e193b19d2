"""Prepared statements in libpq's pipeline mode, with raw binary parameters.

psycopg's own pipeline adapts each parameter in Python (25 µs a statement); rows of a ChangeBatch are
already in the wire format, so libpq takes them as they are (4 µs). Source: PostgreSQL manual, libpq,
"Pipeline Mode".
"""

from __future__ import annotations

import select
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count, islice

import psycopg
from psycopg import errors, pq

from schemas.rows import Field

# Statements between two synchronisations: their replies (40 bytes each) must fit the socket's buffer,
# since nothing is read while they are sent.
STATEMENTS_MAX = 200


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL with $1 parameters; `formats` has 1 for a binary parameter, 0 for text."""

    sql: bytes
    parameters: Sequence[Field]
    formats: Sequence[int]


class StatementPipeline:
    """Runs statements in order on a connection and returns the rows each one touched."""

    def __init__(self, conn: psycopg.Connection) -> None:
        self._pgconn = conn.pgconn
        self._encoding = conn.info.encoding
        self._prepared: dict[bytes, bytes] = {}
        self._numbers = count()

    def run(self, statements: Iterable[Statement], counts: list[int] | None = None) -> list[int]:
        """Run all; return affected rows a statement. Raises the first error, after which none has run.

        What they return is appended to `counts`, which has those before the error when there is one.
        """
        source = iter(statements)
        counts = [] if counts is None else counts
        self._pgconn.enter_pipeline_mode()
        try:
            while chunk := list(islice(source, STATEMENTS_MAX)):
                self._run_chunk(chunk, counts)
        finally:
            if self._pgconn.status == pq.ConnStatus.OK:
                self._pgconn.exit_pipeline_mode()
        return counts

    def _run_chunk(self, chunk: list[Statement], counts: list[int]) -> None:
        fresh: list[bytes] = []
        expected: list[bool] = []  # True for a statement's result, False for a preparation's
        for statement in chunk:
            name = self._prepared.get(statement.sql)
            if name is None:
                name = b"headrace_%d" % next(self._numbers)
                self._prepared[statement.sql] = name
                fresh.append(statement.sql)
                self._pgconn.send_prepare(name, statement.sql)
                expected.append(False)
            self._pgconn.send_query_prepared(name, statement.parameters, statement.formats, 1)
            expected.append(True)
        self._pgconn.pipeline_sync()
        try:
            self._collect(expected, counts)
        except psycopg.Error:
            for sql in fresh:
                # Whether it was prepared before the error is unknown: it gets a new name next time.
                del self._prepared[sql]
            raise

    def _collect(self, expected: list[bool], counts: list[int]) -> None:
        failure: pq.abc.PGresult | None = None
        for is_statement in expected:
            result = self._next()
            while result is None:
                result = self._next()
            if result.status == pq.ExecStatus.FATAL_ERROR and failure is None:
                failure = result
            if is_statement and failure is None:
                counts.append(result.command_tuples or 0)
        while True:
            result = self._next()
            if result is not None and result.status == pq.ExecStatus.PIPELINE_SYNC:
                break
        if failure is not None:
            raise errors.error_from_result(failure, encoding=self._encoding)

    def _next(self) -> pq.abc.PGresult | None:
        """The next result without holding the interpreter lock while it is awaited."""
        pgconn = self._pgconn
        while True:
            unsent = pgconn.flush()
            if not unsent and not pgconn.is_busy():
                return pgconn.get_result()
            select.select([pgconn.socket], [pgconn.socket] if unsent else [], [])
            pgconn.consume_input()
