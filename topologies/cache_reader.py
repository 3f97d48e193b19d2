"""A stream as its readers see it: how far, and the connection for rows that no cache has."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from connectors.rows import TargetRows
from pipeline.errors import RetriableError
from topologies.cache_follower import StreamFollower
from topologies.stream_settings import StreamConfig
from topologies.target_rows import connect_rows

WAITERS_MAX = 10_000


class NotYetError(RetriableError):
    """The position that a reader asks for was not visible in time."""


class StreamReader:
    """Reads rows of one stream for the node; `rows` is used by one worker thread, the rest by the event loop's."""

    def __init__(self, stream: StreamConfig, follower: StreamFollower) -> None:
        self.stream, self.follower = stream, follower
        self.pool = ThreadPoolExecutor(1, thread_name_prefix=f"rows {stream.name}")
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._rows: TargetRows | None = None

    def rows(self) -> TargetRows:
        """The connection, opened when first used. In the worker's thread only."""
        if self._rows is None:
            self._rows = connect_rows(self.stream)
        return self._rows

    def drop(self) -> None:
        """Close a connection that has failed."""
        if self._rows is not None:
            self._rows.close()
            self._rows = None

    # ---- positions -------------------------------------------------------------------------------

    @property
    def visible(self) -> int:
        """How far a reader sees; -1 while the target is in another generation than the log."""
        cache = self.follower.cache
        return cache.reached if cache.current else -1

    def wake(self) -> None:
        """The follower has moved: let those go on who wait for what is visible now."""
        visible = self.visible
        for position, future in self._waiters:
            if position <= visible and not future.done():
                future.set_result(None)
        self._waiters = [waiter for waiter in self._waiters if not waiter[1].done()]
        if not self._waiters:
            self.follower.hurry.clear()

    async def wait_visible(self, position: int, timeout_s: float) -> None:
        """Wait until `position` is visible. Raises NotYetError."""
        if (visible := self.visible) >= position:
            return
        if len(self._waiters) >= WAITERS_MAX:
            raise NotYetError(f"stream {self.stream.name}: {WAITERS_MAX} readers wait already")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((position, future))
        self.follower.hurry.set()
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            raise NotYetError(
                f"stream {self.stream.name}: position {position} is not visible after {timeout_s:.1f} s; "
                f"visible is {visible}"
            ) from None
