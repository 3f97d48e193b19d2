"""`headrace resync`: copy a stream's tables anew, when changes are lost for good.

**Guarantee:** safe to repeat after a failure at any step. The next start of the roles takes a new snapshot, whose
first target transaction empties the tables; until then the target keeps what it has.
"""

from __future__ import annotations

from collections.abc import Sequence

from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient

from headrace.removal import require_idle
from headrace.streams import open_ledger, source_admin
from pipeline.errors import ConfigError
from topologies.kafka import make_admin, make_consumer, until_answered
from topologies.rewind import alter_offsets
from topologies.settings import Settings
from topologies.stream_settings import StreamConfig
from topologies.topics import TIMEOUT_S, ensure_topics


def planned_resync(stream: StreamConfig) -> list[str]:
    """What `resync_stream` would do, a line each."""
    tables = ", ".join(".".join(name) for name in source_admin(stream).tables())
    return [
        f"drop the replication slot of stream {stream.name} at its source",
        "skip what the changes topic still holds, and discard the stream's dead letters",
        f"at the next start, EMPTY these tables at the target and copy them anew: {tables}",
    ]


def resync_streams(settings: Settings, streams: Sequence[StreamConfig]) -> list[str]:
    """Do it; returns what was done. Raises ConfigError while roles are running, RetriableError, KafkaException."""
    admin = make_admin(settings)
    ensure_topics(admin, settings)
    require_idle(admin, settings)
    return [line for stream in streams for line in _resync(admin, settings, stream)]


def _resync(admin: AdminClient, settings: Settings, stream: StreamConfig) -> list[str]:
    if stream.source.snapshot == "never":
        raise ConfigError(
            f'stream {stream.name}: source.snapshot is "never", so nothing would be copied and changes would be lost: '
            'set it to "initial", then resync'
        )
    source = source_admin(stream)
    tables = source.tables()
    done = source.drop_slot()  # first: a capture that still runs somewhere must not write on
    end = _skip_changes(admin, settings, stream)
    # The offset goes before the ledger: alone, it would be put back to the ledger's by the next planner.
    with open_ledger(stream) as ledger:
        ledger.ensure()
        letters = ledger.request_resync(tables, end)
    if letters:
        done.append(f"{letters} dead letters of stream {stream.name}: the new copy holds what they wanted")
    return [*(f"removed {line}" for line in done), f"stream {stream.name} takes a new snapshot at its next start"]


def _skip_changes(admin: AdminClient, settings: Settings, stream: StreamConfig) -> int:
    """Put the planners' offset behind everything that the changes topic holds of the stream; returns it."""
    where = TopicPartition(settings.topic("changes"), settings.numbers()[stream.name])
    consumer = make_consumer(settings, settings.group("tail"))
    try:
        doing = f"stream {stream.name}: reading the end of its changes"
        end = until_answered(lambda: int(consumer.get_watermark_offsets(where, timeout=TIMEOUT_S)[1]), doing)
    finally:
        consumer.close()
    request = [
        ConsumerGroupTopicPartitions(settings.group("plan"), [TopicPartition(where.topic, where.partition, end)])
    ]

    until_answered(lambda: alter_offsets(admin, request), f"stream {stream.name}: skipping its old changes")
    return end
