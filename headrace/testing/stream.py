"""A stream between two new databases, for one test."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg

from headrace.testing.config import stream_config, toml_text
from headrace.testing.parts import Addresses, Parts, Pipeline
from headrace.wait import wait_for_target
from topologies.settings import Settings
from topologies.settings_file import parse_settings
from topologies.stream_settings import StreamConfig

TIMEOUT_S = 60.0


class Stream:
    """One stream: a new database on each side, a configuration, and Headrace once `start` was called.

    Use it as a context manager: what it has started and made is ended and dropped afterwards. `source` and
    `target` are further keys of those tables of the configuration, for example `target={"lanes": 2}`.
    """

    def __init__(
        self, parts: Parts, *, source: Mapping[str, object] | None = None, target: Mapping[str, object] | None = None
    ) -> None:
        self.name = f"t{uuid.uuid4().hex[:10]}"
        self._parts = parts
        self._more: tuple[Mapping[str, object], Mapping[str, object]] = (source or {}, target or {})
        self._stack = ExitStack()
        self._pipeline: Pipeline | None = None

    def __enter__(self) -> Self:
        self._source = self._stack.enter_context(self._parts.source_database())
        self._target = self._stack.enter_context(self._parts.target_database())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            self.stop()

    @property
    def source_dsn(self) -> str:
        """Connection string of the source database, for the test."""
        return self._source.test

    @property
    def target_dsn(self) -> str:
        """Connection string of the target database, for the test."""
        return self._target.test

    @property
    def settings(self) -> Settings:
        """The configuration with the addresses for the test."""
        kafka = self._parts.kafka.test
        return parse_settings(self._config(kafka, self.source_dsn, self.target_dsn), f"the test's stream {self.name}")

    @property
    def config(self) -> StreamConfig:
        """The stream's part of `settings`."""
        return self.settings.streams[0]

    def headrace_config(self) -> dict[str, object]:
        """The configuration with the addresses for Headrace."""
        return self._config(self._parts.kafka.headrace, self._source.headrace, self._target.headrace)

    def _config(self, kafka: str, source_dsn: str, target_dsn: str) -> dict[str, object]:
        source, target = self._more
        return stream_config(self.name, kafka, source_dsn, target_dsn, source=source, target=target)

    def write_config(self, path: Path) -> Path:
        """Write the configuration for the test's side, for the `headrace` command."""
        path.write_text(toml_text(self._config(self._parts.kafka.test, self.source_dsn, self.target_dsn)))
        return path

    def create(self, *statements: str) -> None:
        """Run statements on both sides, each by itself: the tables, which Headrace does not create."""
        for dsn in (self.source_dsn, self.target_dsn):
            with psycopg.connect(dsn, autocommit=True) as conn:
                for statement in statements:
                    conn.execute(statement.encode())

    def write(self, *statements: str) -> None:
        """Run statements on the source in one transaction."""
        with psycopg.connect(self.source_dsn) as conn:
            for statement in statements:
                conn.execute(statement.encode())

    def start(self) -> None:
        """Start Headrace."""
        self._pipeline = self._parts.run(self.headrace_config())

    def stop(self) -> None:
        """End Headrace, if it runs; `start` goes on where it stopped."""
        if self._pipeline is not None:
            self._pipeline.stop()
            self._pipeline = None

    def logs(self) -> str:
        """What Headrace has logged since its start."""
        return self._pipeline.logs() if self._pipeline is not None else "Headrace does not run"

    def wait(self, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until all that is committed at the source is applied.

        Raises NotCaughtUpError, StreamStoppedError.
        """
        wait_for_target(self.config, timeout_s)


__all__ = ["Addresses", "Stream"]
