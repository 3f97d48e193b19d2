"""Sending a stream's change batches, and what the broker has not acknowledged of them.

**Guarantee:** records go out in the order of the calls; the source hears of a position only when all in-sync
replicas have everything up to it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import partial

from confluent_kafka import KafkaError, Message

from connectors.failpoints import hit
from pipeline.catalogue import TableName
from pipeline.errors import RetriableError, StreamStoppedError
from pipeline.linger import AdaptiveLinger
from schemas.change_batch import ChangeBatch
from schemas.change_batch_codec import encode_batch
from schemas.errors import SchemaError
from schemas.role_report import Buffer
from topologies.kafka import make_producer
from topologies.lead import LeadWatch
from topologies.settings import Settings

UNACKNOWLEDGED_BYTES_MAX = 32 * 1024 * 1024
UNACKNOWLEDGED_RECORDS_MAX = 1000
UNACKNOWLEDGED_CHANGES_MAX = 10_000  # row changes; one batch may come on top
FLUSH_S = 10.0


class ChangeSender:
    """Used by one thread: answers of the broker come in `poll`.

    `lead` and `linger` are told of acknowledged records. `place` is the generation, position and commit time of the
    last transaction sent; `in_parts`: the last record is a part, and not the last one, of a large transaction.
    """

    def __init__(self, settings: Settings, stream: str, lead: LeadWatch, linger: AdaptiveLinger | None) -> None:
        self.producer = make_producer(settings)
        self.place = (0, 0, 0)
        self.in_parts = False
        self._stream = stream
        self._topic = settings.topic("changes")
        self._partition = settings.numbers()[stream]
        self._lead = lead
        self._linger = linger
        self._waiting: deque[tuple[int, int]] = deque()  # bytes and row changes of the records not yet acknowledged
        self._bytes = 0
        self._changes = 0
        self._in_copy: frozenset[TableName] = frozenset()  # tables of the copy sent last
        self._failed: KafkaError | None = None

    @property
    def full(self) -> bool:
        """Whether the broker has to acknowledge something first."""
        return (
            self._bytes > UNACKNOWLEDGED_BYTES_MAX
            or self._changes > UNACKNOWLEDGED_CHANGES_MAX
            or len(self._waiting) > UNACKNOWLEDGED_RECORDS_MAX
        )

    @property
    def unacknowledged_bytes(self) -> int:
        """The size of what the broker has not acknowledged yet; 0 when it has everything."""
        return self._bytes

    def buffers(self) -> list[Buffer]:
        """What waits for the broker, for a report."""
        return [
            Buffer("unacknowledged changes", self._changes, UNACKNOWLEDGED_CHANGES_MAX, "changes"),
            Buffer("unacknowledged records", len(self._waiting), UNACKNOWLEDGED_RECORDS_MAX, "records"),
            Buffer("unacknowledged bytes", self._bytes, UNACKNOWLEDGED_BYTES_MAX, "bytes"),
        ]

    def send(self, batch: ChangeBatch, confirm: Callable[[int], None]) -> None:
        """Send `batch`; `confirm` gets its end position once that is safe. Raises StreamStoppedError: too large."""
        record, changes = self._encoded(batch), batch.rows()
        if batch.table_copy and batch.part == 0:
            self._in_copy = frozenset(section.relation.name for section in batch.sections)
        self.in_parts = not batch.last_part
        if batch.positions and batch.last_part:
            self.place = (batch.generation, batch.last_position, batch.commit_times_us[-1])
        self._waiting.append((len(record), changes))
        self._bytes += len(record)
        self._changes += changes
        hit("capture.before_send")
        self.producer.produce(
            self._topic, record, key=self._stream, partition=self._partition,
            on_delivery=partial(self._answered, time.monotonic(), self._when_safe(batch, confirm)),
            timestamp=time.time_ns() // 1_000_000,
        )  # fmt: skip
        hit("capture.after_send")

    def _encoded(self, batch: ChangeBatch) -> bytes:
        try:
            return encode_batch(batch)
        except SchemaError as error:
            tables = ", ".join(sorted({".".join(section.relation.name) for section in batch.sections}))
            raise StreamStoppedError(
                f"stream {self._stream}: position {batch.last_position}: {error}; a row of {tables} is too large "
                "for a record. Leave the column out (mapping.exclude_columns), or the table (source.exclude)."
            ) from error

    def _when_safe(self, batch: ChangeBatch, confirm: Callable[[int], None]) -> Callable[[], None]:
        """What to do when Kafka has `batch` and all before it."""
        if batch.table_copy and batch.last_part and self._in_copy:
            return partial(self._lead.copied, self._in_copy)
        end_position = batch.end_position

        def confirmed() -> None:
            if end_position:
                hit("capture.before_confirm")
                confirm(end_position)

        return confirmed

    def _answered(
        self, sent_s: float, when_safe: Callable[[], None], error: KafkaError | None, message: Message
    ) -> None:
        size, changes = self._waiting.popleft()
        self._bytes -= size
        self._changes -= changes
        offset = message.offset()
        if error is None and offset is not None:
            self._lead.sent(offset, size)
        if self._linger is not None:
            self._linger.acknowledged((time.monotonic() - sent_s) * 1000)
        self._failed = self._failed or error
        if self._failed is None:
            # The producer is idempotent: acknowledgements of a partition come in order.
            when_safe()

    def poll(self, timeout_s: float = 0) -> None:
        """Take the broker's answers, waiting for one if there is none. Raises RetriableError for a refused record."""
        self.producer.poll(timeout_s)
        if self._failed is not None:
            raise RetriableError(f"stream {self._stream}: topic {self._topic} refused a record: {self._failed.str()}")

    def close(self) -> None:
        """Wait for what is under way, but not long: what is not acknowledged is sent again by the next capture."""
        self.producer.flush(FLUSH_S)
