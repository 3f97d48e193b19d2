"""What Kafka tells about a stream's last minute: progress, lag, role reports, the end of `changes`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from confluent_kafka import Consumer, Message, TopicPartition

from pipeline.errors import RetriableError
from schemas.change_batch import ChangeBatch
from schemas.change_batch_codec import decode_batch
from schemas.errors import SchemaError
from schemas.lag import Lag, decode_lag
from schemas.progress import Progress, decode_progress
from schemas.role_report import RoleReport, decode_report
from topologies.kafka import existing_topics, last_record, make_consumer, raise_if_fatal
from topologies.settings import Settings
from topologies.topics import KEYED_PARTITIONS, TIMEOUT_S

RECENT_S = 60.0
LAG_RECENT_S = 10.0  # the monitor writes a summary a second
POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Recent:
    """What Kafka tells of a stream: progress, the last change batch, the monitor's last summary, role reports."""

    progress: Sequence[Progress] = ()
    batch: ChangeBatch | None = None
    lag: Lag | None = None
    reports: Sequence[RoleReport] = ()


def recent(settings: Settings, stream: str) -> Recent:
    """Read all of it. Raises RetriableError, SchemaError, KafkaException."""
    number = settings.numbers()[stream]
    return Recent(
        recent_progress(settings, number), newest_batch(settings, number), newest_lag(settings, stream),
        recent_reports(settings, number),
    )  # fmt: skip


def has_topics(settings: Settings) -> bool:
    """Whether the topics are there: the first role to start makes them all. Raises RetriableError."""
    return settings.topic("changes") in existing_topics(settings)


def recent_progress(settings: Settings, number: int) -> list[Progress]:
    """The progress records of the last `RECENT_S` of stream `number`, in order.

    Raises RetriableError, KafkaException.
    """
    since_ms = int((time.time() - RECENT_S) * 1000)
    found = []
    for message in read_to_end(settings, [TopicPartition(settings.topic("progress"), number, since_ms)], by_time=True):
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


def newest_lag(settings: Settings, stream: str) -> Lag | None:
    """The monitor's last summary of a stream; None when there is none of the last seconds.

    Raises RetriableError, KafkaException.
    """
    since_ms = int((time.time() - LAG_RECENT_S) * 1000)
    starts = [TopicPartition(settings.topic("lag"), number, since_ms) for number in range(KEYED_PARTITIONS)]
    newest: Lag | None = None
    for message in read_to_end(settings, starts, by_time=True):
        try:
            lag = decode_lag(message.value() or b"")
        except SchemaError:
            continue  # another version's; the next is a second away
        if lag.stream == stream and (newest is None or lag.time_us >= newest.time_us):
            newest = lag
    return newest


def recent_reports(settings: Settings, number: int) -> list[RoleReport]:
    """The last report of each role of stream `number` within `RECENT_S`, by role.

    Raises RetriableError, KafkaException.
    """
    since_ms = int((time.time() - RECENT_S) * 1000)
    found: dict[str, RoleReport] = {}
    for message in read_to_end(settings, [TopicPartition(settings.topic("reports"), number, since_ms)], by_time=True):
        try:
            report = decode_report(message.value() or b"")
        except SchemaError:
            continue
        found[report.role] = report
    return [found[role] for role in sorted(found)]


def read_to_end(settings: Settings, starts: list[TopicPartition], *, by_time: bool = False) -> Iterator[Message]:
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
