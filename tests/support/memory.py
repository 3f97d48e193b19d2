"""The most memory that a stream's roles have had: bounded, whatever is done to them."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterable
from pathlib import Path

MEASURE_S = 0.5  # between two looks
MEMORY_MAX_MIB = 300
_PEAK = re.compile(r"VmHWM:\s+(\d+) kB")


class MemoryPeaks(dict[str, int]):
    """Role -> the most memory that a process of it has had, MiB."""

    _looked_s = 0.0

    def look(self, roles: Iterable[tuple[str, int]], *, now: bool = False) -> None:
        """Look at processes (names and process ids), every now and then."""
        if not now and time.monotonic() - self._looked_s < MEASURE_S:
            return
        self._looked_s = time.monotonic()
        for name, pid in roles:
            with contextlib.suppress(OSError):  # it has just ended
                found = _PEAK.search(Path(f"/proc/{pid}/status").read_text())
                if found is not None:
                    self[name] = max(self.get(name, 0), int(found[1]) // 1024)

    def check(self) -> None:
        """Raise AssertionError for a role that had more than a role may have."""
        wrong = {name: mib for name, mib in self.items() if mib > MEMORY_MAX_MIB}
        if wrong:
            raise AssertionError(f"memory of roles, MiB, over {MEMORY_MAX_MIB}: {wrong}")
