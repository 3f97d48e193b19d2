"""What Kafka tells about a stream's last minute: progress records, the end of `changes`, dead letters."""

from __future__ import annotations

import time
from collections.abc import Iterator

from confluent_kafka import Consumer, Message, TopicPartition

from pipeline.errors import RetriableError
from schemas.change_batch import ChangeBatch, decode_batch
from schemas.errors import SchemaError
from schemas.progress import Progress, decode_progress
from topologies.kafka import last_record, make_admin, make_consumer, raise_if_fatal
from topologies.settings import Settings
from topologies.topics import TIMEOUT_S

RECENT_S = 60.0
POLL_S = 0.2
DEAD_LETTERS_MAX = 10_000  # counted at most: each is a whole transaction that has to be fetched


def has_topics(settings: Settings) -> bool:
    """Whether the topics are there: the first role to start makes them all. Raises KafkaException."""
    return settings.topic("changes") in make_admin(settings).list_topics(timeout=TIMEOUT_S).topics


def recent_progress(settings: Settings, number: int) -> list[Progress]:
    """The progress records of the last `RECENT_S` of stream `number`, in order.

    Raises RetriableError, KafkaException.
    """
    since_ms = int((time.time() - RECENT_S) * 1000)
    found = []
    for message in _read(settings, [TopicPartition(settings.topic("progress"), number, since_ms)], by_time=True):
        try:
            found.append(decode_progress(message.value() or b""))
        except SchemaError:
            continue  # a hint that can't be read is no hint
    return found


def newest_batch(settings: Settings, number: int) -> ChangeBatch | None:
    """The last change batch of stream `number`; None when there is none, or no topic.

    Raises RetriableError, SchemaError, KafkaException.
    """
    if not has_topics(settings):
        return None
    record = last_record(settings, settings.topic("changes"), number)
    return decode_batch(record) if record is not None else None


def count_dead_letters(settings: Settings, partitions: int, stream: str) -> int:
    """Dead letters of a stream; stops counting at `DEAD_LETTERS_MAX`. Raises RetriableError, KafkaException."""
    topic, prefix, count = settings.topic("dead-letters"), f"{stream}/".encode(), 0
    for message in _read(settings, [TopicPartition(topic, number, 0) for number in range(partitions)]):
        key = message.key()
        count += isinstance(key, bytes) and key.startswith(prefix)
        if count >= DEAD_LETTERS_MAX:
            break
    return count


def _read(settings: Settings, starts: list[TopicPartition], *, by_time: bool = False) -> Iterator[Message]:
    """Yield what lies between `starts` (offsets, or times in ms) and the present ends of the partitions."""
    if not has_topics(settings):
        return
    consumer = make_consumer(settings, settings.group("watch"))
    try:
        if by_time:
            starts = consumer.offsets_for_times(starts, timeout=TIMEOUT_S)
        ends: dict[int, int] = {}
        for start in starts:
            low, high = consumer.get_watermark_offsets(start, timeout=TIMEOUT_S)
            if 0 <= start.offset < high and low < high:  # below zero: nothing is as young as that
                start.offset, ends[start.partition] = max(low, start.offset), high
        if ends:
            consumer.assign([start for start in starts if start.partition in ends])
            yield from _read_to(consumer, ends)
    finally:
        consumer.close()


def _read_to(consumer: Consumer, ends: dict[int, int]) -> Iterator[Message]:
    """Yield messages until each partition has reached its end. Compaction never takes the last record."""
    end_s = time.monotonic() + TIMEOUT_S
    while ends:
        for message in consumer.consume(500, timeout=POLL_S):
            error, partition, offset = message.error(), message.partition(), message.offset()
            if error is not None:
                raise_if_fatal(error)
            elif partition in ends and offset is not None:
                if offset < ends[partition]:
                    yield message
                if offset + 1 >= ends[partition]:
                    del ends[partition]
        if ends and time.monotonic() > end_s:
            raise RetriableError(f"topics could not be read to their ends in {TIMEOUT_S:g} s")
