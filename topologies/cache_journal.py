"""Reading the journal of blocks (`fusion-blocks`), and where in `changes` the log has to be read on from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from confluent_kafka import Consumer, TopicPartition

from pipeline.cache.records import stamp
from pipeline.errors import RetriableError
from schemas.change_batch import ChangeBatch
from schemas.change_batch_codec import decode_batch
from schemas.errors import SchemaError
from schemas.fusion_block import FusionBlock, decode_fusion_block
from topologies.kafka import TIMEOUT_S, make_consumer
from topologies.settings import Settings
from topologies.topics import KEYED_PARTITIONS

log = logging.getLogger(__name__)
WARM_RECORDS_MAX = 2000  # change records that a start reads again, for the blocks of the journal
POLL_S = 1.0


def read_blocks(settings: Settings, wanted: Callable[[FusionBlock], bool], bytes_max: int) -> list[FusionBlock]:
    """The newest record of each block that is wanted, as far as `bytes_max` of rows go."""
    newest: dict[bytes, FusionBlock] = {}
    size = 0
    for key, value in journal_records(settings):
        old = newest.get(key)
        old_bytes = old.rows_bytes if old is not None else 0
        if value is None:
            size -= old_bytes
            newest.pop(key, None)
            continue
        try:
            block = decode_fusion_block(value)
        except SchemaError as error:
            log.warning("a record of topic %s can't be read: %s", settings.topic("fusion-blocks"), error)
            continue
        room = size - old_bytes + block.rows_bytes <= bytes_max
        if wanted(block) and room and (old is None or stamp(old) <= stamp(block)):
            size += block.rows_bytes - old_bytes
            newest[key] = block
        elif old is not None and stamp(old) <= stamp(block):
            size -= old_bytes
            del newest[key]
    return list(newest.values())


def journal_records(settings: Settings) -> Iterator[tuple[bytes, bytes | None]]:
    """Keys and values of the whole topic, up to its present end."""
    consumer = make_consumer(settings, settings.group("cache-warm"))
    topic = settings.topic("fusion-blocks")
    try:
        ends = {}
        for partition in range(KEYED_PARTITIONS):
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=TIMEOUT_S)
            if high > low:
                ends[partition] = high
        consumer.assign([TopicPartition(topic, partition, 0) for partition in ends])
        while ends:
            yield from _take(consumer, ends)
    finally:
        consumer.close()


def _take(consumer: Consumer, ends: dict[int, int]) -> Iterator[tuple[bytes, bytes | None]]:
    """What there is; partitions that are read to their end leave `ends`. A compacted topic may end in a gap."""
    for message in consumer.consume(500, timeout=POLL_S):
        error, key = message.error(), message.key()
        if error is not None:
            raise RetriableError(f"reading the journal of blocks: {error.str()}")
        if isinstance(key, bytes):
            yield key, message.value()
    for where in consumer.position([TopicPartition(t.topic, t.partition) for t in consumer.assignment()]):
        if where.offset >= ends.get(where.partition, where.offset + 1):
            del ends[where.partition]


class ChangeLog:
    """One partition of `changes`, read from a chosen offset."""

    def __init__(self, settings: Settings, partition: int) -> None:
        self._topic, self._partition = settings.topic("changes"), partition
        self._consumer = make_consumer(settings, settings.group("cache"))
        self._paused = False

    def bounds(self) -> tuple[int, int]:
        """First offset, and the one after the last."""
        low, high = self._consumer.get_watermark_offsets(
            TopicPartition(self._topic, self._partition), timeout=TIMEOUT_S
        )
        return int(low), int(high)

    def seek(self, offset: int) -> None:
        """Read on from `offset`."""
        self._consumer.assign([TopicPartition(self._topic, self._partition, offset)])

    def batch_at(self, offset: int) -> ChangeBatch:
        """The record at `offset`. Raises RetriableError, SchemaError."""
        self.seek(offset)
        for message in self._consumer.consume(1, timeout=TIMEOUT_S):
            value = message.value()
            if message.error() is None and value is not None:
                return decode_batch(value)
        raise RetriableError(f"topic {self._topic}, partition {self._partition}: offset {offset} did not come")

    def offset_of(self, generation: int, position: int, low: int, high: int) -> int:
        """An offset in low..high from which the log continues `position`: records before it end at or below it."""
        while low < high:
            middle = (low + high + 1) // 2
            batch = self.batch_at(middle)
            if (batch.generation, batch.previous_position) <= (generation, position):
                low = middle
            else:
                high = middle - 1
        return low

    def pause(self, *, paused: bool) -> None:
        """Stop reading, or go on."""
        if paused != self._paused:
            where = [TopicPartition(self._topic, self._partition)]
            self._consumer.pause(where) if paused else self._consumer.resume(where)
            self._paused = paused

    def poll(self, timeout_s: float) -> Iterator[tuple[int, ChangeBatch]]:
        """Offsets and batches that are there. Raises RetriableError, SchemaError."""
        for message in self._consumer.consume(1, timeout=timeout_s) + self._consumer.consume(50, timeout=0):
            error, value, offset = message.error(), message.value(), message.offset()
            if error is not None:
                raise RetriableError(f"reading {self._topic}: {error.str()}")
            if value is not None and offset is not None:
                yield offset, decode_batch(value)

    def close(self) -> None:
        """Leave."""
        self._consumer.close()
