"""Apply: a consumer group over the units topic, one thread and one target connection a lane.

**Guarantee:** partitions start from the ledger's offsets; committed offsets follow target commits and are
read by nobody but lag tools.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from pipeline.merging import Damage, QueuedUnit
from schemas.apply_unit import decode_unit
from schemas.change_batch_codec import decode_batch
from schemas.errors import SchemaError
from topologies.access_reports import AccessReports
from topologies.kafka import client_id, make_admin, make_consumer, make_producer, raise_if_fatal, read_from_end, take
from topologies.lane_report import lane_report
from topologies.lane_workers import STOP_S, LaneWorkers
from topologies.predecessor import remove_predecessor
from topologies.reporting import Reporter
from topologies.settings import Settings
from topologies.stopped_streams import StoppedStreams
from topologies.topics import ensure_topics

log = logging.getLogger(__name__)
POLL_S = 0.05
RECORDS_MAX = 100
COMMIT_INTERVAL_S = 1.0


class Apply:
    """The apply role: reads the units of all lanes that the group gives to this process."""

    def __init__(self, settings: Settings, stopping: Callable[[], bool]) -> None:
        self._settings = settings
        self._stopping = stopping
        self._topic = settings.topic("units")
        self._producer: Producer = make_producer(settings)
        self._lanes = LaneWorkers(settings, self._producer)
        self._stopped = StoppedStreams(stream.name for stream in settings.streams)
        self._paused: set[int] = set()
        self._committed: dict[int, int] = {}
        self._reporters: dict[str, Reporter] = {}
        self._accesses = AccessReports(settings) if settings.directory.enabled else None

    def run(self) -> None:
        """Apply until stopped. Raises ConfigError, StreamStoppedError, RetriableError."""
        settings = self._settings
        ensure_topics(make_admin(settings), settings)
        progress = read_from_end(settings, settings.topic("progress"), [*settings.numbers().values()])
        threading.Thread(
            target=self._lanes.board.follow, args=(progress, self._stopping), name="progress", daemon=True
        ).start()
        remove_predecessor(settings, settings.group("apply"))
        # The directory learns from the group's members which node applies which lane.
        node = {"client.id": client_id(settings.cache.node), "on_commit": _log_refused}
        consumer = make_consumer(settings, settings.group("apply"), options=node)
        consumer.subscribe([self._topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)
        try:
            self._consume(consumer)
        finally:
            self._lanes.stop([*self._lanes.running])
            self._commit(consumer)
            consumer.close()
            self._producer.flush(STOP_S)
        self._stopped.raise_first()

    def _consume(self, consumer: Consumer) -> None:
        committed_s = time.monotonic()
        while not self._stopping():
            for message in take(consumer, RECORDS_MAX, POLL_S):
                self._route(message)
            if self._accesses is not None:
                self._accesses.publish(self._producer)
            self._producer.poll(0)
            self._raise_failures()
            self._balance(consumer)
            self._report()
            if time.monotonic() - committed_s >= COMMIT_INTERVAL_S:
                self._commit(consumer, wait=False)
                committed_s = time.monotonic()

    def _route(self, message: Message) -> None:
        error, value, partition, offset = message.error(), message.value(), message.partition(), message.offset()
        if error is not None:
            raise_if_fatal(error)
            return
        if value is None or partition is None or offset is None or partition not in self._lanes.running:
            return
        try:
            unit = decode_unit(value)
            batch = decode_batch(unit.batch)
            queued: QueuedUnit | Damage = QueuedUnit(unit, batch, offset, len(value))
            if self._accesses is not None:
                self._accesses.wrote(batch)
        except SchemaError as error:
            queued = Damage(f"topic {self._topic}, partition {partition}, offset {offset}: {error}", len(value))
        self._lanes.running[partition].queue.put(queued)

    def _report(self) -> None:
        for worker in self._lanes.running.values():
            if worker.done_offset >= 0 or worker.queue:
                reporter = self._reporters.setdefault(
                    worker.name, Reporter(self._settings, worker.stream, f"apply/{worker.lane}")
                )
                if reporter.due():
                    reporter.send(self._producer, lane_report(worker, RECORDS_MAX, time.time_ns() // 1000))

    def _raise_failures(self) -> None:
        for worker in self._lanes.running.values():
            if worker.fatal is not None:
                self._stopped.note(worker.stream, worker.fatal)

    def _balance(self, consumer: Consumer) -> None:
        """Pause the partitions of full lanes and resume those of drained ones."""
        running = self._lanes.running
        full = {partition for partition, worker in running.items() if worker.queue.full}
        if full - self._paused:
            consumer.pause([TopicPartition(self._topic, partition) for partition in full - self._paused])
        if self._paused - full:
            consumer.resume([TopicPartition(self._topic, p) for p in self._paused - full if p in running])
        self._paused = full

    def _commit(self, consumer: Consumer, *, wait: bool = True) -> None:
        """Commit offsets; units that come in must not wait for the broker's answer."""
        offsets = [
            TopicPartition(self._topic, partition, worker.done_offset)
            for partition, worker in self._lanes.running.items()
            if worker.done_offset > self._committed.get(partition, -1)
        ]
        if not offsets:
            return
        try:
            if wait:
                consumer.commit(offsets=offsets, asynchronous=False)
            else:
                consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            log.warning("offsets were not committed (%s); the ledger has them", error.args[0].str())
            return
        self._committed.update({where.partition: where.offset for where in offsets})

    # -- the group ----------------------------------------------------------------------------

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._lanes.start(partitions)
        consumer.incremental_assign(partitions)
        log.info("lanes assigned: %s", self._lanes.text())

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._lanes.stop([where.partition for where in partitions])
        self._commit(consumer)
        self._leave(consumer, partitions)

    def _lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """The group has already given the partitions away: nothing may be committed."""
        self._lanes.stop([where.partition for where in partitions])
        self._leave(consumer, partitions)

    def _leave(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        numbers = [where.partition for where in partitions]
        self._lanes.forget(numbers)
        self._paused.difference_update(numbers)
        consumer.incremental_unassign(partitions)


def _log_refused(error: KafkaError | None, _: list[TopicPartition]) -> None:
    if error is not None:
        log.warning("offsets were not committed (%s); the ledger has them", error.str())
