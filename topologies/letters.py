"""Dead letters on their way from the ledger, where they are safe, to the topic, where people look."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from confluent_kafka import KafkaError, Message, Producer

from connectors.failpoints import hit
from schemas.dead_letter import DeadLetter, encode_dead_letter
from topologies.settings import Settings
from topologies.target_connection import TargetConnection

log = logging.getLogger(__name__)
DELIVERY_S = 10.0
AGAIN_S = 5.0  # between two tries while the broker does not take them


class LetterBox:
    """Sends the letters of one stream. Each is sent at least once: the topic's key tells repetitions."""

    def __init__(self, settings: Settings, producer: Producer) -> None:
        self._topic = settings.topic("dead-letters")
        self._producer = producer
        self._due_s = 0.0

    def send(self, target: TargetConnection, *, now: bool = False) -> None:
        """Send what the ledger has and the topic may not have; at most every few seconds, unless `now`."""
        if not now and time.monotonic() < self._due_s:
            return
        self._due_s = time.monotonic() + AGAIN_S
        hit("park.after_commit")
        while letters := target.call(lambda opened: opened.unpublished_letters()):
            if not self._deliver(letters):
                return
            hit("park.after_publish")
            sent = letters
            target.call(lambda opened: opened.mark_published(sent))  # noqa: B023 - called at once

    def _deliver(self, letters: Sequence[DeadLetter]) -> bool:
        """Whether the broker has taken all of them."""
        failed: list[str] = []
        done: list[None] = []

        def delivered(error: KafkaError | None, _: Message) -> None:
            done.append(None)
            if error is not None:
                failed.append(error.str())

        for letter in letters:
            try:
                self._producer.produce(
                    self._topic, encode_dead_letter(letter), key=f"{letter.stream}/{letter.position}",
                    on_delivery=delivered,
                )  # fmt: skip
            except BufferError:
                return False
        self._producer.flush(DELIVERY_S)
        if failed or len(done) < len(letters):
            log.warning("dead letters are in the ledger, but not in topic %s yet: %s", self._topic, failed[:1])
            return False
        return True
