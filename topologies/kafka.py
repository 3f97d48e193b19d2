"""Kafka clients of the stages, with the settings that the exactly-once rules need."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from pipeline.errors import RetriableError
from topologies.settings import Settings
from topologies.topics import RECORD_BYTES_MAX

log = logging.getLogger(__name__)
T = TypeVar("T")
TIMEOUT_S = 15.0
RETRY_S = 0.2
ANSWER_S = 5.0  # a broker far away, with TLS and SASL, gives its first answer in less than one
FETCH_BYTES_MAX = 8 * 1024 * 1024
ENV_INSTANCE = "HEADRACE_INSTANCE"  # a name that one process has at a time, set by whoever supervises it
QUEUED_KB_MAX = 32 * 1024  # librdkafka's read-ahead a consumer


def client_id(node: str = "headrace") -> str:
    """What this process calls itself towards Kafka: its node, and its own name if it has one."""
    instance = os.environ.get(ENV_INSTANCE)
    return f"{node}~{instance}" if instance else node


def node_of(member: str) -> str:
    """The node in a client's id."""
    return member.rpartition("~")[0] or member


def _common(settings: Settings) -> dict[str, Any]:
    return {
        "bootstrap.servers": settings.kafka.bootstrap_servers,
        "client.id": client_id(),
        "logger": logging.getLogger("headrace.kafka"),
        "socket.nagle.disable": True,  # a small record must not wait for the answer to the one before
        **settings.kafka.options,
    }


def make_admin(settings: Settings) -> AdminClient:
    """An admin client."""
    return AdminClient(_common(settings))


def existing_topics(settings: Settings) -> Collection[str]:
    """The names of the topics there are. Raises RetriableError after 5 s, with what the client has met meanwhile."""
    met: dict[str, None] = {}  # a refused connection is tried, and told, many times a second

    def note(error: KafkaError) -> None:
        if error.code() != KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001 - the documented name of the constant
            met[_SURROUNDINGS.sub("", error.str())] = None

    configuration: dict[str, Any] = {**_common(settings), "error_cb": note}
    admin = AdminClient(configuration)
    try:
        return admin.list_topics(timeout=ANSWER_S).topics.keys()
    except KafkaException as error:
        admin.poll(0)
        causes = "; ".join(met) or error.args[0].str()
        servers = settings.kafka.bootstrap_servers
        raise RetriableError(f"Kafka at {servers} has not answered in {ANSWER_S:g} s: {causes}") from error


# Of "host:9092/bootstrap: Connect to ipv4#... failed: Connection refused (after 0ms in state CONNECT)".
_SURROUNDINGS = re.compile(r"^\S+/bootstrap: | \(after \d+ms in state \w+\)$")


def make_producer(settings: Settings) -> Producer:
    """An idempotent producer that waits for all replicas (KIP-98, acks=all) and keeps the order of sends."""
    return Producer({
        **_common(settings),
        "enable.idempotence": True, "acks": "all", "linger.ms": 0, "compression.type": "lz4",
        "message.max.bytes": RECORD_BYTES_MAX, "queue.buffering.max.kbytes": 128 * 1024,
        "delivery.timeout.ms": 120_000,
    })  # fmt: skip


def make_transactional_producer(settings: Settings, transactional_id: str) -> Producer:
    """A producer that is the only one of its id (KIP-98)."""
    return Producer({
        **_common(settings),
        "transactional.id": transactional_id, "transaction.timeout.ms": 10_000, "linger.ms": 0,
        "compression.type": "lz4", "message.max.bytes": RECORD_BYTES_MAX,
    })  # fmt: skip


def make_consumer(
    settings: Settings, group: str, *, from_end: bool = False, options: Mapping[str, object] | None = None
) -> Consumer:
    """A consumer that never commits by itself. `options` are further ones of librdkafka."""
    return Consumer({
        **_common(settings),
        "group.id": group, "enable.auto.commit": False, "enable.auto.offset.store": False,
        "auto.offset.reset": "latest" if from_end else "earliest",
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": 6000, "heartbeat.interval.ms": 1000,
        "fetch.wait.max.ms": 100, "fetch.max.bytes": RECORD_BYTES_MAX, "max.partition.fetch.bytes": FETCH_BYTES_MAX,
        "message.max.bytes": RECORD_BYTES_MAX, "receive.message.max.bytes": 2 * RECORD_BYTES_MAX,
        "queued.max.messages.kbytes": QUEUED_KB_MAX,
        **(options or {}),
    })  # fmt: skip


def until_answered(call: Callable[[], T], doing: str) -> T:
    """Return what `call` returns, trying again while the broker is not ready for it.

    Raises RetriableError with `doing` in its text after 15 s: a new partition has a leader, and a new
    broker its coordinators, well before.
    """
    deadline_s = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return call()
        except KafkaException as error:
            if time.monotonic() > deadline_s:
                raise RetriableError(f"{doing}: {error.args[0].str()}") from error
            time.sleep(RETRY_S)


def last_record(settings: Settings, topic: str, partition: int) -> bytes | None:
    """Return the value of the partition's last record, None when it is empty.

    Raises RetriableError when the broker does not answer.
    """
    consumer = make_consumer(settings, settings.group("tail"))
    where = TopicPartition(topic, partition)
    try:
        return until_answered(lambda: _read_last(consumer, where), f"topic {topic}, partition {partition}")
    finally:
        consumer.close()


def _read_last(consumer: Consumer, where: TopicPartition) -> bytes | None:
    low, high = consumer.get_watermark_offsets(where, timeout=TIMEOUT_S)
    if high <= low:
        return None
    consumer.assign([TopicPartition(where.topic, where.partition, high - 1)])
    for message in consumer.consume(1, timeout=TIMEOUT_S):
        if message.error() is None:
            value: bytes | None = message.value()
            return value
    raise RetriableError(f"topic {where.topic}, partition {where.partition}: its last record did not come")


def take(consumer: Consumer, count: int, timeout_s: float) -> list[Message]:
    """Return up to `count` messages as soon as there is one; none after `timeout_s`.

    The client's own `consume(count)` waits for all `count` of them, or the whole time.
    """
    messages = consumer.consume(1, timeout=timeout_s)
    return messages + consumer.consume(count - 1, timeout=0) if messages else messages


def read_from_end(settings: Settings, topic: str, partitions: list[int]) -> Consumer:
    """A consumer of the given partitions, outside any group, that sees all that comes from now on, and no more.

    Raises RetriableError when the broker does not answer.
    """
    consumer = make_consumer(settings, settings.group("watch"))
    try:
        consumer.assign([_end_of(consumer, TopicPartition(topic, partition)) for partition in partitions])
    except RetriableError:
        consumer.close()
        raise
    return consumer


def _end_of(consumer: Consumer, where: TopicPartition) -> TopicPartition:
    """The end that a partition has now: OFFSET_END is the one that it has when the first fetch comes."""
    ends = until_answered(partial(consumer.get_watermark_offsets, where, timeout=TIMEOUT_S), f"topic {where.topic}")
    return TopicPartition(where.topic, where.partition, ends[1])


def raise_if_fatal(error: KafkaError) -> None:
    """Raise RetriableError for an error that librdkafka cannot recover from; log the others."""
    if error.fatal():
        raise RetriableError(f"Kafka client: {error.str()}")
    if error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 - the documented name of the constant
        log.warning("Kafka: %s", error.str())
