"""Running `headrace` inside the test, or as a process."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from headrace import cli
from headrace.embedded import EmbeddedKafka
from tests.support.waiting import until

DEADLINE_S = 40.0
Starter = Callable[["Role"], "Role"]


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass
class Setup:
    """A configuration with a stream and topics of its own. Change the fields, then use it."""

    path: Path
    source: str
    target: str
    servers: str
    stream: str = field(default_factory=lambda: f"s{uuid.uuid4().hex[:10]}")
    more: dict[str, str] = field(default_factory=dict)

    @property
    def prefix(self) -> str:
        """The topics' prefix."""
        return f"t-{self.stream}"

    def write(self) -> Path:
        """Write the file. `more` holds further lines by section: kafka, stream, source, target."""
        extra = {name: self.more.get(name, "") for name in ("kafka", "stream", "source", "target")}
        self.path.write_text(f"""
[kafka]
bootstrap_servers = "{self.servers}"
topic_prefix = "{self.prefix}"
{extra["kafka"]}
[[streams]]
name = "{self.stream}"
{extra["stream"]}
[streams.source]
dsn = "{self.source}"
{extra["source"]}
[streams.target]
dsn = "{self.target}"
{extra["target"]}
""")
        return self.path

    def run(self, command: str, *arguments: str) -> Outcome:
        """Run a command that ends by itself, inside this process."""
        return invoke(command, "-c", str(self.write()), *arguments)

    def start(self, command: str, *arguments: str) -> Role:
        """Start a command as a process."""
        return Role([command, "-c", str(self.write()), *arguments])


class Role:
    """A process of `headrace`; its output is in `text()`."""

    def __init__(self, arguments: list[str]) -> None:
        self._file = io.BytesIO()
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
            # What a shell starts in the background ignores it, and so would all that it starts.
            signal.signal(signal.SIGINT, signal.default_int_handler)
        read, write = os.pipe()
        self._process = subprocess.Popen([sys.executable, "-m", "headrace.cli", *arguments], stdout=write, stderr=write)
        os.close(write)
        os.set_blocking(read, False)
        self._read = read
        self.pid = self._process.pid

    def text(self) -> str:
        """All it has said so far."""
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._read, 65536):
                self._file.write(chunk)
        return self._file.getvalue().decode(errors="replace")

    def await_text(self, wanted: str, timeout_s: float = DEADLINE_S) -> None:
        """Wait until it has said `wanted`."""

        def said() -> bool:
            if wanted in self.text():
                return True
            assert self._process.poll() is None, self.text()
            return False

        until(said, self.text, timeout_s)

    def end(self, timeout_s: float = DEADLINE_S) -> int:
        """Wait for its end; returns the exit code."""

        def ended() -> bool:
            self.text()  # a full pipe would keep it from ending
            return self._process.poll() is not None

        until(ended, self.text, timeout_s)
        return self._process.wait()

    def stop(self) -> int:
        """Send SIGTERM; returns the exit code."""
        self.terminate()
        return self.end()

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Make sure that it is gone."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._read)


def invoke(*arguments: str) -> Outcome:
    """Run `headrace` with these arguments inside this process."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["headrace", *arguments]
    code: object = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv = before
    return Outcome(code if isinstance(code, int) else 0, out.getvalue(), err.getvalue())


@pytest.fixture
def setup(tmp_path: Path, kafka: EmbeddedKafka, source_db: str, target_db: str) -> Setup:
    """A right configuration, and the table `items` on both sides with three rows at the source."""
    for dsn in (source_db, target_db):
        execute(dsn, "CREATE TABLE items (id int PRIMARY KEY, name text)")
    execute(source_db, "INSERT INTO items SELECT n, 'item ' || n FROM generate_series(1, 3) n")
    return Setup(tmp_path / "headrace.toml", source_db, target_db, kafka.bootstrap_servers)


@pytest.fixture
def start() -> Iterator[Starter]:
    """Hands over processes that end with the test."""
    roles: list[Role] = []

    def keep(role: Role) -> Role:
        roles.append(role)
        return role

    yield keep
    for role in roles:
        role.close()


def create_topic(servers: str, name: str, partitions: int) -> None:
    """Create a topic; the broker tells of it when this returns."""
    admin = AdminClient({"bootstrap.servers": servers})
    admin.create_topics([NewTopic(name, partitions)])[name].result()

    def told() -> bool:
        there = admin.list_topics(timeout=DEADLINE_S).topics
        return name in there and bool(there[name].partitions)

    until(told)


def execute(dsn: str, *statements: str) -> None:
    """Run statements, each committed by itself."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        for statement in statements:
            conn.execute(statement.encode())
