"""The directory as the topics show it: who masters what, who uses it; and moves by hand."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from confluent_kafka import OFFSET_END, Consumer, Producer, TopicPartition

from headrace.recent import recent_reports
from pipeline.directory.block import BlockId, Owner, partition_of
from pipeline.directory.directory import Directory
from pipeline.directory.following import take
from pipeline.errors import ConfigError, RetriableError
from schemas.errors import SchemaError
from schemas.grd_accesses import GrdAccesses, decode_accesses
from schemas.grd_affinity import MEMBERS, GrdAffinity, encode_affinity
from topologies.cache_report import CACHE_ROLE, transfers_of
from topologies.decision_log import read_to_end
from topologies.kafka import make_consumer, make_producer, until_answered
from topologies.settings import Settings
from topologies.topics import KEYED_PARTITIONS

TIMEOUT_S = 15.0
WINDOW_S = 60  # of reports that count as "now"
MOVE_S = 40.0  # a decider that has just been started needs some of it
ASK_S = 5.0
BY_HAND = "by hand"
POLL_S = 0.5

Transfers = dict[str, dict[str, tuple[int, str]]]  # node -> outcome -> count, and latency as text where there is one


@dataclass(frozen=True, slots=True)
class BlockUse:
    """A block: who masters it, and what the last minute's reports say. `record` is its newest decision, if any."""

    block: BlockId
    owner: Owner
    reads_per_s: float
    writes_per_s: float
    by_node: dict[str, float]
    record: GrdAffinity | None


class Picture:
    """The directory as the topics have it now."""

    def __init__(self, records: Iterable[tuple[int, GrdAffinity]], reports: Iterable[GrdAccesses], now_us: int) -> None:
        self.directory = Directory(KEYED_PARTITIONS)
        self.records: dict[str, GrdAffinity] = {}
        self._reads: Counter[str] = Counter()
        self._writes: Counter[str] = Counter()
        self._nodes: dict[str, Counter[str]] = {}
        for partition, record in records:
            take(self.directory, partition, record, now_us, now_us)
            if record.block != MEMBERS:
                self.records[record.block] = record
        for partition in range(KEYED_PARTITIONS):
            self.directory.catch_up(partition)
        for report in reports:
            for use in report.blocks:
                if not use.reads and not use.writes:
                    continue  # evicted after it was last used
                self._reads[use.block] += use.reads
                self._writes[use.block] += use.writes
                self._nodes.setdefault(use.block, Counter())[report.node] += use.reads + use.writes

    def use(self, text: str) -> BlockUse:
        """One block. Raises ConfigError for a text that names none."""
        try:
            block = BlockId.parse(text)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        nodes = {node: count / WINDOW_S for node, count in self._nodes.get(text, Counter()).most_common()}
        return BlockUse(
            block, self.directory.owner(block), self._reads[text] / WINDOW_S, self._writes[text] / WINDOW_S, nodes,
            self.records.get(text),
        )  # fmt: skip

    def hottest(self, count: int) -> list[BlockUse]:
        """The blocks used most in the last minute; without reports, those that moved last."""
        used = (self._reads + self._writes).most_common(count)
        names = [name for name, _ in used] or [record.block for record in self.moves(count)]
        return [self.use(name) for name in names]

    def moves(self, count: int) -> list[GrdAffinity]:
        """The newest decisions, newest first."""
        return sorted(self.records.values(), key=lambda record: -record.decided_us)[:count]


def read_picture(settings: Settings) -> Picture:
    """Read the topics. Raises RetriableError, ConfigError."""
    require_directory(settings)
    now_us = time.time_ns() // 1000
    records = read_to_end(settings, range(KEYED_PARTITIONS))
    return Picture(records, _recent_reports(settings), now_us)


def read_transfers(settings: Settings) -> Transfers:
    """What the cache nodes have said in the last minute. Raises RetriableError, KafkaException."""
    found: Transfers = {}
    for stream in settings.cached_streams():
        for report in recent_reports(settings, settings.numbers()[stream.name]):
            role, _, node = report.role.partition("/")
            if role == CACHE_ROLE:
                found[node] = transfers_of(report)
    return found


def require_directory(settings: Settings) -> None:
    """Raise ConfigError while the directory is off."""
    if not settings.directory.enabled:
        raise ConfigError("the directory is off: set directory.enabled = true, and start `headrace run` again")


def _recent_reports(settings: Settings) -> list[GrdAccesses]:
    consumer = make_consumer(settings, settings.group("directory"))
    topic, since_ms = settings.topic("grd-accesses"), (time.time_ns() // 1_000_000) - WINDOW_S * 1000
    try:
        wanted = [TopicPartition(topic, partition, since_ms) for partition in range(KEYED_PARTITIONS)]
        starts = until_answered(lambda: consumer.offsets_for_times(wanted, timeout=TIMEOUT_S), f"topic {topic}")
        starts = [start for start in starts if start.offset >= 0 and start.offset != OFFSET_END]
        return _read(consumer, starts) if starts else []
    finally:
        consumer.close()


def _read(consumer: Consumer, starts: list[TopicPartition]) -> list[GrdAccesses]:
    ends = {s.partition: consumer.get_watermark_offsets(s, timeout=TIMEOUT_S)[1] for s in starts}
    left = {s.partition for s in starts if s.offset < ends[s.partition]}
    consumer.assign(starts)
    reports = []
    deadline_s = time.monotonic() + TIMEOUT_S
    while left and time.monotonic() < deadline_s:
        for message in consumer.consume(500, timeout=0.2):
            if message.error() is not None:
                continue
            partition, offset, value = message.partition() or 0, message.offset() or 0, message.value() or b""
            if offset >= ends[partition] - 1:
                left.discard(partition)
            try:
                reports.append(decode_accesses(value))
            except SchemaError:
                continue  # an affinity event from outside, or damage: neither is a count
    return reports


def move_block(settings: Settings, text: str, node: str) -> GrdAffinity:
    """Ask for a move and wait until it is decided; an empty `node` gives the block back to the hash.

    Asks again while nothing is decided: a decider that has just begun has not heard it, and one that has moved the
    block meanwhile refuses what was asked in ignorance of that. Raises ConfigError for a block or node that is not
    known, RetriableError when nobody decides.
    """
    require_directory(settings)
    producer = make_producer(settings)
    deadline_s, ask_again_s = time.monotonic() + MOVE_S, 0.0
    before: int | None = None
    while time.monotonic() < deadline_s:
        now_us = time.time_ns() // 1000
        picture = Picture(read_to_end(settings, range(KEYED_PARTITIONS)), [], now_us)
        use = picture.use(text)
        before = use.owner.epoch if before is None else before
        if use.record is not None and is_answer(use.record, node, before):
            return use.record
        if time.monotonic() >= ask_again_s:
            _require_member(node, picture.directory.nodes())
            _ask(settings, producer, use, GrdAffinity(text, node, use.owner.epoch, False, (), {}, BY_HAND, now_us))
            ask_again_s = time.monotonic() + ASK_S
        time.sleep(POLL_S)
    raise RetriableError(f"block {text}: no decision in {MOVE_S:.0f} s; does the role `affinity` run? Try again")


def is_answer(record: GrdAffinity, node: str, before: int) -> bool:
    """Whether a block's newest decision is what a move by hand to `node` waits for that found it at epoch `before`."""
    return record.master == node and record.reason == BY_HAND and record.epoch > before


def _require_member(node: str, nodes: Iterable[str]) -> None:
    known = sorted(nodes)
    if node and node not in known:
        raise ConfigError(f"no node {node!r} takes part in the directory; there are: {', '.join(known)}")


def _ask(settings: Settings, producer: Producer, use: BlockUse, wanted: GrdAffinity) -> None:
    topic = settings.topic("grd-accesses")
    partition = partition_of(use.block, KEYED_PARTITIONS)
    producer.produce(topic, encode_affinity(wanted), key=wanted.block, partition=partition)
    if producer.flush(TIMEOUT_S):
        raise RetriableError(f"topic {topic}: the move was not delivered")
