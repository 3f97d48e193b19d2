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

from connectors.base import load_connector
from connectors.lane import LaneTarget
from pipeline.errors import ConfigError, RetriableError
from pipeline.merge_limit import MergeLimit
from pipeline.merging import Damage, QueuedUnit
from schemas.apply_unit import LANES_MAX, decode_unit
from schemas.change_batch_codec import decode_batch
from schemas.errors import SchemaError
from schemas.progress import Progress, encode_progress
from topologies.access_reports import AccessReports
from topologies.board import ProgressBoard
from topologies.kafka import client_id, make_admin, make_consumer, make_producer, raise_if_fatal, read_from_end, take
from topologies.lane import LaneWorker
from topologies.lane_report import lane_report
from topologies.letters import LetterBox
from topologies.predecessor import remove_predecessor
from topologies.reporting import Reporter
from topologies.settings import Settings
from topologies.stopped_streams import StoppedStreams
from topologies.stream_settings import StreamConfig
from topologies.topics import ensure_topics
from topologies.turns import Turns

log = logging.getLogger(__name__)
POLL_S = 0.05
RECORDS_MAX = 100
COMMIT_INTERVAL_S = 1.0
STOP_S = 10.0


class Apply:
    """The apply role: lanes of all streams that the group gives to this process."""

    def __init__(self, settings: Settings, stopping: Callable[[], bool]) -> None:
        self._settings = settings
        self._stopping = stopping
        self._topic = settings.topic("units")
        self._streams = {settings.numbers()[stream.name]: stream for stream in settings.streams}
        self._board = ProgressBoard()
        self._workers: dict[int, LaneWorker] = {}
        self._stopped = StoppedStreams(stream.name for stream in settings.streams)
        self._paused: set[int] = set()
        self._committed: dict[int, int] = {}
        self._offsets: dict[str, dict[int, int]] = {}  # of the assignment in progress, read once a stream
        self._turns = {s.name: Turns(s.target.table_priorities().rank_of_lane) for s in settings.streams}
        self._reporters: dict[str, Reporter] = {}
        self._producer: Producer = make_producer(settings)
        self._accesses = AccessReports(settings) if settings.directory.enabled else None

    def run(self) -> None:
        """Apply until stopped. Raises ConfigError, StreamStoppedError, RetriableError."""
        ensure_topics(make_admin(self._settings), self._settings)
        progress = read_from_end(self._settings, self._settings.topic("progress"), list(self._streams))
        threading.Thread(
            target=self._board.follow, args=(progress, self._stopping), name="progress", daemon=True
        ).start()
        remove_predecessor(self._settings, self._settings.group("apply"))
        # The directory learns from the group's members which node applies which lane.
        node = {"client.id": client_id(self._settings.cache.node), "on_commit": _log_refused}
        consumer = make_consumer(self._settings, self._settings.group("apply"), options=node)
        consumer.subscribe([self._topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)
        try:
            self._consume(consumer)
        finally:
            self._stop(list(self._workers))
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
        if value is None or partition is None or offset is None or partition not in self._workers:
            return
        try:
            unit = decode_unit(value)
            batch = decode_batch(unit.batch)
            queued: QueuedUnit | Damage = QueuedUnit(unit, batch, offset, len(value))
            if self._accesses is not None:
                self._accesses.wrote(batch)
        except SchemaError as error:
            queued = Damage(f"topic {self._topic}, partition {partition}, offset {offset}: {error}", len(value))
        self._workers[partition].queue.put(queued)

    def _report(self) -> None:
        for worker in self._workers.values():
            if worker.done_offset >= 0 or worker.queue:
                reporter = self._reporters.setdefault(
                    worker.name, Reporter(self._settings, worker.stream, f"apply/{worker.lane}")
                )
                if reporter.due():
                    reporter.send(self._producer, lane_report(worker, RECORDS_MAX, time.time_ns() // 1000))

    def _raise_failures(self) -> None:
        for worker in self._workers.values():
            if worker.fatal is not None:
                self._stopped.note(worker.stream, worker.fatal)

    def _balance(self, consumer: Consumer) -> None:
        """Pause the partitions of full lanes and resume those of drained ones."""
        full = {partition for partition, worker in self._workers.items() if worker.queue.full}
        if full - self._paused:
            consumer.pause([TopicPartition(self._topic, partition) for partition in full - self._paused])
        if self._paused - full:
            consumer.resume([TopicPartition(self._topic, p) for p in self._paused - full if p in self._workers])
        self._paused = full

    def _commit(self, consumer: Consumer, *, wait: bool = True) -> None:
        """Commit offsets; units that come in must not wait for the broker's answer."""
        offsets = [
            TopicPartition(self._topic, partition, worker.done_offset)
            for partition, worker in self._workers.items()
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
        self._offsets.clear()
        for where in partitions:
            number, lane = divmod(where.partition, LANES_MAX)
            stream = self._streams.get(number)
            if stream is not None:
                where.offset = self._start_offset(stream, lane, where)
                self._workers[where.partition] = self._start_worker(stream, lane)
        consumer.incremental_assign(partitions)
        log.info("lanes assigned: %s", self._lanes_text() or "none")

    def _lanes_text(self) -> str:
        numbers: dict[str, list[int]] = {}
        for partition in sorted(self._workers):
            number, lane = divmod(partition, LANES_MAX)
            numbers.setdefault(self._streams[number].name, []).append(lane)
        return "; ".join(f"{stream}/{runs_text(lanes)}" for stream, lanes in numbers.items())

    def _start_offset(self, stream: StreamConfig, lane: int, where: TopicPartition) -> int:
        """The ledger's next offset of the lane; the committed one where there is no ledger yet."""
        make = load_connector(stream.target.connector).ledger
        if make is None:
            raise ConfigError(f"stream {stream.name}: connector {stream.target.connector} is no target")
        if stream.name not in self._offsets:
            try:
                ledger = make(stream.name, stream.target_settings())
                try:
                    rows = ledger.lane_rows() if ledger.stream_row() is not None else {}
                finally:
                    ledger.close()
            except (RetriableError, ConfigError) as error:
                log.warning("%s; lanes begin at their committed offsets, stale units are refused by the ledger", error)
                rows = {}
            self._offsets[stream.name] = {number: row.next_offset for number, row in rows.items()}
        return self._offsets[stream.name].get(lane, where.offset)

    def _start_worker(self, stream: StreamConfig, lane: int) -> LaneWorker:
        make = load_connector(stream.target.connector).lane_target
        if make is None:
            raise ConfigError(f"stream {stream.name}: connector {stream.target.connector} is no target")

        def connect() -> LaneTarget:
            return make(stream.name, lane, stream.target_settings())

        letters = LetterBox(self._settings, self._producer) if stream.target.on_error == "park" else None
        worker = LaneWorker(
            stream.name, lane, connect, self._publish, self._board,
            MergeLimit(stream.target.merge_transactions_max, stream.target.commit_ms_max / 1000),
            self._turns[stream.name].turn, letters,
        )  # fmt: skip
        worker.start()
        return worker

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        numbers = [where.partition for where in partitions]
        self._stop(numbers)
        self._commit(consumer)
        self._drop(numbers)
        consumer.incremental_unassign(partitions)

    def _lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """The group has already given the partitions away: nothing may be committed."""
        numbers = [where.partition for where in partitions]
        self._stop(numbers)
        self._drop(numbers)
        consumer.incremental_unassign(partitions)

    def _stop(self, partitions: list[int]) -> None:
        workers = [self._workers[partition] for partition in partitions if partition in self._workers]
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.join(STOP_S)

    def _drop(self, partitions: list[int]) -> None:
        for partition in partitions:
            self._workers.pop(partition, None)
            self._paused.discard(partition)

    def _publish(self, progress: Progress) -> None:
        """Send progress: a hint, so a lost one is only counted by the log."""
        number = self._settings.numbers()[progress.stream]
        try:
            self._producer.produce(
                self._settings.topic("progress"), encode_progress(progress),
                key=f"{progress.stream}/{progress.lane}", partition=number, on_delivery=_log_lost,
            )  # fmt: skip
            self._producer.poll(0)
        except BufferError:
            log.warning("progress of %s/%d was not sent: the producer is full", progress.stream, progress.lane)


def runs_text(numbers: list[int]) -> str:
    """Ascending numbers as runs: "0-3, 7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _log_refused(error: KafkaError | None, _: list[TopicPartition]) -> None:
    if error is not None:
        log.warning("offsets were not committed (%s); the ledger has them", error.str())


def _log_lost(error: KafkaError | None, _: Message) -> None:
    if error is not None:
        log.warning("a progress record was not delivered: %s", error.str())
