"""Looking into a stream's topics, and writing what a broken process might."""

from __future__ import annotations

from confluent_kafka import Consumer, Producer, TopicPartition

from topologies.kafka import make_admin
from topologies.settings import Settings

TIMEOUT_S = 40.0


def read_topic(settings: Settings, kind: str, partition: int = 0) -> list[bytes]:
    """All values of one partition, from its beginning to its present end."""
    consumer = Consumer({
        "bootstrap.servers": settings.kafka.bootstrap_servers, "group.id": "tests", "enable.auto.commit": False,
        "auto.offset.reset": "earliest", "receive.message.max.bytes": 64 * 1024 * 1024,
        "fetch.max.bytes": 32 * 1024 * 1024, "log_level": 0,
    })  # fmt: skip
    where = TopicPartition(settings.topic(kind), partition, 0)
    try:
        _, end = consumer.get_watermark_offsets(where, timeout=TIMEOUT_S)
        consumer.assign([where])
        values: list[bytes] = []
        offset = -1
        while offset < end - 1:
            message = consumer.poll(TIMEOUT_S)
            assert message is not None, f"{where.topic}: nothing at offset {offset + 1} of {end}"
            assert message.error() is None, message.error()
            value, at = message.value(), message.offset()
            assert at is not None
            offset = at
            if value is not None:
                values.append(value)
        return values
    finally:
        consumer.close()


def end_offset(settings: Settings, kind: str, partition: int = 0) -> int:
    """The offset of the next record; 0 while the topic does not exist."""
    consumer = Consumer({"bootstrap.servers": settings.kafka.bootstrap_servers, "group.id": "tests", "log_level": 0})
    try:
        where = TopicPartition(settings.topic(kind), partition)
        return int(consumer.get_watermark_offsets(where, timeout=TIMEOUT_S)[1])
    finally:
        consumer.close()


def group_members(settings: Settings, role: str) -> int:
    """How many processes are in the consumer group of a role."""
    group, admin = settings.group(role), make_admin(settings)
    return len(admin.describe_consumer_groups([group], request_timeout=TIMEOUT_S)[group].result().members)


def write_topic(settings: Settings, kind: str, values: list[bytes], partition: int = 0) -> None:
    """Append values to one partition, in order. Their key, which compacted topics need, says who wrote them."""
    producer = Producer({
        "bootstrap.servers": settings.kafka.bootstrap_servers, "enable.idempotence": True, "compression.type": "lz4",
        "message.max.bytes": 16 * 1024 * 1024, "log_level": 0,
    })  # fmt: skip
    lost: list[str] = []
    for value in values:
        producer.produce(
            settings.topic(kind), value, key="tests", partition=partition,
            on_delivery=lambda error, _: lost.append(error.str()) if error is not None else None,
        )  # fmt: skip
    assert producer.flush(TIMEOUT_S) == 0
    assert not lost, lost
