"""The servers and roles of a benchmark: embedded Kafka, a source, a target, Headrace as child processes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from headrace.child import ends_itself
from headrace.embedded import EmbeddedKafka, EmbeddedPostgres

SOURCE = {
    "wal_level": "logical",
    "max_wal_senders": "20",
    "max_replication_slots": "20",
    "max_wal_size": "8GB",
    "autovacuum": "off",
}
TARGET = {"max_wal_size": "8GB", "max_logical_replication_workers": "8", "max_worker_processes": "16"}
POLL_S = 0.02
STOP_S = 30.0


@dataclass(frozen=True, slots=True)
class Servers:
    """Running servers and a working directory. `ends` holds what is to end before the servers do."""

    kafka: EmbeddedKafka
    source: EmbeddedPostgres
    target: EmbeddedPostgres
    directory: Path
    ends: ExitStack = field(default_factory=ExitStack)

    def roles(self, config: Path) -> Roles:
        """Processes of a configuration. They end before the servers do, however a benchmark ends."""
        roles = Roles(config)
        self.ends.callback(roles.stop)
        return roles

    def sql(self, server: EmbeddedPostgres, query: str, dbname: str = "postgres") -> list[tuple[object, ...]]:
        """Run a query on a server; return its rows."""
        with psycopg.connect(server.dsn(dbname), autocommit=True) as conn:
            cursor = conn.execute(query.encode())
            return cursor.fetchall() if cursor.description is not None else []

    def drop_slot(self, slot: str) -> None:
        """Drop a slot of the source, once its walsender has noticed that its client is gone."""
        query = f"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{slot}'"
        idle = f"SELECT FROM pg_replication_slots WHERE slot_name = '{slot}' AND active"
        wait_for(f"slot {slot}", lambda: not self.sql(self.source, idle))
        self.sql(self.source, query)

    def pgbench(self, server: EmbeddedPostgres, *arguments: str, dbname: str = "postgres", flush: bool = True) -> None:
        """Run pgbench against a server; without `flush` its commits wait for no disk."""
        command = [str(server.bin_dir / "pgbench"), *arguments, "-d", server.dsn(dbname)]
        options = {} if flush else {"PGOPTIONS": "-c synchronous_commit=off"}
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, **options})


@contextmanager
def servers(
    target_settings: Mapping[str, str] | None = None,
    source_settings: Mapping[str, str] | None = None,
    *,
    quick_start: bool = True,
) -> Iterator[Servers]:
    """Start the servers in a temporary directory; stop and remove them at the end.

    Without `quick_start` the broker is one that has served for a while, once it has been warmed up.
    """
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as name, ExitStack() as stack:
        directory = Path(name)
        directory.chmod(0o755)
        kafka = stack.enter_context(EmbeddedKafka(directory / "kafka", quick_start=quick_start))
        source = stack.enter_context(
            EmbeddedPostgres(directory / "source", settings={**SOURCE, **(source_settings or {})})
        )
        target = stack.enter_context(
            EmbeddedPostgres(directory / "target", settings={**TARGET, **(target_settings or {})})
        )
        yield Servers(kafka, source, target, directory, stack.enter_context(ExitStack()))


@dataclass(slots=True)
class Roles:
    """Headrace's processes by role."""

    config: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, *roles: str) -> None:
        """Start roles; their output goes to a file beside the configuration."""
        for role in roles:
            self.launch(role, [sys.executable, "-m", "headrace.cli", role, "-c", str(self.config)])

    def launch(self, role: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Start any program as `role`, with what `environment` adds to this process's own."""
        with self.config.with_suffix(f".{role}.log").open("ab") as log:
            self.processes[role] = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, **(environment or {})}
            )

    def stop(self) -> None:
        """Stop all roles. Raises RuntimeError when one had to be killed, since it did not end by itself."""
        for process in self.processes.values():
            process.terminate()
        deadline_s = time.monotonic() + STOP_S
        stuck = [
            role for role, process in self.processes.items() if not ends_itself(process, deadline_s - time.monotonic())
        ]
        logs = self.tails() if stuck else ""
        self.processes.clear()
        if stuck:
            raise RuntimeError(f"{', '.join(stuck)} did not stop within {STOP_S:.0f} s:\n{logs}")

    def tails(self) -> str:
        """The last lines of every role's log."""
        logs = (self.config.with_suffix(f".{role}.log").read_text(errors="replace") for role in self.processes)
        return "\n".join(log[-2000:] for log in logs)

    def check(self) -> None:
        """Raise RuntimeError with the log's end if a role has ended."""
        for role, process in self.processes.items():
            if process.poll() is not None:
                raise RuntimeError(f"{role} ended with {process.returncode}:\n{self.tails()}")


def wait_for(what: str, ready: Callable[[], bool], roles: Roles | None = None, timeout_s: float = 300) -> None:
    """Poll `ready()` until true. Raises TimeoutError naming `what`."""
    deadline_s = time.monotonic() + timeout_s
    while not ready():
        if roles is not None:
            roles.check()
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{what}\n{roles.tails() if roles else ''}")
        time.sleep(POLL_S)
