"""The change records of one stream between Faust's agent, which serves all, and the stream's own planner.

A planner waits while its windows are applied. Its queue then fills, and its partition alone is no longer
fetched; the other streams go on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine

from faust.types import TP, EventT

HOLD_AT = 16  # records of up to 1 MiB each; what was fetched before (up to the agent's own buffer) still comes
RELEASE_AT = 4
Spawn = Callable[[Coroutine[None, None, None]], object]


class StreamQueue:
    """Hands records to `take` one by one. `spawn` starts a task that ends with the application.

    `hold` and `release` stop and resume fetching of a partition.
    """

    def __init__(
        self, take: Callable[[EventT[bytes]], Awaitable[None]], spawn: Spawn,
        hold: Callable[[TP], None], release: Callable[[TP], None],
    ) -> None:  # fmt: skip
        self._take = take
        self._spawn = spawn
        self._hold = hold
        self._release = release
        self._events: deque[EventT[bytes]] = deque()
        self._running = False

    def put(self, event: EventT[bytes]) -> None:
        """Queue a record."""
        self._events.append(event)
        if len(self._events) >= HOLD_AT:
            self._hold(event.message.tp)
        if not self._running:
            self._running = True
            self._spawn(self._run())

    def clear(self) -> None:
        """Forget what is queued: the partition went to another worker, which reads it again."""
        self._events.clear()

    async def _run(self) -> None:
        try:
            while self._events:
                event = self._events.popleft()
                await self._take(event)
                if len(self._events) == RELEASE_AT:
                    self._release(event.message.tp)
        finally:
            self._running = False
