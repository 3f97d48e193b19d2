"""Rule 4: before a stream starts, a committed offset that is ahead of the ledger is put back.

That happens when the target was restored from a backup, or its last commits were lost in a crash with
asynchronous commit.
"""

from __future__ import annotations

import logging
from contextlib import closing

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from pipeline.errors import RetriableError
from topologies.kafka import make_admin, make_consumer, until_answered
from topologies.settings import Settings
from topologies.stream_parts import connect_ledger
from topologies.stream_settings import StreamConfig
from topologies.topics import TIMEOUT_S, ensure_topics

log = logging.getLogger(__name__)
ANSWER_S = 2.0  # a broker that has just created its offsets topic may leave a request without an answer


def rewind_groups(settings: Settings) -> None:
    """Create topics and ledgers, then rewind the planner group where it is ahead.

    Stopped streams count as started again. Raises ConfigError, RetriableError.

    The apply group needs no rewind: its lanes start from the ledger's own offsets.
    """
    admin = make_admin(settings)
    ensure_topics(admin, settings)
    group = settings.group("plan")
    topic = settings.topic("changes")
    wanted = []
    for stream in settings.streams:
        number = settings.numbers()[stream.name]
        committed = _committed(settings, group, TopicPartition(topic, number))
        ledger = _ledger_offset(stream)
        if committed > ledger >= 0:
            log.warning(
                "stream %s: group %s stands at offset %d of %s, ahead of the ledger's %d; rewinding",
                stream.name, group, committed, topic, ledger,
            )  # fmt: skip
            wanted.append(TopicPartition(topic, number, ledger))
    if not wanted:
        return
    request = [ConsumerGroupTopicPartitions(group, wanted)]
    try:
        alter_offsets(admin, request)
    except KafkaException as error:
        raise RetriableError(
            f"group {group} can't be rewound while a planner runs ({error.args[0].str()}); stop all planners first"
        ) from error


def alter_offsets(admin: AdminClient, request: list[ConsumerGroupTopicPartitions]) -> None:
    """Put a group's offsets where `request` says. Raises KafkaException, also for a refusal of one partition."""
    for future in admin.alter_consumer_group_offsets(request, request_timeout=TIMEOUT_S).values():
        for where in future.result().topic_partitions or []:
            if where.error is not None:
                raise KafkaException(where.error)


def _committed(settings: Settings, group: str, where: TopicPartition) -> int:
    """The group's offset; below zero when it has none."""
    # Not AdminClient.list_consumer_group_offsets: librdkafka 2.16 aborts the process ("refcnt > 0") when a broker
    # comes back while it is asked.
    consumer = make_consumer(settings, group)

    def ask() -> int:
        (found,) = consumer.committed([where], timeout=ANSWER_S)
        if found.error is not None:
            raise KafkaException(found.error)
        return int(found.offset)

    try:
        return until_answered(ask, f"group {group}: reading its offsets")
    finally:
        consumer.close()


def _ledger_offset(stream: StreamConfig) -> int:
    with closing(connect_ledger(stream)) as ledger:
        ledger.ensure()
        ledger.clear_stop()
        row = ledger.stream_row()
    return row.changes_offset if row is not None else 0
