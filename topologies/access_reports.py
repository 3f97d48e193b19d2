"""What this process uses, told to the deciders every two seconds.

**Guarantee:** none is needed: a report that is lost makes a count a little low.
"""

from __future__ import annotations

import time

from confluent_kafka import Producer

from pipeline.directory.access_counter import AccessCounter
from schemas.change_batch import ChangeBatch
from schemas.grd_accesses import encode_accesses
from topologies.settings import Settings
from topologies.topics import KEYED_PARTITIONS

REPORT_S = 2.0  # a tenth of the half-life of what is counted; each report costs the deciders 15 us a block


class AccessReports:
    """Counts accesses and sends reports with the caller's producer. `wrote`, `read` and `evicted` may be called in any
    thread.
    """

    def __init__(self, settings: Settings) -> None:
        self._node = settings.cache.node
        self._topic = settings.topic("grd-accesses")
        self._counter = AccessCounter(self._node, settings.cache.buckets)
        self._due_s = 0.0
        self.read, self.evicted = self._counter.read, self._counter.evicted

    def wrote(self, batch: ChangeBatch) -> None:
        """Count a batch of live changes; a snapshot says nothing about who uses what."""
        if batch.kind == "live":
            for section in batch.sections:
                self._counter.wrote(batch.stream, section)

    def publish(self, producer: Producer) -> None:
        """Send what was counted, if it is time. A producer that is full gets the next report instead."""
        if time.monotonic() < self._due_s:
            return
        self._due_s = time.monotonic() + REPORT_S
        for partition, report in self._counter.reports(KEYED_PARTITIONS, time.time_ns() // 1000).items():
            try:
                producer.produce(self._topic, encode_accesses(report), key=self._node, partition=partition)
            except BufferError:
                return
