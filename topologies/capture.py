"""Capture: source database to the changes topic.

**Guarantee:** records continue the chain that the topic ends with; the source may forget only what all
in-sync replicas have acknowledged.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import TypeVar

from confluent_kafka import KafkaError, Message, Producer

from connectors.base import load_connector
from connectors.failpoints import hit
from connectors.ledger import Ledger
from connectors.source import Source, Tail
from pipeline.catalogue import TableName
from pipeline.errors import ConfigError, RetriableError, StreamStoppedError
from pipeline.linger import AdaptiveLinger
from pipeline.record_size import RecordSize
from schemas.change_batch import ChangeBatch
from schemas.change_batch_codec import decode_batch, encode_batch
from schemas.errors import SchemaError
from schemas.role_report import Buffer, RoleReport
from topologies.apart import require_apart
from topologies.kafka import last_record, make_admin, make_producer
from topologies.lead import LeadWatch
from topologies.reporting import Reporter
from topologies.settings import Settings
from topologies.stream_settings import StreamConfig
from topologies.topics import ensure_topics

log = logging.getLogger(__name__)
T = TypeVar("T")
UNACKNOWLEDGED_BYTES_MAX = 32 * 1024 * 1024
UNACKNOWLEDGED_RECORDS_MAX = 1000
UNACKNOWLEDGED_CHANGES_MAX = 10_000  # row changes; one batch may come on top
BACK_PRESSURE_POLL_S = 0.01


class Capture:
    """One stream's capture. `stopping` is asked between batches."""

    def __init__(self, settings: Settings, stream: StreamConfig, stopping: Callable[[], bool]) -> None:
        self._settings = settings
        self._stream = stream
        self._stopping = stopping
        self._topic = settings.topic("changes")
        self._partition = settings.numbers()[stream.name]
        self._waiting: deque[tuple[int, int]] = deque()  # bytes and row changes of the records not yet acknowledged
        self._bytes = 0
        self._changes = 0
        self._lead = LeadWatch(stream)
        self._in_parts = False  # the last record sent is a part, and not the last one, of a large transaction
        self._failed: KafkaError | None = None
        self._reporter = Reporter(settings, stream.name, "capture")
        self._linger = AdaptiveLinger() if stream.source.linger_ms is None else None
        self._size = RecordSize(stream.source.batch_transactions_max)
        self._resync = False  # an operator wants a new snapshot, and it has not begun
        self._ordered: frozenset[TableName] = frozenset()  # tables to copy anew that the source was told of
        self._in_copy: frozenset[TableName] = frozenset()  # of the copy sent last
        self._place = (0, 0, 0)  # generation, position and commit time of the last transaction sent

    def run(self) -> None:
        """Capture until stopped. Raises ConfigError, StreamStoppedError, RetriableError."""
        ensure_topics(make_admin(self._settings), self._settings)
        tail = self._tail()
        if tail is not None:
            self._place = (tail.generation, tail.position, 0)
        make = load_connector(self._stream.source.connector).source
        if make is None:
            raise ConfigError(f"stream {self._stream.name}: connector {self._stream.source.connector} is no source")
        as_text = self._prepare_target(anew=tail is None or tail.snapshot_open)
        settings = replace(self._stream.source_settings(), linger=self._linger, size=self._size, as_text=as_text)
        source = make(self._stream.name, settings)
        producer = make_producer(self._settings)
        log.info("stream %s: capture starts %s", self._stream.name, _start_text(tail))
        self._lead.start()
        try:
            self._copy(source, producer, tail)
        finally:
            self._lead.stop()
            producer.flush(10)
            source.close()

    def _prepare_target(self, *, anew: bool) -> bool:
        """Create what the target lacks, before anything that needs it is sent; whether values must travel as text.

        A stream that goes on does not wait for a target that is away.
        """
        source = load_connector(self._stream.source.connector).source_admin
        target = load_connector(self._stream.target.connector).target_admin
        if source is None or target is None:
            return True
        here = source(self._stream.name, self._stream.source_settings())
        there = target(self._stream.name, self._stream.target_settings())
        try:
            require_apart(self._stream.name, self._stream.source_settings(), here, there)
            if self._stream.target.create_tables == "missing":
                for line in there.create_missing(here.definitions()):
                    log.info("stream %s: created on the target: %s", self._stream.name, line)
            releases = here.release(), there.release()
        except RetriableError as error:
            if anew:
                raise
            log.warning("%s; values travel as text until the capture starts again", error)
            return True
        if releases[0] != releases[1]:
            log.info("stream %s: values travel as text from %s to %s", self._stream.name, *releases)
        return releases[0] != releases[1]

    def _tail(self) -> Tail | None:
        """Where to go on; None to start anew."""
        self._resync = self._ask_ledger(lambda ledger: ledger.resync_requested()) or False
        if self._resync:
            return None
        record = last_record(self._settings, self._topic, self._partition)
        if record is None:
            self._check_fresh()
            return None
        try:
            batch = decode_batch(record)
        except SchemaError as error:
            raise StreamStoppedError(
                f"stream {self._stream.name}: the last record of topic {self._topic}, partition {self._partition} "
                f"can't be read: {error}. If a newer version wrote it, upgrade, else "
                f"stop all roles and `headrace resync --stream {self._stream.name} --yes`."
            ) from error
        position = batch.last_position if batch.last_part else batch.previous_position
        return Tail(batch.generation, position, batch.kind == "snapshot" and not batch.table_copy, batch.end_position)

    def _check_fresh(self) -> None:
        """An empty topic is right for a new stream only: otherwise records were lost."""
        row = self._ask_ledger(lambda ledger: ledger.stream_row())
        if row is not None and row.generation:
            raise StreamStoppedError(
                f"stream {self._stream.name}: topic {self._topic}, partition {self._partition} is empty, but the "
                f"ledger has applied up to position {row.watermark}: the topic was deleted, or its retention is "
                "shorter than the outage. Changes may be lost. Take a new snapshot: stop all roles, then "
                f"`headrace resync --stream {self._stream.name} --yes`."
            )

    def _ask_ledger(self, call: Callable[[Ledger], T]) -> T | None:
        make = load_connector(self._stream.target.connector).ledger
        if make is None:
            return None
        with closing(make(self._stream.name, self._stream.target_settings())) as ledger:
            return call(ledger)

    def _copy(self, source: Source, producer: Producer, tail: Tail | None) -> None:
        for batch in source.batches(tail):
            if self._stopping():
                return
            if self._linger is not None:
                self._linger.batch(len(batch.positions) if batch is not None else 0, time.time_ns() // 1000)
            if batch is not None:
                self._send(source, producer, batch)
            producer.poll(0)
            self._check_failed()
            self._report(producer)
            self._order_copies(source)
            if self._resync and self._place[0] and not self._waiting:
                # Kafka has its beginning: a capture that dies now begins another one by itself.
                self._resync = False
                self._ask_ledger(lambda ledger: ledger.clear_resync())
            while self._full or self._too_far_ahead:
                source.keepalive()
                producer.poll(BACK_PRESSURE_POLL_S)
                self._check_failed()
                self._report(producer)
                if self._stopping():
                    return

    def _order_copies(self, source: Source) -> None:
        """Have the source copy tables that are wanted; each once, until the ledger says that Kafka has it."""
        wanted = self._lead.copies
        if wanted - self._ordered:
            source.copy_tables(wanted - self._ordered)
        self._ordered = wanted

    @property
    def _full(self) -> bool:
        """Whether the broker has to acknowledge something first."""
        return (
            self._bytes > UNACKNOWLEDGED_BYTES_MAX
            or self._changes > UNACKNOWLEDGED_CHANGES_MAX
            or len(self._waiting) > UNACKNOWLEDGED_RECORDS_MAX
        )

    @property
    def _too_far_ahead(self) -> bool:
        """Whether the target has to apply something first.

        Not in the middle of a large transaction: the target applies all of its parts or none.
        """
        ahead, limit = self._lead.state
        return ahead > 0 and ahead + self._bytes > limit and not self._in_parts

    def _report(self, producer: Producer) -> None:
        if not self._reporter.due():
            return
        generation, position, commit_time_us = self._place
        buffers = [
            Buffer("unacknowledged changes", self._changes, UNACKNOWLEDGED_CHANGES_MAX, "changes"),
            Buffer("unacknowledged records", len(self._waiting), UNACKNOWLEDGED_RECORDS_MAX, "records"),
            Buffer("unacknowledged bytes", self._bytes, UNACKNOWLEDGED_BYTES_MAX, "bytes"),
            Buffer("ahead of the target", *self._lead.state, "bytes"),
        ]
        controls = [control.control() for control in (self._linger, self._size) if control is not None]
        self._reporter.send(producer, RoleReport(
            self._stream.name, "capture", time.time_ns() // 1000, generation, position, commit_time_us,
            controls=controls, buffers=buffers,
        ))  # fmt: skip

    def _send(self, source: Source, producer: Producer, batch: ChangeBatch) -> None:
        try:
            record = encode_batch(batch)
        except SchemaError as error:
            tables = ", ".join(sorted({".".join(section.relation.name) for section in batch.sections}))
            raise StreamStoppedError(
                f"stream {self._stream.name}: position {batch.last_position}: {error}; a row of {tables} is too large "
                "for a record. Leave the column out (mapping.exclude_columns), or the table (source.exclude)."
            ) from error
        end_position, sent_s = batch.end_position, time.monotonic()
        if batch.table_copy and batch.part == 0:
            self._in_copy = frozenset(section.relation.name for section in batch.sections)
        copied = self._in_copy if batch.table_copy and batch.last_part else None

        def acknowledged(error: KafkaError | None, message: Message) -> None:
            size, changes = self._waiting.popleft()
            self._bytes -= size
            self._changes -= changes
            offset = message.offset()
            if error is None and offset is not None:
                self._lead.sent(offset, size)
            if self._linger is not None:
                self._linger.acknowledged((time.monotonic() - sent_s) * 1000)
            if error is not None:
                self._failed = self._failed or error
            elif copied and self._failed is None:
                self._lead.copied(copied)
            elif self._failed is None and end_position:
                # The producer is idempotent: acknowledgements of a partition come in order.
                hit("capture.before_confirm")
                source.confirm(end_position)

        self._in_parts = not batch.last_part
        if batch.positions and batch.last_part:
            self._place = (batch.generation, batch.last_position, batch.commit_times_us[-1])
        self._waiting.append((len(record), batch.rows()))
        self._bytes += len(record)
        self._changes += batch.rows()
        hit("capture.before_send")
        producer.produce(
            self._topic, record, key=self._stream.name, partition=self._partition, on_delivery=acknowledged,
            timestamp=time.time_ns() // 1_000_000,
        )  # fmt: skip
        hit("capture.after_send")

    def _check_failed(self) -> None:
        if self._failed is not None:
            raise RetriableError(
                f"stream {self._stream.name}: topic {self._topic} refused a record: {self._failed.str()}"
            )


def _start_text(tail: Tail | None) -> str:
    if tail is None:
        return "anew"
    if tail.snapshot_open:
        return "with a new snapshot: the last one was not finished"
    return f"after position {tail.position}"
