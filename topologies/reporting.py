"""Sending role reports: once a second, a hint for people and the monitor, kept by key in topic `reports`."""

from __future__ import annotations

import logging
import time

from confluent_kafka import KafkaError, Message, Producer

from schemas.role_report import RoleReport, encode_report
from topologies.settings import Settings

log = logging.getLogger(__name__)
REPORT_S = 1.0


class Reporter:
    """Sends the reports of one role of one stream through the role's own producer."""

    def __init__(self, settings: Settings, stream: str, role: str) -> None:
        self.stream = stream
        self.role = role
        self._topic = settings.topic("reports")
        self._partition = settings.numbers()[stream]
        self._due_s = 0.0

    def due(self) -> bool:
        """Whether it is time for a report; asked again, it is not."""
        now_s = time.monotonic()
        if now_s < self._due_s:
            return False
        self._due_s = now_s + REPORT_S
        return True

    def send(self, producer: Producer, report: RoleReport) -> None:
        """Send it, or leave it out when the producer is full."""
        try:
            producer.produce(
                self._topic, encode_report(report), key=f"{self.stream}/{self.role}", partition=self._partition,
                on_delivery=_log_lost,
            )  # fmt: skip
        except BufferError:
            log.debug("stream %s: a report was left out: the producer is full", self.stream)


def _log_lost(error: KafkaError | None, _: Message) -> None:
    if error is not None:
        log.warning("a report was not delivered: %s", error.str())
