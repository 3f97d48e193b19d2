"""The demonstration's servers and its pipeline: `headrace run` as a child, its output kept in a file."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from headrace.child import ends_itself
from headrace.console import ENV_SUPERVISOR
from headrace.embedded import EmbeddedKafka, EmbeddedPostgres
from pipeline.errors import HeadraceError

STOP_S = 40.0  # a supervisor waits 25 s for its roles
LAST_LINES = 15
_STARTED = re.compile(r" (\S+) started, pid (\d+)$")
STREAM = "shop"
# The workload commits without waiting for the disk. Nobody may read such a commit before it is flushed, which
# the WAL writer does every 200 ms by default: that would be most of the lag.
SOURCE_SETTINGS = {"wal_writer_delay": "10ms"}
DATABASE = "postgres"

CONFIG = """\
# Written by `headrace demo`.
[kafka]
bootstrap_servers = "embedded"
data_dir = "."

[[streams]]
name = "{stream}"

[streams.source]
dsn = "{source}"
linger_ms = 5 # several transactions a record at this rate, for a few milliseconds of lag

[streams.target]
dsn = "{target}"
lanes = {lanes}
session_replication_role = "origin" # the target enforces every foreign key
"""


class PipelineError(HeadraceError):
    """`headrace run` ended by itself; its last lines are in the text."""


@dataclass(frozen=True, slots=True)
class Servers:
    """Source and target database, and the configuration file that names them."""

    source: EmbeddedPostgres
    target: EmbeddedPostgres
    kafka: EmbeddedKafka
    config: Path


@contextmanager
def servers(home: Path, lanes: int) -> Iterator[Servers]:
    """Start the three servers at once; they stop at the end. Raises EmbeddedError."""
    source, target = EmbeddedPostgres(home / "source", settings=SOURCE_SETTINGS), EmbeddedPostgres(home / "target")
    kafka = EmbeddedKafka(home)
    try:
        with ThreadPoolExecutor(3) as pool:
            for future in [pool.submit(server.start) for server in (source, target, kafka)]:
                future.result()
        config = home / "headrace.toml"
        text = CONFIG.format(stream=STREAM, source=source.dsn(DATABASE), target=target.dsn(DATABASE), lanes=lanes)
        config.write_text(text)
        yield Servers(source, target, kafka, config)
    finally:
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda server: server.stop(), (kafka, source, target)))


class Pipeline:
    """`headrace run` as a child process. `pids` are those of the roles as last started."""

    def __init__(self, config: Path) -> None:
        """Start it, from the main thread (its end is tied to the thread's)."""
        self.log_path = config.parent / "run.log"
        self.pids: dict[str, int] = {}
        self._last: deque[str] = deque(maxlen=LAST_LINES)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "headrace.cli", "run", "-c", str(config)],
            env={**os.environ, ENV_SUPERVISOR: str(os.getpid())}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        if self._process.stdout is None:
            return
        with self.log_path.open("w") as log:
            for line in self._process.stdout:
                log.write(line)
                log.flush()
                self._last.append(line.rstrip())
                if found := _STARTED.search(line.rstrip()):
                    self.pids[found[1]] = int(found[2])

    def check(self) -> None:
        """Raise PipelineError if it has ended."""
        code = self._process.poll()
        if code is not None:
            self._reader.join(2.0)
            lines = "\n  ".join(self._last)
            raise PipelineError(f"`headrace run` ended with exit code {code}. Its last lines:\n  {lines}")

    def kill(self, role: str) -> int:
        """Kill a role's process as a crash would; returns the pid."""
        pid = self.pids[role]
        os.kill(pid, signal.SIGKILL)
        return pid

    def stop(self) -> None:
        """Stop it with its roles."""
        if self._process.poll() is None:
            self._process.terminate()
            ends_itself(self._process, STOP_S)
        self._reader.join(2.0)
