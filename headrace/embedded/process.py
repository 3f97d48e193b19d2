"""Child processes that never outlive their parent."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from headrace.embedded import guardian
from headrace.embedded.errors import EmbeddedError, server_failed

SPAWN_TIMEOUT_S = 20.0  # a Python interpreter and one fork: 0.05 s; 20 s on a machine that swaps
STOP_MARGIN_S = 5.0  # after the ladder of signals has run out: SIGKILL and the report


def run_logged(
    what: str,
    argv: Sequence[str],
    *,
    cwd: Path,
    log_path: Path,
    timeout_s: float,
    env: Mapping[str, str],
    account: tuple[int, int] | None = None,
    remedy: str = "Read the log named above.",
) -> None:
    """Run a short command to its end; its output is appended to `log_path`. `account` as in `Command`.

    :raises EmbeddedError: `what` could not be done: the command failed, or took longer than `timeout_s`.
    """
    uid, gid = account or (None, None)
    with log_path.open("ab") as log:
        try:
            done = subprocess.run(
                argv,
                cwd=cwd,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=uid,
                group=gid,
                extra_groups=None if account is None else [],
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise server_failed(f"{what}: no end after {timeout_s:.0f} s.", log_path, remedy) from error
    if done.returncode != 0:
        raise server_failed(f"{what} (exit status {done.returncode}).", log_path, remedy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A server to run.

    - `name`: as an operator calls it; for errors.
    - `log_path`: standard output and error are appended there.
    - `stop_ladder`: (signal, seconds to wait for the end), tried in order; after the last one SIGKILL.
    - `death_signal`: what the kernel sends should even the guardian be killed.
    - `account`: (uid, gid) to run as; only root may name one.
    """

    name: str
    argv: Sequence[str]
    cwd: Path
    log_path: Path
    stop_ladder: Sequence[tuple[signal.Signals, float]]
    env: Mapping[str, str] = field(default_factory=dict)
    death_signal: signal.Signals = signal.SIGKILL
    account: tuple[int, int] | None = None

    def plan(self) -> str:
        """The command as its guardian reads it."""
        uid, gid = self.account or (None, None)
        plan: guardian.Plan = {
            "argv": list(self.argv),
            "cwd": str(self.cwd),
            "log_path": str(self.log_path),
            "uid": uid,
            "gid": gid,
            "death_signal": int(self.death_signal),
            "stop_ladder": [(int(signum), wait_s) for signum, wait_s in self.stop_ladder],
            "parent": os.getpid(),
        }
        return json.dumps(plan)


class GuardedProcess:
    """A running server with its guardian (see `guardian`). Not for use by two threads at once.

    **Guarantee:** when this process ends, however it ends, the server ends too: by the stop ladder, or at
    once if the guardian was killed as well.
    """

    def __init__(self, command: Command) -> None:
        """Start `command`.

        :raises EmbeddedError: the program cannot be run.
        """
        self._command = command
        self._buffer = b""
        self._status: int | None = None
        self._guardian = self._start_guardian()
        self.pid = self._await_started()

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while the server runs. Does not block."""
        if self._status is None:
            self._next_report(0.0)
            if self._status is not None:
                self._release()
        return self._status

    def stop(self, first_signal: signal.Signals | None = None) -> int:
        """Stop by the ladder, from `first_signal` on if given; blocks until the end, returns the status."""
        return self._end("stop" if first_signal is None else f"stop {int(first_signal)}")

    def kill(self) -> int:
        """End the server with SIGKILL, as a crash would; blocks until it is gone, returns the status."""
        return self._end("kill")

    def _start_guardian(self) -> subprocess.Popen[bytes]:
        command = self._command
        with command.log_path.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", guardian.__file__, command.plan()],
                cwd="/",
                env=dict(command.env),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # a Ctrl-C is for Headrace, which stops its servers in order
                bufsize=0,
            )

    def _await_started(self) -> int:
        word, _, rest = self._next_report(SPAWN_TIMEOUT_S).partition(" ")
        if word == "started":
            return int(rest)
        self._guardian.kill()
        self._release()
        reason = rest or "no answer from its guardian process"
        raise EmbeddedError(
            f"Cannot run {self._command.name}: {reason}.",
            where=self._command.log_path,
            remedy=f"Check that {self._command.argv[0]} can be executed.",
        )

    def _end(self, request: str) -> int:
        if self.poll() is None:
            with contextlib.suppress(BrokenPipeError):  # it ended on its own at this moment
                self._pipe_to_guardian().write(f"{request}\n".encode())
            ladder_s = sum(wait_s for _, wait_s in self._command.stop_ladder)
            self._next_report(ladder_s + STOP_MARGIN_S)
        if self._status is None:
            self._guardian.kill()  # and with it, by its death signal, the server
            self._status = -signal.SIGKILL
        self._release()
        return self._status

    def _next_report(self, timeout_s: float) -> str:
        """The next line of the guardian; empty if none came in time, or ever will."""
        pipe = self._guardian.stdout
        deadline = time.monotonic() + timeout_s
        while pipe is not None and not pipe.closed and b"\n" not in self._buffer:
            ready = select.poll()
            ready.register(pipe, select.POLLIN)
            if not ready.poll(max(0.0, deadline - time.monotonic()) * 1000):
                return ""
            chunk = pipe.read(4096)
            if not chunk:  # the guardian was killed, and the server with it
                self._status = -signal.SIGKILL if self._status is None else self._status
                return ""
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        text = line.decode(errors="replace")
        if text.startswith("exited "):
            self._status = int(text.split()[1])
        return text

    def _pipe_to_guardian(self) -> IO[bytes]:
        if self._guardian.stdin is None:
            raise EmbeddedError("The guardian has no pipe.", remedy="Report this as a bug.")
        return self._guardian.stdin

    def _release(self) -> None:
        for pipe in (self._guardian.stdin, self._guardian.stdout):
            if pipe is not None:
                pipe.close()
        self._guardian.wait()
