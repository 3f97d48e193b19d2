"""`headrace drop`: remove what a stream has created at the source, at the target and in Kafka.

The replicated tables and their rows stay.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from headrace.streams import open_ledger, source_admin
from pipeline.errors import ConfigError
from schemas.apply_unit import LANES_MAX
from topologies.kafka import make_admin
from topologies.settings import Settings
from topologies.stream_settings import StreamConfig
from topologies.topics import TIMEOUT_S, TOPICS

GROUPS = ("plan", "apply", "tail", "watch")
# What a broker says that has just come up.
STARTING = ("COORDINATOR_LOAD_IN_PROGRESS", "COORDINATOR_NOT_AVAILABLE", "NOT_COORDINATOR")
RETRY_S = 0.2
ABSENT = ("GROUP_ID_NOT_FOUND", "UNKNOWN_TOPIC_OR_PART")


def planned_removal(settings: Settings, streams: Sequence[StreamConfig]) -> list[str]:
    """What `drop_streams` would remove, a line each."""
    lines = []
    for stream in streams:
        lines += [f"slot and publications of stream {stream.name} at its source", f"ledger of stream {stream.name}"]
    if len(streams) == len(settings.streams):
        prefix = settings.kafka.topic_prefix
        return [*lines, f"all topics {prefix}.* of Headrace and the consumer groups {prefix}-*"]
    topics = sorted({where.topic for stream in streams for where in _partitions(settings, stream)})
    return [*lines, f"the records of {', '.join(stream.name for stream in streams)} in {', '.join(topics)}"]


def drop_streams(settings: Settings, streams: Sequence[StreamConfig]) -> list[str]:
    """Remove them; returns what was removed, a line each. Safe to repeat after a failure.

    Topics and consumer groups go when no stream of the configuration is left, else only the streams' records.
    Raises ConfigError while roles are running, RetriableError, KafkaException.
    """
    admin = make_admin(settings)
    require_idle(admin, settings)
    removed = [line for stream in streams for line in source_admin(stream).drop()]
    if len(streams) == len(settings.streams):
        removed += _drop_topics(admin, settings) + _drop_groups(admin, settings)
    else:
        removed += [line for stream in streams for line in _drop_records(admin, settings, stream)]
    # The ledger goes last: without it, units that are still in Kafka would be applied again.
    for stream in streams:
        with open_ledger(stream) as ledger:
            removed += ledger.drop()
    return removed


def require_idle(admin: AdminClient, settings: Settings) -> None:
    """Raise ConfigError while planners or apply processes are in their groups."""
    for group in (settings.group(role) for role in ("plan", "apply")):
        members = _members(admin, group)
        if members:
            raise ConfigError(f"consumer group {group} has {members} members: stop `headrace run` and all roles first")


def _members(admin: AdminClient, group: str) -> int:
    end_s = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return len(admin.describe_consumer_groups([group], request_timeout=TIMEOUT_S)[group].result().members)
        except KafkaException as error:
            name = error.args[0].name()
            if name in ABSENT:
                return 0
            if name not in STARTING or time.monotonic() > end_s:
                raise
            time.sleep(RETRY_S)


def _drop_topics(admin: AdminClient, settings: Settings) -> list[str]:
    there = admin.list_topics(timeout=TIMEOUT_S).topics
    names = [settings.topic(topic.kind) for topic in TOPICS if settings.topic(topic.kind) in there]
    if not names:
        return []
    for future in admin.delete_topics(names, operation_timeout=TIMEOUT_S).values():
        future.result()
    return [f"topic {name}" for name in names]


def _drop_groups(admin: AdminClient, settings: Settings) -> list[str]:
    removed = []
    for group, future in admin.delete_consumer_groups([settings.group(role) for role in GROUPS]).items():
        try:
            future.result()
            removed.append(f"consumer group {group}")
        except KafkaException as error:
            if error.args[0].name() not in ABSENT:
                raise
    return removed


def _drop_records(admin: AdminClient, settings: Settings, stream: StreamConfig) -> list[str]:
    """Delete the records of the stream's own partitions; keyed topics expire by themselves."""
    there = admin.list_topics(timeout=TIMEOUT_S).topics
    partitions = [where for where in _partitions(settings, stream) if where.topic in there]
    for future in admin.delete_records(partitions, operation_timeout=TIMEOUT_S).values():
        future.result()
    return [
        f"records of stream {stream.name} in topic {topic}" for topic in sorted({where.topic for where in partitions})
    ]


def _partitions(settings: Settings, stream: StreamConfig) -> list[TopicPartition]:
    """The partitions that belong to the stream alone, to their ends (offset -1).

    Not those of `progress`: Kafka refuses to delete from a compacted topic, and old progress is harmless.
    """
    number = settings.numbers()[stream.name]
    lanes = [TopicPartition(settings.topic("units"), LANES_MAX * number + lane, -1) for lane in range(LANES_MAX)]
    return [TopicPartition(settings.topic("changes"), number, -1), *lanes]
