"""A planner's units on their way to the lanes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from confluent_kafka import KafkaError, Message, Producer

from connectors.failpoints import hit
from pipeline.errors import RetriableError
from schemas.apply_unit import LANES_MAX, ApplyUnit, encode_unit
from topologies.kafka import make_producer
from topologies.settings import Settings

FULL_S = 0.05  # between two tries while the producer is full


class UnitSender:
    """Sends the units of one stream in order. One that is lost leaves a gap in its lane: the planner has to end."""

    def __init__(self, settings: Settings, stream: str, number: int) -> None:
        self._settings = settings
        self._stream = stream
        self._topic = settings.topic("units")
        self._partition = LANES_MAX * number  # of lane 0
        self._producer: Producer | None = None
        self._undelivered = ""  # why a unit was not delivered

    @property
    def producer(self) -> Producer:
        """The planner's own producer, made when it is first needed."""
        if self._producer is None:
            self._producer = make_producer(self._settings)
        return self._producer

    async def send(self, units: Sequence[ApplyUnit]) -> None:
        """Hand the units to the producer; waits while it is full."""
        producer = self.producer
        hit("plan.before_send")
        for number, unit in enumerate(units):
            if number:
                hit("plan.between_units")
            record = encode_unit(unit)
            while not self._produce(producer, unit.lane, record):  # noqa: ASYNC110 - librdkafka has no event
                await asyncio.sleep(FULL_S)
        producer.poll(0)

    def _produce(self, producer: Producer, lane: int, record: bytes) -> bool:
        """Whether the producer took the record; it is full while the broker is away."""
        try:
            producer.produce(
                self._topic, record, key=f"{self._stream}/{lane}", partition=self._partition + lane,
                on_delivery=self._delivered,
            )  # fmt: skip
        except BufferError:
            producer.poll(0)
            return False
        return True

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._undelivered = error.str()
            return
        hit("plan.after_send")

    def poll(self) -> None:
        """Hear what the broker has answered."""
        if self._producer is not None:
            self._producer.poll(0)

    def require_delivered(self) -> None:
        """Raises RetriableError when a unit was not delivered."""
        if self._undelivered:
            raise RetriableError(f"stream {self._stream}: a unit was not delivered: {self._undelivered}")
