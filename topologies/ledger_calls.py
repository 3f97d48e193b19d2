"""The planner's calls to its ledger: each in a thread, one at a time, again and again while the target is away."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from connectors.ledger import Ledger
from pipeline.errors import RetriableError
from topologies.target_connection import BACKOFF_S

log = logging.getLogger(__name__)
T = TypeVar("T")


class LedgerCalls:
    """One connection, opened when it is needed, and again after a fault that may pass."""

    def __init__(self, connect: Callable[[], Ledger]) -> None:
        self._connect = connect
        self._ledger: Ledger | None = None
        self._lock = threading.Lock()

    async def call(self, call: Callable[[Ledger], T]) -> T:
        """Return what `call` returns, however long the target is away. Raises what it raises beside RetriableError."""
        attempt = 0
        while True:
            try:
                return await self.once(call)
            except RetriableError as error:
                pause_s = BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)]
                log.warning("%s; trying again in %.1f s", error, pause_s)
                attempt += 1
                await asyncio.sleep(pause_s)

    async def once(self, call: Callable[[Ledger], T]) -> T:
        """The same with one try. Raises RetriableError when the target is away."""
        return await asyncio.to_thread(self._in_thread, call)

    def _in_thread(self, call: Callable[[Ledger], T]) -> T:
        """One at a time, though several tasks may ask: their transactions share the connection."""
        with self._lock:
            try:
                if self._ledger is None:
                    self._ledger = self._connect()
                    self._ledger.ensure()
                return call(self._ledger)
            except RetriableError:
                if self._ledger is not None:
                    self._ledger.close()
                    self._ledger = None
                raise
