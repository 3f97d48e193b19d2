"""One partition of `grd-affinity`, as its decider writes it.

**Guarantee:** one writer at a time. The producer is transactional and named after the partition: opening it ends
whatever another process has begun, and refuses all that process sends from then on (KIP-98). Only then the partition
is read to its end, so a decider knows every record that came before its own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from pipeline.errors import RetriableError
from schemas.errors import SchemaError
from schemas.grd_affinity import GrdAffinity, decode_affinity, encode_affinity
from topologies.kafka import make_consumer, make_transactional_producer, raise_if_fatal
from topologies.settings import Settings

log = logging.getLogger(__name__)
TIMEOUT_S = 15.0
RECORDS_MAX = 1000


class FencedError(RetriableError):
    """Another process writes this partition now."""


class DecisionLog:
    """See the module. Blocking; one thread at a time."""

    def __init__(self, settings: Settings, partition: int) -> None:
        self._settings = settings
        self._topic = settings.topic("grd-affinity")
        self._partition = partition
        self._producer: Producer | None = None

    def open(self) -> list[GrdAffinity]:
        """Become the writer and return every record there is. Raises RetriableError."""
        self._producer = make_transactional_producer(
            self._settings, f"{self._settings.group('affinity')}-{self._partition}"
        )
        try:
            self._producer.init_transactions(TIMEOUT_S)
        except KafkaException as error:
            raise RetriableError(f"{self._where()}: {error.args[0].str()}") from error
        return [record for _, record in read_to_end(self._settings, [self._partition])]

    def write(self, records: Sequence[GrdAffinity]) -> None:
        """Write records in one transaction, whole or not at all. Raises FencedError, RetriableError."""
        if self._producer is None:
            raise RetriableError(f"{self._where()}: not open")
        try:
            self._producer.begin_transaction()
            for record in records:
                self._producer.produce(
                    self._topic, encode_affinity(record), key=record.block, partition=self._partition
                )
            self._producer.commit_transaction(TIMEOUT_S)
        except (KafkaException, BufferError) as error:
            self._producer = None  # the next to open ends what is unfinished
            raise self._refused(error) from error

    def _refused(self, error: KafkaException | BufferError) -> RetriableError:
        cause = error.args[0] if isinstance(error, KafkaException) else None
        if cause is not None and cause.code() in (KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH):  # noqa: SLF001
            return FencedError(f"{self._where()}: another process decides here now")
        return RetriableError(f"{self._where()}: {cause.str() if cause is not None else 'the producer is full'}")

    def _where(self) -> str:
        return f"topic {self._topic}, partition {self._partition}"


def read_to_end(settings: Settings, partitions: Sequence[int]) -> list[tuple[int, GrdAffinity]]:
    """Partition and record of every decision, in the order of each partition. Raises RetriableError."""
    topic = settings.topic("grd-affinity")
    records = []
    for message in read_all(settings, topic, partitions):
        try:
            records.append((message.partition() or 0, decode_affinity(message.value() or b"")))
        except SchemaError as error:
            log.warning("topic %s, partition %s, offset %s: %s", topic, message.partition(), message.offset(), error)
    return records


def read_all(settings: Settings, topic: str, partitions: Sequence[int], offset: int = 0) -> list[Message]:
    """The committed records with a value, from `offset` to the ends there are now. Raises RetriableError."""
    consumer = make_consumer(settings, settings.group("directory"), options={"enable.partition.eof": True})
    try:
        consumer.assign([TopicPartition(topic, partition, offset) for partition in partitions])
        return _until_end(consumer, topic, set(partitions))
    finally:
        consumer.close()


def _until_end(consumer: Consumer, topic: str, open_partitions: set[int]) -> list[Message]:
    found = []
    deadline_s = time.monotonic() + TIMEOUT_S
    while open_partitions:
        messages = consumer.consume(RECORDS_MAX, timeout=0.1)
        if messages:
            deadline_s = time.monotonic() + TIMEOUT_S
        elif time.monotonic() > deadline_s:
            raise RetriableError(f"topic {topic}: partitions {sorted(open_partitions)} are not read in {TIMEOUT_S} s")
        for message in messages:
            error = message.error()
            if error is None:
                if message.value() is not None:
                    found.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - the documented name of the constant
                open_partitions.discard(message.partition() or 0)
            else:
                raise_if_fatal(error)
    return found
