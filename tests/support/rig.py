"""A stream whose roles are child processes, to be killed, paused and restarted at will.

Nothing is left running: `close` ends the roles, and the kernel ends them if the test process dies.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg
from confluent_kafka import KafkaException

from connectors.base import TableCheck
from connectors.failpoints import ENV_FAILPOINTS
from connectors.ledger import StreamRow
from connectors.postgres.admin import PostgresSourceAdmin
from connectors.postgres.ledger import PostgresLedger
from connectors.postgres.verify import verify_tables
from pipeline.errors import HeadraceError
from tests.support.fresh import reported_lag
from tests.support.memory import MemoryPeaks
from topologies.kafka import ENV_INSTANCE, make_admin
from topologies.settings import Settings
from topologies.settings_file import load_settings
from topologies.stream_settings import StreamConfig
from topologies.topics import TOPICS

ROLES = ("capture", "plan", "apply")
POLL_S = 0.05
WAIT_S = 50.0  # how long a condition may take on a machine that is busy with something else
LOG_LINES = 25  # of each role, in a failure's message
EX_RETRY = 75  # a role that ends so met a fault that may pass
EX_OPERATOR = 78  # a role that ends so waits for an operator: restarting it changes nothing
_ROOT = Path(__file__).parents[2]


@dataclass(slots=True)
class Role:
    """A role's process; it is started anew when it ends, while `wanted`."""

    name: str
    log_path: Path
    process: subprocess.Popen[bytes] | None = None
    wanted: bool = True
    gave_up: bool = False
    codes: list[int] = field(default_factory=list)
    failpoints: str = ""  # of its next life

    @property
    def alive(self) -> bool:
        """Whether the process runs (or is paused)."""
        return self.process is not None and self.process.poll() is None


class Rig:
    """One stream between two databases, with a topic prefix of its own.

    `source`, `target`, `stream`, `kafka` and `options` (of Kafka's clients) are further settings of those sections.
    Roles are named after what they do; a second one of a kind has a suffix: "apply-2". `faults` counts what was done
    to them.
    """

    def __init__(
        self, directory: Path, servers: str, source_dsn: str, target_dsn: str, *,
        source: Mapping[str, object] | None = None, target: Mapping[str, object] | None = None,
        stream: Mapping[str, object] | None = None,
        kafka: Mapping[str, object] | None = None, options: Mapping[str, object] | None = None,
    ) -> None:  # fmt: skip
        self.stream = f"t{uuid.uuid4().hex[:10]}"
        self.source_dsn, self.target_dsn = source_dsn, target_dsn
        self._directory = directory
        self.config_path = directory / f"{self.stream}.toml"
        self.config_path.write_text(
            _toml(
                self.stream,
                {"bootstrap_servers": servers, "topic_prefix": self.stream, **(kafka or {})},
                options or {},
                {"dsn": source_dsn, **(source or {})},
                {"dsn": target_dsn, **(target or {})},
                stream or {},
            )
        )
        self.settings: Settings = load_settings(self.config_path)
        self.config: StreamConfig = self.settings.streams[0]
        self.roles: dict[str, Role] = {}
        self.environment: dict[str, dict[str, str]] = {}  # role -> what it has besides this process's
        self.programs: dict[str, Sequence[str]] = {}  # role -> what is run for it instead of `headrace ROLE`
        self.faults: Counter[str] = Counter()
        self.peak_mib = MemoryPeaks()
        self._lock = threading.RLock()
        self._closing = threading.Event()
        # Starts every process: the kernel ties "end with your parent" to the thread that started a child.
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self._keeper.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.peak_mib.look(self._processes(), now=True)
                self.peak_mib.check()
        finally:
            self.close()

    # ---- processes -----------------------------------------------------------------------------

    def start(self, *names: str) -> None:
        """Start roles (default: one of each) and keep them running until `stop` or `kill(..., again=False)`."""
        with self._lock:
            for name in names or ROLES:
                role = self.roles.setdefault(name, Role(name, self._directory / f"{self.stream}-{name}.log"))
                role.wanted, role.gave_up = True, False
        self.until(lambda: all(self.roles[name].process is not None for name in names or ROLES), "roles start")

    def kill(self, *names: str, again: bool = True) -> None:
        """End roles with SIGKILL, all at once; they are started again, unless told otherwise."""
        with self._lock:
            roles = [self.roles[name] for name in names]
            for role in roles:
                role.wanted = again
            for role in roles:
                if role.process is not None:
                    role.process.kill()
                    self.faults[f"kill -9 {role.name}"] += 1

    def kill_at(self, name: str, failpoint: str, hit: int = 1, *, action: str = "kill") -> None:
        """Start a role anew so that it dies at the failpoint, or fails there ("error"); it is started again without.

        Returns when it has ended there.
        """
        role = self.roles[name]
        code = -signal.SIGKILL if action == "kill" else EX_RETRY
        with self._lock:
            role.failpoints = f"{failpoint}={action}@{hit}"
            process, lives = role.process, len(role.codes)
        if process is not None:  # else it has just ended by itself: the next life has the failpoint all the same
            process.terminate()
            lives += 1
        self.until(lambda: role.codes[lives:][:1] == [code], f"{name} ends at {failpoint}")
        self.faults[f"{action} at {failpoint}"] += 1

    def stop(self, *names: str) -> list[int]:
        """End roles with SIGTERM, in order and for good; returns their exit codes."""
        codes = []
        for name in names:
            with self._lock:
                role = self.roles[name]
                role.wanted = False
                process = role.process
            if process is not None:
                process.terminate()
                process.wait(WAIT_S)
            self.until(lambda role=role: role.process is None, f"{name} ends", failing=False)  # type: ignore[misc]
            codes.append(role.codes[-1])
        return codes

    def pause(self, name: str) -> None:
        """Freeze a role (SIGSTOP)."""
        self.faults[f"SIGSTOP {name}"] += 1
        self._signal(name, signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """Let a frozen role go on (SIGCONT)."""
        self._signal(name, signal.SIGCONT)

    def _signal(self, name: str, signum: signal.Signals) -> None:
        process = self.roles[name].process
        if process is None:
            raise AssertionError(self._report(f"{name} does not run"))
        process.send_signal(signum)

    def pid(self, name: str) -> int:
        """The process id of a running role."""
        process = self.roles[name].process
        return process.pid if process is not None else -1

    def wait_for_end(self, name: str) -> int:
        """Wait until a role has ended and will not be started again by itself; returns its exit code."""
        role = self.roles[name]
        self.until(lambda: role.gave_up, f"{name} gives up", failing=False)
        return role.codes[-1]

    def _keep(self) -> None:
        while not self._closing.wait(POLL_S):
            with self._lock:
                for role in self.roles.values():
                    self._keep_role(role)
            self.peak_mib.look(self._processes())

    def _processes(self) -> list[tuple[str, int]]:
        return [(name, self.pid(name)) for name in tuple(self.roles)]

    def _keep_role(self, role: Role) -> None:
        if role.process is not None:
            code = role.process.poll()
            if code is None:
                return
            role.codes.append(code)
            role.process = None
            if code == EX_OPERATOR:
                role.wanted, role.gave_up = False, True
        if role.wanted:
            kind = role.name.partition("-")[0]
            command = [sys.executable, "-m", "headrace.cli", kind, "-c", str(self.config_path)]
            with role.log_path.open("ab") as log:
                role.process = subprocess.Popen(
                    self.programs.get(role.name, command), cwd=_ROOT, stdin=subprocess.DEVNULL,
                    stdout=log, stderr=log, start_new_session=True,
                    env={
                        **os.environ, "HEADRACE_SUPERVISOR_PID": str(os.getpid()),
                        ENV_INSTANCE: f"{self.stream}-{role.name}", ENV_FAILPOINTS: role.failpoints,
                        **self.environment.get(role.name, {}),
                    },
                )  # fmt: skip
            role.failpoints = ""

    def close(self) -> None:
        """End all roles and delete the stream's topics."""
        with self._lock:
            for role in self.roles.values():
                role.wanted = False
                if role.process is not None:
                    role.process.kill()
        self._closing.set()
        self._keeper.join()
        for role in self.roles.values():
            if role.process is not None:
                role.process.wait()
        self._delete_topics()

    def _delete_topics(self) -> None:
        """Sixty partitions a test would slow the session's broker down; one that is away is left alone."""
        admin = make_admin(self.settings)
        names = [self.settings.topic(topic.kind) for topic in TOPICS]
        for future in admin.delete_topics(names, operation_timeout=0, request_timeout=5).values():
            with contextlib.suppress(Exception):
                future.result()

    def rewrite_config(self, old: str, new: str) -> None:
        """Change the stream's file; roles that start from now on read it so."""
        text = self.config_path.read_text()
        assert old in text, f"{old!r} is not in the configuration"
        self.config_path.write_text(text.replace(old, new))
        self.settings = load_settings(self.config_path)
        self.config = self.settings.streams[0]

    # ---- logs ----------------------------------------------------------------------------------

    def log(self, name: str) -> str:
        """What a role has logged, over all its lives."""
        path = self.roles[name].log_path
        return path.read_text(errors="replace") if path.exists() else ""

    def wait_for_log(self, name: str, text: str) -> None:
        """Wait until a role has logged `text`."""
        self.until(lambda: text in self.log(name), f"{name} logs {text!r}", failing=False)

    def _report(self, what: str) -> str:
        lines = [what]
        for name, role in self.roles.items():
            state = "runs" if role.alive else "does not run"
            lines.append(f"---- {name} ({state}; ended with {role.codes}): its last lines")
            lines += self.log(name).splitlines()[-LOG_LINES:]
        return "\n".join(lines)

    # ---- conditions ----------------------------------------------------------------------------

    def until(
        self, condition: Callable[[], object], what: str, *, failing: bool = True, timeout_s: float = WAIT_S
    ) -> None:
        """Poll `condition` until it is true. Errors of servers that are away count as false.

        With `failing`, a role that gave up ends the wait at once.
        """
        end_s = time.monotonic() + timeout_s
        last = ""
        while True:
            try:
                if condition():
                    return
            except (psycopg.Error, KafkaException, HeadraceError) as error:
                last = f" (last error: {error})"
            if failing and any(role.gave_up for role in self.roles.values()):
                raise AssertionError(self._report(f"a role gave up while this was awaited: {what}{last}"))
            if time.monotonic() > end_s:
                raise AssertionError(self._report(f"not in {timeout_s:.0f} s: {what}{last}"))
            time.sleep(POLL_S)

    def stream_row(self) -> StreamRow | None:
        """The stream's row in the ledger."""
        with contextlib.closing(PostgresLedger(self.stream, self.config.target_settings())) as ledger:
            return ledger.stream_row()

    def wait_until_applied(self, *, timeout_s: float = WAIT_S) -> None:
        """Wait until everything committed at the source so far is applied: a marker is passed."""
        admin = PostgresSourceAdmin(self.stream, self.config.source_settings())
        marks: list[tuple[int, int]] = []

        def passed() -> bool:
            row = self.stream_row()
            if row is None or not row.generation:
                return False
            if not marks or marks[-1][0] != row.generation:  # a marker from before a slot never comes out of it
                marks.append((row.generation, admin.mark()))
            return row.watermark >= marks[-1][1]

        self.until(passed, "everything is applied", timeout_s=timeout_s)

    def wait_until_equal(self, *tables: str, timeout_s: float = WAIT_S) -> None:
        """Wait until everything is applied, then compare source and target (only `tables`, if given)."""
        self.wait_until_applied(timeout_s=timeout_s)
        wrong = [check for check in self.compare(*tables) if check.differences]
        if wrong:
            raise AssertionError(self._report(f"source and target differ: {wrong}"))

    def wait_until_settled(self) -> None:
        """Wait until source and target are equal, and the roles' reports make the monitor say so: no lag is left."""
        self.wait_until_equal()
        self.until(lambda: reported_lag(self.settings, self.stream).age_s == 0, "the roles report no lag")

    def compare(self, *tables: str) -> list[TableCheck]:
        """Compare source and target as they are now."""
        checks = list(verify_tables(self.config.source_settings(), self.config.target_settings()))
        found = [check for check in checks if not tables or check.table.removeprefix("public.") in tables]
        assert len(found) == (len(tables) or len(checks)) > 0, f"{tables} are not all among {checks}"
        return found

    # ---- databases -----------------------------------------------------------------------------

    def both(self, *statements: str) -> None:
        """Run statements on source and target, each by itself."""
        for dsn in (self.source_dsn, self.target_dsn):
            with psycopg.connect(dsn, autocommit=True) as conn:
                for statement in statements:
                    conn.execute(statement.encode())

    def source(self, *statements: str) -> None:
        """Run statements on the source in one transaction."""
        with psycopg.connect(self.source_dsn) as conn:
            for statement in statements:
                conn.execute(statement.encode())

    def target_connection(self) -> psycopg.Connection[tuple[object, ...]]:
        """A connection to the target that commits each statement."""
        return psycopg.connect(self.target_dsn, autocommit=True)

    def target_rows(self, query: str) -> list[tuple[object, ...]]:
        """The rows of a query on the target."""
        with psycopg.connect(self.target_dsn, autocommit=True) as conn:
            return conn.execute(query.encode()).fetchall()

    def source_rows(self, query: str) -> list[tuple[object, ...]]:
        """The rows of a query on the source."""
        with psycopg.connect(self.source_dsn, autocommit=True) as conn:
            return conn.execute(query.encode()).fetchall()


def _toml(
    stream: str, kafka: Mapping[str, object], options: Mapping[str, object], source: Mapping[str, object],
    target: Mapping[str, object], more: Mapping[str, object],
) -> str:  # fmt: skip
    lines = ["[kafka]", *_settings(kafka), "[kafka.options]", *_settings(options)]
    lines += ["[[streams]]", f'name = "{stream}"', *_settings(more), "[streams.source]", *_settings(source)]
    return "\n".join([*lines, "[streams.target]", *_settings(target), ""])


def _settings(values: Mapping[str, object]) -> Iterator[str]:
    for name, value in values.items():
        yield f'"{name}" = {_toml_value(value)}'


def _toml_value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml_value(key)} = {_toml_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    return str(value)
