"""The lanes that the consumer group has given to this process."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import closing

from confluent_kafka import KafkaError, Message, Producer, TopicPartition

from connectors.base import load_connector
from connectors.lane import LaneTarget
from pipeline.errors import ConfigError, RetriableError
from pipeline.merge_limit import MergeLimit
from schemas.apply_unit import LANES_MAX
from schemas.progress import Progress, encode_progress
from topologies.board import ProgressBoard
from topologies.lane import LaneWorker
from topologies.letters import LetterBox
from topologies.settings import Settings
from topologies.stream_parts import connect_ledger, required
from topologies.stream_settings import StreamConfig
from topologies.turns import Turns

log = logging.getLogger(__name__)
STOP_S = 10.0


class LaneWorkers:
    """Starts and ends lanes; `running` has them by partition of the units topic. Used by the consuming thread.

    `board` is what they know of each other. Their progress and their dead letters go out through `producer`.
    """

    def __init__(self, settings: Settings, producer: Producer) -> None:
        self.board = ProgressBoard()
        self.running: dict[int, LaneWorker] = {}
        self._settings = settings
        self._producer = producer
        self._streams = {settings.numbers()[stream.name]: stream for stream in settings.streams}
        self._turns = {s.name: Turns(s.target.table_priorities().rank_of_lane) for s in settings.streams}

    def start(self, partitions: Iterable[TopicPartition]) -> None:
        """Start the lanes of `partitions`, and set the offset that each is to be read from. Raises ConfigError."""
        offsets: dict[str, dict[int, int]] = {}
        for where in partitions:
            number, lane = divmod(where.partition, LANES_MAX)
            stream = self._streams.get(number)
            if stream is None:
                continue
            if stream.name not in offsets:
                offsets[stream.name] = ledger_offsets(stream)
            where.offset = offsets[stream.name].get(lane, where.offset)
            self.running[where.partition] = worker = self._worker(stream, lane)
            worker.start()

    def _worker(self, stream: StreamConfig, lane: int) -> LaneWorker:
        make = required(load_connector(stream.target.connector).lane_target, stream, "target")

        def connect() -> LaneTarget:
            return make(stream.name, lane, stream.target_settings())

        letters = LetterBox(self._settings, self._producer) if stream.target.on_error == "park" else None
        merge = MergeLimit(stream.target.merge_transactions_max, stream.target.commit_ms_max / 1000)
        turn = self._turns[stream.name].turn
        return LaneWorker(stream.name, lane, connect, self._publish, self.board, merge, turn, letters)

    def stop(self, partitions: Iterable[int]) -> None:
        """End lanes after the commits they are at. What they have done can still be asked for."""
        workers = [self.running[partition] for partition in partitions if partition in self.running]
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.join(STOP_S)

    def forget(self, partitions: Iterable[int]) -> None:
        """Have nothing more to do with the stopped lanes of `partitions`."""
        for partition in partitions:
            self.running.pop(partition, None)

    def text(self) -> str:
        """The lanes by stream: "shop/0-3, 7"."""
        lanes: dict[str, list[int]] = {}
        for partition in sorted(self.running):
            worker = self.running[partition]
            lanes.setdefault(worker.stream, []).append(worker.lane)
        return "; ".join(f"{stream}/{runs_text(numbers)}" for stream, numbers in lanes.items()) or "none"

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


def ledger_offsets(stream: StreamConfig) -> dict[int, int]:
    """The next offset of each lane that the ledger knows; nothing while it can't be read."""
    try:
        with closing(connect_ledger(stream)) as ledger:
            rows = ledger.lane_rows() if ledger.stream_row() is not None else {}
    except (RetriableError, ConfigError) as error:
        log.warning("%s; lanes begin at their committed offsets, stale units are refused by the ledger", error)
        return {}
    return {lane: row.next_offset for lane, row in rows.items()}


def runs_text(numbers: list[int]) -> str:
    """Ascending numbers as runs: "0-3, 7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _log_lost(error: KafkaError | None, _: Message) -> None:
    if error is not None:
        log.warning("a progress record was not delivered: %s", error.str())
