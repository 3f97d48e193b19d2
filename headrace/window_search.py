"""Reading `changes` and `units` at a place, as a consumer without a group: nothing is committed or changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from confluent_kafka import Consumer, TopicPartition

from headrace.recent import has_topics, read_to_end
from pipeline.errors import RetriableError
from pipeline.fence import LaneRow
from pipeline.merging import QueuedUnit
from schemas.apply_unit import LANES_MAX, decode_unit
from schemas.change_batch import ChangeBatch
from schemas.change_batch_codec import decode_batch
from topologies.kafka import make_consumer
from topologies.settings import Settings
from topologies.topics import TIMEOUT_S

UNITS_MAX = 20_000  # queued ones looked at: more than planner and lanes ever have in flight


@dataclass(frozen=True, slots=True)
class FoundWindow:
    """A change record and its offset."""

    offset: int
    batch: ChangeBatch


class WindowSearch:
    """The partition of `changes` of one stream. Positions in it rise with the offsets."""

    def __init__(self, settings: Settings, number: int) -> None:
        self._settings = settings
        self._where = TopicPartition(settings.topic("changes"), number)
        self._consumer: Consumer | None = None

    def __enter__(self) -> WindowSearch:
        if has_topics(self._settings):
            self._consumer = make_consumer(self._settings, self._settings.group("watch"))
        return self

    def __exit__(self, *_: object) -> None:
        if self._consumer is not None:
            self._consumer.close()

    def containing(self, generation: int, position: int) -> FoundWindow | None:
        """The first record that reaches the position (binary search); None when none does."""
        low, high = self._bounds()
        end = high
        while low < high:
            middle = (low + high) // 2
            batch = self._read(middle).batch
            if (batch.generation, batch.last_position) < (generation, position):
                low = middle + 1
            else:
                high = middle
        return self._read(low) if low < end else None

    def first_from(self, offset: int) -> FoundWindow | None:
        """The first record at `offset` or later that has transactions, else the last that has; None: there is none."""
        low, end = self._bounds()
        for at in range(max(low, offset), end):
            found = self._read(at)
            if found.batch.positions:
                return found
        for at in range(min(end, max(low, offset)) - 1, low - 1, -1):
            found = self._read(at)
            if found.batch.positions:
                return found
        return None

    def _bounds(self) -> tuple[int, int]:
        if self._consumer is None:
            return 0, 0
        low, high = self._consumer.get_watermark_offsets(self._where, timeout=TIMEOUT_S)
        return int(low), int(high)

    def _read(self, offset: int) -> FoundWindow:
        """Raises RetriableError, SchemaError."""
        topic, partition = self._where.topic, self._where.partition
        if self._consumer is not None:
            self._consumer.assign([TopicPartition(topic, partition, offset)])
            for message in self._consumer.consume(1, timeout=TIMEOUT_S):
                value = message.value()
                if message.error() is None and value is not None:
                    return FoundWindow(offset, decode_batch(value))
        raise RetriableError(f"topic {topic}, partition {partition}: the record at offset {offset} did not come")


def queued_units(settings: Settings, number: int, rows: Mapping[int, LaneRow]) -> dict[int, list[QueuedUnit]]:
    """Lane -> its units of the present epoch that are not applied, in order.

    Raises RetriableError, SchemaError, KafkaException.
    """
    topic, found = settings.topic("units"), {lane: list[QueuedUnit]() for lane in rows}
    starts = [TopicPartition(topic, LANES_MAX * number + lane, row.next_offset) for lane, row in rows.items()]
    for count, message in enumerate(read_to_end(settings, starts)):
        value, partition, offset = message.value(), message.partition(), message.offset()
        if value is None or partition is None or offset is None or count >= UNITS_MAX:
            continue
        unit = decode_unit(value)
        row = rows[unit.lane]
        if unit.epoch == row.epoch and unit.seq > row.seq:
            found[unit.lane].append(QueuedUnit(unit, decode_batch(unit.batch), offset, len(value)))
    return {lane: units for lane, units in found.items() if units}
