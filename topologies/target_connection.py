"""A lane's connection to its target: opened when needed, opened again after a fault that may pass."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from connectors.lane import LaneTarget
from pipeline.errors import RetriableError

log = logging.getLogger(__name__)
T = TypeVar("T")
BACKOFF_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class TargetConnection:
    """Used by one thread. `connect` opens a target; `pause` waits, and tells whether to give up."""

    def __init__(self, connect: Callable[[], LaneTarget], pause: Callable[[float], bool]) -> None:
        self._connect = connect
        self._pause = pause
        self._target: LaneTarget | None = None

    def open(self) -> LaneTarget:
        """The target. Raises ConfigError, RetriableError."""
        if self._target is None:
            self._target = self._connect()
        return self._target

    def drop(self) -> None:
        """Close the connection; the server rolls back what is open."""
        if self._target is not None:
            self._target.close()
            self._target = None

    def call(self, call: Callable[[LaneTarget], T]) -> T:
        """Call the target, again and again while it is away. Not for applying: its outcome may be unknown.

        Raises RetriableError when it is given up.
        """
        attempt = 0
        while True:
            try:
                return call(self.open())
            except RetriableError as error:
                self.drop()
                self.back_off(attempt, error)
                attempt += 1

    def back_off(self, attempt: int, error: RetriableError) -> None:
        """Pause before another try; raises `error` when it is given up."""
        pause_s = BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)]
        log.warning("%s; trying again in %.1f s", error, pause_s)
        if self._pause(pause_s):
            raise error
