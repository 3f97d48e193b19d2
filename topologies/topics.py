"""The table of topics: the one place that says what each is keyed by, how it is cut and cleaned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, ResourceType
from confluent_kafka.cimpl import NewTopic

from pipeline.directory.following import COMPACTION_LAG_US
from pipeline.errors import ConfigError, RetriableError
from schemas.apply_unit import LANES_MAX
from topologies.settings import Settings

RECORD_BYTES_MAX = 16 * 1024 * 1024
KEYED_PARTITIONS = 8
TIMEOUT_S = 15.0
SHORT_MS = 3_600_000
SHORT_SEGMENT_MS = 600_000  # a segment that is written is neither compacted nor deleted: the default is a week
LONG_MS = 90 * 24 * 3_600_000


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic: key and value, partitions by the number of streams, cleanup, who writes it.

    `by_stream` topics are partitioned by explicit number, so they may grow when a stream is added; the
    others are hashed by key and must keep their count.
    """

    kind: str
    key: str
    value: str
    partitions: Callable[[int], int]
    cleanup: str
    owner: str
    by_stream: bool = False
    retention_ms: int | None = None
    uncompacted_ms: int | None = None  # readers no later than this see every record


def _one(streams: int) -> int:
    return streams


def _lanes(streams: int) -> int:
    return LANES_MAX * streams


def _keyed(_: int) -> int:
    return KEYED_PARTITIONS


TOPICS = (
    Topic("changes", "stream", "ChangeBatch", _one, "delete", "capture", by_stream=True),
    Topic("units", "stream/lane", "ApplyUnit", _lanes, "delete", "planner", by_stream=True),
    Topic("progress", "stream/lane", "Progress", _one, "compact", "apply", by_stream=True),
    Topic("dead-letters", "stream/position", "DeadLetter", _keyed, "delete", "apply", retention_ms=LONG_MS),
    Topic("fusion-messages", "node", "batched fusion messages", _keyed, "delete", "fusion", retention_ms=SHORT_MS),
    Topic("fusion-updates", "block id", "FusionBlock", _keyed, "delete", "cache", retention_ms=SHORT_MS),
    Topic("fusion-blocks", "block id", "FusionBlock", _keyed, "compact", "fusion"),
    Topic("grd-accesses", "node", "GrdAccesses", _keyed, "delete", "apply, cache", retention_ms=SHORT_MS),
    Topic(
        "grd-affinity", "block id", "GrdAffinity", _keyed, "compact", "affinity",
        uncompacted_ms=COMPACTION_LAG_US // 1000,
    ),
    Topic(
        "reports", "stream/role", "RoleReport", _one, "compact,delete", "all roles", by_stream=True,
        retention_ms=SHORT_MS,
    ),
    Topic("lag", "stream", "Lag", _keyed, "compact,delete", "monitor", retention_ms=SHORT_MS),
)  # fmt: skip


def topic_settings(topic: Topic, settings: Settings) -> dict[str, str]:
    """The broker-side settings of a topic."""
    config = {"cleanup.policy": topic.cleanup, "max.message.bytes": str(RECORD_BYTES_MAX)}
    if "delete" in topic.cleanup:
        config["retention.ms"] = str(topic.retention_ms or settings.kafka.retention_hours * 3_600_000)
    if topic.retention_ms == SHORT_MS:
        config["segment.ms"] = str(SHORT_SEGMENT_MS)
    if topic.uncompacted_ms is not None:
        config["min.compaction.lag.ms"] = str(topic.uncompacted_ms)
    return config


def ensure_topics(admin: AdminClient, settings: Settings) -> list[str]:
    """Create missing topics, check the others; return what was done, a line each.

    Raises ConfigError for a topic with wrong partitions or cleanup policy, RetriableError when the broker
    does not answer.
    """
    streams = max(settings.numbers().values()) + 1
    try:
        there = admin.list_topics(timeout=TIMEOUT_S).topics
        missing = [topic for topic in TOPICS if settings.topic(topic.kind) not in there]
        done = _create(admin, settings, missing, streams)
        for topic in TOPICS:
            if topic not in missing:
                done += _check(admin, settings, topic, len(there[settings.topic(topic.kind)].partitions), streams)
        _check_cleanup(admin, settings, [topic for topic in TOPICS if topic not in missing])
    except KafkaException as error:
        raise RetriableError(f"Kafka at {settings.kafka.bootstrap_servers}: {error.args[0].str()}") from error
    return done


def _create(admin: AdminClient, settings: Settings, topics: list[Topic], streams: int) -> list[str]:
    if not topics:
        return []
    wanted = [
        NewTopic(
            settings.topic(t.kind), t.partitions(streams), settings.kafka.replication_factor,
            config=topic_settings(t, settings),
        )
        for t in topics
    ]  # fmt: skip
    done = []
    for name, future in admin.create_topics(wanted, operation_timeout=TIMEOUT_S).items():
        try:
            future.result()
            done.append(f"created topic {name}")
        except KafkaException as error:
            if error.args[0].name() != "TOPIC_ALREADY_EXISTS":  # another process was faster
                raise
    return done


def _check(admin: AdminClient, settings: Settings, topic: Topic, actual: int, streams: int) -> list[str]:
    name, wanted = settings.topic(topic.kind), topic.partitions(streams)
    unit = topic.partitions(1)
    if actual == wanted or (topic.by_stream and actual > wanted and actual % unit == 0):
        return []
    if topic.by_stream and actual < wanted and actual % unit == 0:
        admin.create_partitions([NewPartitions(name, wanted)])[name].result()
        return [f"topic {name}: {actual} partitions raised to {wanted} for a new stream"]
    raise ConfigError(
        f"topic {name} has {actual} partitions, {wanted} are needed ({unit} a stream); it was not created by Headrace: "
        "choose another kafka.topic_prefix, or delete the topic if nothing else uses it"
    )


def _check_cleanup(admin: AdminClient, settings: Settings, topics: list[Topic]) -> None:
    if not topics:
        return  # the client refuses an empty request
    resources = {ConfigResource(ResourceType.TOPIC, settings.topic(topic.kind)): topic for topic in topics}
    for resource, future in admin.describe_configs(list(resources), request_timeout=TIMEOUT_S).items():
        topic = resources[resource]
        actual = future.result()["cleanup.policy"].value or ""
        if set(actual.split(",")) != set(topic.cleanup.split(",")):
            raise ConfigError(
                f"topic {resource.name} has cleanup.policy={actual}, {topic.cleanup} is needed: with another policy "
                f"records would be lost or kept for ever. kafka-configs --alter --entity-type topics --entity-name "
                f"{resource.name} --add-config cleanup.policy=[{topic.cleanup}]"
            )
