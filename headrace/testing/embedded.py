"""The parts as child processes: embedded Kafka and PostgreSQL, and `headrace run`. Needs the extra `embedded`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from headrace.child import ends_itself
from headrace.console import ENV_SUPERVISOR
from headrace.embedded import EmbeddedKafka, EmbeddedPostgres
from headrace.testing.config import toml_text
from headrace.testing.databases import new_database
from headrace.testing.parts import Addresses

STOP_S = 30.0
# No test pulls the plug, and a killed server loses nothing that the kernel has.
PG_SETTINGS = {"fsync": "off", "max_wal_senders": "50", "max_replication_slots": "50", "max_connections": "200"}


class EmbeddedParts:
    """Kafka and two PostgreSQL servers of this machine, each started when it is first asked for.

    Their files are in `directory`, which another system user must be able to enter when root runs the test.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stack = ExitStack()
        self._kafka: EmbeddedKafka | None = None
        self._servers: dict[str, EmbeddedPostgres] = {}
        self._runs = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def kafka(self) -> Addresses:
        """The broker."""
        if self._kafka is None:
            self._kafka = self._stack.enter_context(EmbeddedKafka(self._directory))
        return Addresses(self._kafka.bootstrap_servers, self._kafka.bootstrap_servers)

    def _server(self, side: str) -> EmbeddedPostgres:
        if side not in self._servers:
            server = EmbeddedPostgres(self._directory / side, settings=PG_SETTINGS)
            self._servers[side] = self._stack.enter_context(server)
        return self._servers[side]

    @contextmanager
    def _database(self, side: str) -> Iterator[Addresses]:
        server = self._server(side)
        with new_database(server.dsn()) as name:
            yield Addresses(server.dsn(name), server.dsn(name))

    def source_database(self) -> AbstractContextManager[Addresses]:
        """A new database on the source server."""
        return self._database("source")

    def target_database(self) -> AbstractContextManager[Addresses]:
        """A new database on the target server."""
        return self._database("target")

    def run(self, config: Mapping[str, object]) -> EmbeddedPipeline:
        """Start `headrace run`; call it from the main thread, since its end is tied to that of the caller."""
        self._runs += 1
        path = self._directory / f"headrace-{self._runs}.toml"
        path.write_text(toml_text(config))
        return EmbeddedPipeline(path)


class EmbeddedPipeline:
    """`headrace run` as a child process."""

    def __init__(self, config: Path) -> None:
        self._log_path = config.with_suffix(".log")
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "headrace.cli", "run", "-c", str(config)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, ENV_SUPERVISOR: str(os.getpid())},
            )  # fmt: skip

    def logs(self) -> str:
        """What all roles have logged."""
        return self._log_path.read_text(errors="replace")

    def stop(self) -> None:
        """End it as an operator would; one that does not end is killed."""
        self._process.terminate()
        ends_itself(self._process, STOP_S)
