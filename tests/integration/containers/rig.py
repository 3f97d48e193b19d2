"""A stream between two servers in containers, with what the bank's load needs, and its roles in containers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import psycopg
from confluent_kafka import KafkaException

from headrace.testing import Stream, assert_replicated
from headrace.testing.container_parts import ContainerParts, ContainerPipeline
from headrace.testing.containers import Container
from pipeline.errors import HeadraceError

POLL_S = 0.1
WAIT_S = 50.0
LOG_LINES = 120


class ContainerRig(Stream):
    """One stream whose roles are containers. With tables `cached` there can be the roles of cache and directory too."""

    def __init__(self, parts: ContainerParts, *, cached: Sequence[str] = ()) -> None:
        super().__init__(parts)
        self.parts = parts
        self.pipeline: ContainerPipeline
        self._cached = list(cached)

    def headrace_config(self) -> dict[str, object]:
        """The configuration with the addresses for Headrace."""
        config = super().headrace_config()
        if self._cached:
            config["directory"] = {"enabled": True}
            config["streams"] = [{**stream, "cache": self._cached} for stream in _tables(config["streams"])]
        return config

    def start_roles(self, counts: Mapping[str, int], commands: Mapping[str, Sequence[str]] | None = None) -> None:
        """Start containers of each role."""
        networks = (self.parts.log_network, self.parts.data_network)
        self.pipeline = ContainerPipeline(self.headrace_config(), networks, commands=commands)
        self._pipeline = self.pipeline
        self.pipeline.start(counts)

    def container(self, name: str) -> Container:
        """A server, or the first container of a role."""
        servers: dict[str, Container] = {
            "kafka": self.parts.broker, "source": self.parts.source, "target": self.parts.target,
        }  # fmt: skip
        return servers[name] if name in servers else self.pipeline.roles[name][0]

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Poll `condition` until it is true; errors of servers that are away count as false."""
        end_s = time.monotonic() + WAIT_S
        last = ""
        while True:
            try:
                if condition():
                    return
            except (psycopg.Error, KafkaException, HeadraceError) as error:
                last = f" (last error: {error})"
            if time.monotonic() > end_s:
                log = "\n".join(self.logs().splitlines()[-LOG_LINES:])
                raise AssertionError(f"not in {WAIT_S:.0f} s: {what}{last}\n{log}")
            time.sleep(POLL_S)

    def wait_until_equal(self) -> None:
        """Wait until everything is applied, then compare every row."""
        assert_replicated(self, timeout_s=WAIT_S)

    def wait_until_settled(self) -> None:
        """As `wait_until_equal`."""
        self.wait_until_equal()

    def both(self, *statements: str) -> None:
        """Run statements on both sides."""
        self.create(*statements)

    def source(self, *statements: str) -> None:
        """Run statements on the source in one transaction."""
        self.write(*statements)

    def source_rows(self, query: str) -> list[tuple[object, ...]]:
        """The rows of a query on the source."""
        return _rows(self.source_dsn, query)

    def target_rows(self, query: str) -> list[tuple[object, ...]]:
        """The rows of a query on the target."""
        return _rows(self.target_dsn, query)


def _tables(value: object) -> list[Mapping[str, object]]:
    assert isinstance(value, list)
    return value


def _rows(dsn: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn, autocommit=True, connect_timeout=5) as conn:
        return conn.execute(query.encode()).fetchall()
