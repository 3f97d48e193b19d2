"""From applied windows to acknowledged records: first the ledger's watermark passes them, then Faust hears (rule 4)."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence

from faust.types import EventT

from connectors.failpoints import hit
from pipeline.errors import RetriableError
from pipeline.window import Window
from topologies.ledger_calls import LedgerCalls

ADVANCE_S = 0.5  # between two advances


class Watermark:
    """The watermark of one stream. `windows` are applied, in order, and not yet passed by it."""

    def __init__(self, stream: str, ledger: LedgerCalls) -> None:
        self.windows: deque[Window] = deque()
        self._stream = stream
        self._ledger = ledger
        self._epoch = 0  # 0: of no planner
        self._advanced_s = 0.0
        self._advancing = asyncio.Lock()

    def begin(self, epoch: int) -> None:
        """Advance in this epoch from now on; no window may be left of the one before."""
        self._epoch = epoch

    def add(self, windows: Sequence[Window]) -> None:
        """Note applied windows, in order. Their records will not be planned again."""
        for window in windows:
            window.record = b""
        self.windows.extend(windows)

    @property
    def due(self) -> bool:
        """Whether the last advance is long enough ago."""
        return time.monotonic() - self._advanced_s >= ADVANCE_S

    async def advance(self) -> None:
        """Move the watermark past all windows, and acknowledge their records; one call at a time.

        Raises RetriableError when the epoch is over.
        """
        async with self._advancing:
            epoch, windows = self._epoch, list(self.windows)
            if not windows:
                return
            self._advanced_s = time.monotonic()
            await self._move(epoch, windows)
            if epoch != self._epoch:
                return  # the partition was lost meanwhile, and its events with it
            for window in windows:
                self.windows.popleft()
                if isinstance(window.token, EventT):
                    window.token.ack()

    async def _move(self, epoch: int, windows: Sequence[Window]) -> None:
        last = windows[-1]
        time_us = max(window.commit_time_us for window in windows)
        place = (epoch, last.generation, last.last_position, time_us, last.end_offset)
        hit("plan.before_advance")
        if not await self._ledger.call(lambda ledger: ledger.advance(*place)):
            raise superseded(self._stream, epoch)
        hit("plan.after_advance")

    def lose(self) -> None:
        """Forget all windows: the next owner of the partition reads their records again."""
        self._epoch = 0
        self.windows.clear()


def superseded(stream: str, epoch: int) -> RetriableError:
    """The error of a planner whose epoch is over."""
    # The records planned in it were not acknowledged: whoever starts next reads them again.
    return RetriableError(
        f"stream {stream}: epoch {epoch} is over, since another planner took over or a crash of the target may have "
        "lost commits; starting again"
    )
