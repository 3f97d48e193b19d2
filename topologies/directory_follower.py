"""A process's directory: a thread that follows `grd-affinity`, so that others may ask without waiting.

**Guarantee:** owners are those of some moment, with their epoch; while a partition is not read, its blocks have none.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from pipeline.directory.block import BlockId, Owner
from pipeline.directory.directory import Change, Directory
from pipeline.directory.following import take
from pipeline.directory.recent_moves import RecentMoves
from pipeline.errors import RetriableError
from schemas.errors import SchemaError
from schemas.grd_affinity import decode_affinity
from topologies.kafka import make_admin, make_consumer, raise_if_fatal
from topologies.membership import CACHE_GROUP, Membership, read_membership
from topologies.settings import Settings
from topologies.topics import KEYED_PARTITIONS

log = logging.getLogger(__name__)
POLL_S = 0.05
RECORDS_MAX = 500
# Eight deciders write whenever they like: to be told of each write at once costs the broker a fetch for each, and its
# end another one. Placement may be late by this.
FETCH_WAIT_MS = 200
FETCH_BYTES_MIN = 256 * 1024
LANES_S = 2.0  # between two looks at whose lanes are whose
JOIN_S = 5.0


class DirectoryFollower(threading.Thread):
    """See the module. Implements `Placement`.

    With `node`, this process is a member of the directory under that name for as long as the thread runs. With
    `lanes`, it also knows which node applies which lane. `changed` is called in this thread for each new owner.
    """

    def __init__(
        self, settings: Settings, *, node: str = "", lanes: bool = False,
        changed: Callable[[Change], None] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(name="directory", daemon=True)
        self.directory = Directory(KEYED_PARTITIONS)
        self.lanes: Mapping[int, Mapping[str, tuple[int, ...]]] = {}
        self.fatal: Exception | None = None
        self._settings = settings
        self._topic = settings.topic("grd-affinity")
        self._node = node
        self._admin = make_admin(settings) if lanes else None
        self._changed = changed
        self._stopping = threading.Event()

    def owner(self, block: BlockId) -> Owner:
        """The block's owner; any thread."""
        return self.directory.owner(block)

    @property
    def moves(self) -> RecentMoves:
        """Which blocks have changed master; any thread."""
        return self.directory.moves

    def stop(self) -> None:
        """End the thread, and the membership with it."""
        self._stopping.set()
        if self.is_alive():
            self.join(JOIN_S)

    def run(self) -> None:
        """Follow until stopped; `fatal` says why it ended otherwise."""
        consumers: list[Consumer] = []
        lanes_s = 0.0
        try:
            consumers.append(self._reader())
            if self._node:
                consumers.append(self._presence())
            while not self._stopping.is_set():
                for message in consumers[0].consume(RECORDS_MAX, timeout=POLL_S):
                    self._take(message)
                for presence in consumers[1:]:
                    presence.poll(0)
                self.directory.settle(time.time_ns() // 1000)
                if self._admin is not None and time.monotonic() - lanes_s >= LANES_S:
                    lanes_s = time.monotonic()
                    self._look_at_lanes(self._admin)
        except Exception as error:
            log.exception("following the directory failed")
            self.fatal = error
        finally:
            for consumer in consumers:
                consumer.close()

    def _reader(self) -> Consumer:
        options = {"enable.partition.eof": True, "fetch.min.bytes": FETCH_BYTES_MIN, "fetch.wait.max.ms": FETCH_WAIT_MS}
        consumer = make_consumer(self._settings, self._settings.group("directory"), options=options)
        consumer.assign([TopicPartition(self._topic, partition, 0) for partition in range(KEYED_PARTITIONS)])
        return consumer

    def _presence(self) -> Consumer:
        """A member of the group that says who is there; what it is assigned does not matter."""
        consumer = make_consumer(
            self._settings, self._settings.group(CACHE_GROUP), from_end=True, options={"client.id": self._node}
        )
        consumer.subscribe([self._topic], on_assign=_read_nothing)
        return consumer

    def _take(self, message: Message) -> None:
        error, value, partition = message.error(), message.value(), message.partition() or 0
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - the documented name of the constant
                self.directory.catch_up(partition)
            else:
                raise_if_fatal(error)
            return
        try:
            record = decode_affinity(value or b"")
            change = take(
                self.directory, partition, record, message.timestamp()[1] * 1000, time.time_ns() // 1000
            )  # fmt: skip
        except (SchemaError, ValueError) as damage:
            log.warning("topic %s, partition %d, offset %s: %s", self._topic, partition, message.offset(), damage)
            return
        if change is not None and self._changed is not None and change.before.node != change.after.node:
            self._changed(change)

    def _look_at_lanes(self, admin: AdminClient) -> None:
        try:
            found: Membership = read_membership(admin, self._settings)
        except RetriableError as error:
            log.debug("%s", error)
            return
        if found.settled:
            self.lanes = found.lanes


def _read_nothing(consumer: Consumer, partitions: list[TopicPartition]) -> None:
    consumer.incremental_assign(partitions)
    consumer.pause(partitions)
