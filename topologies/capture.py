"""Capture: source database to the changes topic.

**Guarantee:** records continue the chain that the topic ends with; the source may forget only what all
in-sync replicas have acknowledged.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

from connectors.base import load_connector
from connectors.source import Source, Tail
from pipeline.catalogue import TableName
from pipeline.linger import AdaptiveLinger
from pipeline.record_size import RecordSize
from schemas.role_report import Buffer, RoleReport
from topologies.capture_start import find_tail, prepare_target, tail_text
from topologies.change_sender import ChangeSender
from topologies.kafka import make_admin
from topologies.lead import LeadWatch
from topologies.reporting import Reporter
from topologies.settings import Settings
from topologies.stream_parts import connect_ledger, required
from topologies.stream_settings import StreamConfig
from topologies.topics import ensure_topics

log = logging.getLogger(__name__)
BACK_PRESSURE_POLL_S = 0.01


class Capture:
    """One stream's capture. `stopping` is asked between batches."""

    def __init__(self, settings: Settings, stream: StreamConfig, stopping: Callable[[], bool]) -> None:
        self._settings = settings
        self._stream = stream
        self._stopping = stopping
        self._lead = LeadWatch(stream)
        self._linger = AdaptiveLinger() if stream.source.linger_ms is None else None
        self._size = RecordSize(stream.source.batch_transactions_max)
        self._sender = ChangeSender(settings, stream.name, self._lead, self._linger)
        self._reporter = Reporter(settings, stream.name, "capture")
        self._resync = False  # an operator wants a new snapshot, and it has not begun
        self._ordered: frozenset[TableName] = frozenset()  # tables to copy anew that the source was told of

    def run(self) -> None:
        """Capture until stopped. Raises ConfigError, StreamStoppedError, RetriableError."""
        ensure_topics(make_admin(self._settings), self._settings)
        with closing(connect_ledger(self._stream)) as ledger:
            self._resync = ledger.resync_requested()
        tail = None if self._resync else find_tail(self._settings, self._stream)
        if tail is not None:
            self._sender.place = (tail.generation, tail.position, 0)
        source = self._source(as_text=prepare_target(self._stream, anew=tail is None or tail.snapshot_open))
        log.info("stream %s: capture starts %s", self._stream.name, tail_text(tail))
        self._lead.start()
        try:
            self._copy(source, tail)
        finally:
            self._lead.stop()
            self._sender.close()
            source.close()

    def _source(self, *, as_text: bool) -> Source:
        make = required(load_connector(self._stream.source.connector).source, self._stream, "source")
        settings = replace(self._stream.source_settings(), linger=self._linger, size=self._size, as_text=as_text)
        return make(self._stream.name, settings)

    def _copy(self, source: Source, tail: Tail | None) -> None:
        sender = self._sender
        for batch in source.batches(tail):
            if self._stopping():
                return
            if self._linger is not None:
                self._linger.batch(len(batch.positions) if batch is not None else 0, time.time_ns() // 1000)
            if batch is not None:
                sender.send(batch, source.confirm)
            sender.poll()
            self._report()
            self._order_copies(source)
            if self._resync and sender.place[0] and not sender.unacknowledged_bytes:
                self._clear_resync()
            while sender.full or self._too_far_ahead:
                source.keepalive()
                sender.poll(BACK_PRESSURE_POLL_S)
                self._report()
                if self._stopping():
                    return

    def _clear_resync(self) -> None:
        """Kafka has the beginning of the new snapshot: a capture that dies now begins another one by itself."""
        self._resync = False
        with closing(connect_ledger(self._stream)) as ledger:
            ledger.clear_resync()

    def _order_copies(self, source: Source) -> None:
        """Have the source copy tables that are wanted; each once, until the ledger says that Kafka has it."""
        wanted = self._lead.copies
        if wanted - self._ordered:
            source.copy_tables(wanted - self._ordered)
        self._ordered = wanted

    @property
    def _too_far_ahead(self) -> bool:
        """Whether the target has to apply something first.

        Not in the middle of a large transaction: the target applies all of its parts or none.
        """
        ahead, limit = self._lead.state
        return ahead > 0 and ahead + self._sender.unacknowledged_bytes > limit and not self._sender.in_parts

    def _report(self) -> None:
        if not self._reporter.due():
            return
        buffers = [*self._sender.buffers(), Buffer("ahead of the target", *self._lead.state, "bytes")]
        controls = [control.control() for control in (self._linger, self._size) if control is not None]
        self._reporter.send(self._sender.producer, RoleReport(
            self._stream.name, "capture", time.time_ns() // 1000, *self._sender.place,
            controls=controls, buffers=buffers,
        ))  # fmt: skip
