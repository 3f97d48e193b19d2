"""The identity of processes: which one a pid means, whether it still runs."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from headrace.embedded.errors import EmbeddedError


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessId:
    """One process for all time: a pid alone may be given to another process later.

    `started` is the start time in clock ticks since boot, field 22 of /proc/PID/stat (proc(5)).
    """

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """The process that has `pid` now; None if there is none, or only its zombie."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return None
        fields = stat.rpartition(")")[2].split()  # the program's name may contain spaces
        return None if fields[0] in "ZX" else cls(pid=pid, started=int(fields[19]))

    @classmethod
    def current(cls) -> ProcessId:
        """This process."""
        me = cls.of(os.getpid())
        if me is None:
            raise EmbeddedError("/proc is not mounted.", remedy="Mount it: the embedded servers need it.")
        return me

    def alive(self) -> bool:
        """Whether this very process still runs."""
        return ProcessId.of(self.pid) == self


def processes_in(directory: Path) -> list[ProcessId]:
    """The live processes whose working directory is `directory`, as far as this user may see them."""
    target = directory.resolve()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if (entry / "cwd").readlink() == target and (process := ProcessId.of(int(entry.name))):
                    found.append(process)
    return found


def wait_gone(processes: Sequence[ProcessId], timeout_s: float) -> bool:
    """Wait until none of `processes` runs; False if some still do after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while any(process.alive() for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
