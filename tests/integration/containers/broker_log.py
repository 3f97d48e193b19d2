"""What the broker holds of a stream: the records of the topics that are only appended to, and the groups' offsets."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, TopicPartition

from topologies.settings import Settings

KINDS = ("changes", "units", "dead-letters")  # neither compacted nor short-lived
GROUPS = {"plan": "changes", "apply": "units"}  # role: what it consumes
TIMEOUT_S = 20.0
Place = tuple[str, int]  # topic, partition


@dataclass(frozen=True, slots=True)
class Record:
    """One record by its place, its time, and a digest of key and value."""

    offset: int
    timestamp: tuple[int, int]
    digest: str


def read_log(settings: Settings) -> dict[Place, list[Record]]:
    """Every record that lies in the topics `KINDS` now, by partition."""
    consumer = _consumer(settings, "tests")
    try:
        topics = consumer.list_topics(timeout=TIMEOUT_S).topics
        places = [(name, number) for name in map(settings.topic, KINDS) for number in topics[name].partitions]
        consumer.assign([TopicPartition(topic, number, 0) for topic, number in places])
        found: dict[Place, list[Record]] = {place: [] for place in places}
        open_places = set(places)
        while open_places:
            message = consumer.poll(TIMEOUT_S)
            assert message is not None, f"no end of {sorted(open_places)}"
            place = (str(message.topic()), int(message.partition() or 0))
            error = message.error()
            if error is not None:
                assert error.code() == KafkaError._PARTITION_EOF, error
                open_places.discard(place)
            elif place in open_places:
                content = repr((message.key(), message.value())).encode()
                digest = hashlib.sha256(content).hexdigest()
                found[place].append(Record(int(message.offset() or 0), message.timestamp(), digest))
        return found
    finally:
        consumer.close()


def committed_offsets(settings: Settings) -> dict[Place, int]:
    """The offsets that the groups have committed, by topic and partition. Raises KafkaException."""
    found: dict[Place, int] = {}
    # Not AdminClient.list_consumer_group_offsets: it aborts the process (librdkafka 2.16) while a broker comes back.
    for role, topic in ((role, settings.topic(kind)) for role, kind in GROUPS.items()):
        consumer = _consumer(settings, settings.group(role))
        try:
            numbers = consumer.list_topics(topic, timeout=TIMEOUT_S).topics[topic].partitions
            committed = consumer.committed([TopicPartition(topic, number) for number in numbers], timeout=TIMEOUT_S)
            found |= {(each.topic, each.partition): each.offset for each in committed}
        finally:
            consumer.close()
    return found


def _consumer(settings: Settings, group: str) -> Consumer:
    return Consumer({
        "bootstrap.servers": settings.kafka.bootstrap_servers, "group.id": group, "enable.auto.commit": False,
        "enable.partition.eof": True, "receive.message.max.bytes": 64 * 1024 * 1024,
        "fetch.max.bytes": 32 * 1024 * 1024, "log_level": 0,
    })  # fmt: skip
