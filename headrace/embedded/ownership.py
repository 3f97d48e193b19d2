"""Who runs the server of a directory: a state file for other processes, a lock while that changes."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from headrace.embedded.errors import EmbeddedError, io_error
from headrace.embedded.process_id import ProcessId

LOCK_TIMEOUT_S = 90.0  # another process may be starting the server right now, after one that died
LOCK_POLL_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A server that runs: kept as server.json in its directory for other processes."""

    server: ProcessId
    owner: ProcessId
    port: int

    @classmethod
    def read(cls, path: Path) -> Running | None:
        """The server that `path` describes, dead or alive; None if there is no such file."""
        try:
            raw = json.loads(path.read_text())
            server, owner = ProcessId(**raw["server"]), ProcessId(**raw["owner"])
            return cls(server=server, owner=owner, port=int(raw["port"]))
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def write(self, path: Path) -> None:
        """Keep it in `path`, whole or not at all."""
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(self)) + "\n")
        fresh.replace(path)


@contextlib.contextmanager
def exclusive(directory: Path, title: str) -> Iterator[None]:
    """Hold the lock of `directory`, which is made if need be: one process at a time starts or stops a server.

    `title` names the server in errors. The lock ends with the process that holds it.

    :raises EmbeddedError: the directory cannot be used, or another process holds on to the lock.
    """
    path = directory / "lock"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise io_error(f"use the directory of {title}", directory, error) from error
    try:
        _lock(handle, path, title)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, path: Path, title: str) -> None:
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise EmbeddedError(
                    f"Another process has been starting or stopping {title} for {LOCK_TIMEOUT_S:.0f} s.",
                    where=path,
                    remedy=f"Find it with `fuser -v {path}`; stop it if it hangs.",
                ) from None
            time.sleep(LOCK_POLL_S)
        else:
            return
