"""What the embedded Kafka and PostgreSQL have in common: one owner a data directory, shared by many."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from headrace.embedded.errors import EmbeddedError, io_error, server_failed
from headrace.embedded.ownership import Running, exclusive
from headrace.embedded.ports import accepts
from headrace.embedded.process import GuardedProcess
from headrace.embedded.process_id import ProcessId, wait_gone

READY_TIMEOUT_S = 45.0  # broker 1.5 s, PostgreSQL 0.1 s, recovery after a crash a few; a loaded machine: ten times
READY_POLL_S = 0.02
ORPHAN_TIMEOUT_S = 40.0  # how long the guardian of a dead owner may take: its whole ladder
INHERITED_SETTINGS = ("PG", "KAFKA_", "JAVA_", "JDK_", "_JAVA_", "CLASSPATH")  # would change the servers


class EmbeddedServer(ABC):
    """A server of this machine's own, on 127.0.0.1, whose files are under `data_dir/<kind>`.

    A context manager: starts on entry, stops on exit. A server may be started again after `stop` or `kill`;
    it finds its data and keeps its port. Methods block; an object is not for use by two threads at once.

    **Guarantee:** at most one server runs on a data directory, and it never outlives its owner process.
    """

    kind: ClassVar[str]  # directory name
    title: ClassVar[str]  # as an operator calls it

    def __init__(self, data_dir: Path, *, port: int | None = None) -> None:
        self.home = data_dir.absolute() / self.kind
        self._wanted_port = port
        self._process: GuardedProcess | None = None  # if this object owns the server
        self._running: Running | None = None
        self._port: int | None = None  # stays known while the server is down

    # ---- life ----------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start the server and own it; returns once it answers.

        :raises EmbeddedError: it runs already, its port is taken, its files cannot be written, it gave up.
        """
        with self._locked():
            if alive := self._find_running():
                raise EmbeddedError(
                    f"{self.title} already runs on this data directory (process {alive.server.pid}, "
                    f"started by process {alive.owner.pid}).",
                    where=self.home,
                    remedy="Use that one (attach_or_start), stop it, or choose another data directory.",
                )
            self._start_locked()
        return self

    def attach_or_start(self) -> Self:
        """Use the server that runs on this data directory; start and own one only if none does.

        Several processes may call this at once: one starts the server, the others wait and share it. It
        stops with its owner.

        :raises EmbeddedError: as `start`.
        """
        with self._locked():
            self._running = self._find_running()
            if self._running is None:
                self._start_locked()
            else:
                self._port = self._running.port
        return self

    def stop(self) -> None:
        """Stop the server if this object owns it, else just let go of it. Harmless when it is stopped."""
        self._shut_down(lambda process: process.stop())

    def kill(self) -> None:
        """End the server and its children with SIGKILL, as a crash would; only its starter may."""
        self._require_owned("killed")
        self._shut_down(lambda process: process.kill())

    def restart(self) -> None:
        """Stop the server (unless it is down already) and start it on the same data and port."""
        if self._running is not None:
            self._require_owned("restarted")
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        return self if self._running is not None else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # ---- what it is ----------------------------------------------------------------------------

    @property
    def owned(self) -> bool:
        """Whether this object started the server and will stop it."""
        return self._process is not None

    @property
    def alive(self) -> bool:
        """Whether the server process runs now. Does not block."""
        if self._process is not None:
            return self._process.poll() is None
        return self._running is not None and self._running.server.alive()

    @property
    def pid(self) -> int:
        """The server's process id.

        :raises EmbeddedError: it is down.
        """
        if self._running is None:
            raise EmbeddedError(f"{self.title} is not running.", remedy="Call start() first.")
        return self._running.server.pid

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1; stays known while the server is down.

        :raises EmbeddedError: it was never started.
        """
        if self._port is None:
            raise EmbeddedError(f"{self.title} was not started.", remedy="Call start() first.")
        return self._port

    @property
    @abstractmethod
    def log_path(self) -> Path:
        """The file that says why a server ended."""

    # ---- for the servers -----------------------------------------------------------------------

    @abstractmethod
    def _prepare(self) -> int:
        """Make every file that the server needs; returns its port. The directory exists and is locked."""

    @abstractmethod
    def _launch(self) -> GuardedProcess:
        """Start the process. `_prepare` has run."""

    @abstractmethod
    def _answers(self, port: int) -> bool:
        """Whether the server serves. May block for about a second; something accepts connections."""

    def _shut_down(self, end: Callable[[GuardedProcess], object]) -> None:
        """Let go of the server; `end` its process first if this object owns it."""
        if self._process is not None:
            with self._locked():
                if Running.read(self._state_path) == self._running:  # else it died, and another was started
                    self._state_path.unlink(missing_ok=True)  # nobody may attach to a server that is leaving
                end(self._process)
        self._process = self._running = None

    # ---- inside --------------------------------------------------------------------------------

    @property
    def _state_path(self) -> Path:
        return self.home / "server.json"

    def _require_owned(self, deed: str) -> None:
        if self._process is None:
            raise EmbeddedError(
                f"{self.title} can be {deed} only through the object that started it.",
                remedy="Do it in the process that owns the server.",
            )

    def _start_locked(self) -> None:
        if self._process is not None:
            self._process.stop()  # it died: only its guardian is left to see off
        try:
            self._port = port = self._prepare()
            self._process = self._launch()
        except OSError as error:
            raise io_error(f"prepare {self.title}", Path(error.filename or self.home), error) from error
        try:
            self._await_ready(self._process, port)
            server = ProcessId.of(self._process.pid)
            if server is None:
                raise self._gave_up()
            self._running = Running(server=server, owner=ProcessId.current(), port=port)
            self._running.write(self._state_path)
        except BaseException:
            self._process.stop()
            self._process = self._running = None
            raise

    def _await_ready(self, process: GuardedProcess, port: int) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not (accepts(port) and self._answers(port)):
            if (status := process.poll()) is not None:
                raise self._gave_up(status)
            if time.monotonic() > deadline:
                what = f"{self.title} did not answer on port {port} within {READY_TIMEOUT_S:.0f} s."
                raise server_failed(what, self.log_path, "Read the log; a very busy machine may be too slow.")
            time.sleep(READY_POLL_S)

    def _gave_up(self, status: int | None = None) -> EmbeddedError:
        how = "" if status is None else f" (exit status {status})"
        what = f"{self.title} ended while starting{how}."
        return server_failed(what, self.log_path)

    def _find_running(self) -> Running | None:
        """The live server of this directory whose owner lives; waits for one whose owner died to leave."""
        running = Running.read(self._state_path)
        if running is None or not running.server.alive():
            return None
        if running.owner.alive():
            return running
        if not wait_gone([running.server], ORPHAN_TIMEOUT_S):
            raise EmbeddedError(
                f"{self.title} (process {running.server.pid}) is left over from a process that died.",
                where=self.home,
                remedy=f"kill -9 {running.server.pid}",
            )
        return None

    def _locked(self) -> AbstractContextManager[None]:
        return exclusive(self.home, self.title)


def clean_env(**extra: str) -> dict[str, str]:
    """This process's environment for a server: without what would silently change the server's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(INHERITED_SETTINGS)}
    return {**kept, **extra}
