"""What a capture asks of the ledger: how far the target is, and which tables an operator wants copied anew.

Back-pressure: capture pauses while `changes` is too far ahead of the target. The source keeps in its own log what is
not read, and Kafka needs no more room than the limit. The ledger is asked by a thread of its own, since a target that
is away must not keep capture from answering its source. Until it has answered once, capture does not pause: where it
cannot reach the target, there is no limit.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection

from connectors.ledger import Ledger
from pipeline.catalogue import TableName
from pipeline.errors import HeadraceError
from pipeline.lead import Lead
from topologies.stream_parts import connect_ledger
from topologies.stream_settings import StreamConfig

log = logging.getLogger(__name__)
ASK_S = 1.0


class LeadWatch(threading.Thread):
    """Keeps a stream's lead and the copies that are wanted. Thread-safe."""

    def __init__(self, stream: StreamConfig) -> None:
        super().__init__(name=f"lead {stream.name}", daemon=True)
        self._stream = stream
        self._limit = stream.source.ahead_mb_max * 1024 * 1024
        self._lead = Lead()
        self._lock = threading.Lock()
        self.copies: frozenset[TableName] = frozenset()  # wanted, and not known to be in Kafka
        self._copied: set[TableName] = set()
        self._stopping = threading.Event()

    def sent(self, offset: int, size: int) -> None:
        """A record was acknowledged."""
        with self._lock:
            self._lead.sent(offset, size)

    def copied(self, tables: Collection[TableName]) -> None:
        """Kafka has the copies of these tables."""
        with self._lock:
            self._copied |= set(tables)

    @property
    def state(self) -> tuple[int, int]:
        """Bytes ahead of the target, and their limit."""
        with self._lock:
            return self._lead.bytes, self._limit

    def stop(self) -> None:
        """End the thread after the question it is at."""
        self._stopping.set()

    def run(self) -> None:
        """Ask the ledger once a second."""
        ledger: Ledger | None = None
        told = False
        while not self._stopping.wait(ASK_S):
            try:
                ledger = ledger or connect_ledger(self._stream)
                row = ledger.stream_row()
                self._look_for_copies(ledger)
            except HeadraceError as error:
                if not told:
                    log.warning("%s; capture can't tell how far the target is", error)
                told, ledger = True, self._closed(ledger)
                continue
            told = False
            if row is not None:
                with self._lock:
                    self._lead.applied(row.changes_offset)
        self._closed(ledger)

    def _look_for_copies(self, ledger: Ledger) -> None:
        with self._lock:
            copied = list(self._copied)
        if copied:
            ledger.copies_sent(copied)
            with self._lock:
                self._copied.difference_update(copied)
        self.copies = frozenset(ledger.requested_copies())

    @staticmethod
    def _closed(ledger: Ledger | None) -> None:
        """None, after closing what was open."""
        if ledger is not None:
            ledger.close()
