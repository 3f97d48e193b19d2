"""A file that a role touches while its main loop turns: what a container's health check looks at."""

from __future__ import annotations

import logging
import math
import os
import time
from pathlib import Path

log = logging.getLogger(__name__)
ENV_HEARTBEAT = "HEADRACE_HEARTBEAT"
INTERVAL_S = 1.0


class Heartbeat:
    """Touches `path` about once a second, as long as somebody calls `beat`; without a path it does nothing.

    A file that cannot be touched is said once: the health check shows it, and the role goes on.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._beaten_s = -math.inf

    @classmethod
    def from_environment(cls) -> Heartbeat:
        """The heartbeat whose file `HEADRACE_HEARTBEAT` names."""
        path = os.environ.get(ENV_HEARTBEAT)
        return cls(Path(path) if path else None)

    def beat(self) -> None:
        """Say that the loop turned."""
        now_s = time.monotonic()
        if self._path is None or now_s - self._beaten_s < INTERVAL_S:
            return
        self._beaten_s = now_s
        try:
            self._path.touch()
        except OSError as error:
            log.warning("no heartbeat: %s cannot be touched (%s); %s names the file", self._path, error, ENV_HEARTBEAT)
            self._path = None
