"""What the lanes of all processes have applied, as far as this process has heard."""

from __future__ import annotations

import threading
from collections.abc import Callable

from confluent_kafka import Consumer

from schemas.errors import SchemaError
from schemas.progress import decode_progress
from topologies.kafka import raise_if_fatal, take

POLL_S = 0.1


class ProgressBoard:
    """(stream, epoch) -> lane -> seq, with waiting. Thread-safe. Only the newest epoch is kept."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._seqs: dict[str, tuple[int, dict[int, int]]] = {}

    def note(self, stream: str, epoch: int, lane: int, seq: int) -> None:
        """Record that `lane` has applied up to `seq`."""
        with self._changed:
            known, seqs = self._seqs.get(stream, (0, {}))
            if epoch < known:
                return
            if epoch > known:
                seqs = {}
            if seq > seqs.get(lane, 0):
                seqs[lane] = seq
            self._seqs[stream] = (epoch, seqs)
            self._changed.notify_all()

    def met(self, stream: str, epoch: int, waits: dict[int, int]) -> bool:
        """Whether all `waits` are known to be met."""
        if not waits:
            return True
        known, seqs = self._seqs.get(stream, (0, {}))
        return known == epoch and all(seqs.get(lane, 0) >= seq for lane, seq in waits.items())

    def wait(self, stream: str, epoch: int, waits: dict[int, int], timeout_s: float) -> bool:
        """Wait for the waits to be met; whether they are."""
        with self._changed:
            return self._changed.wait_for(lambda: self.met(stream, epoch, waits), timeout_s)

    def follow(self, consumer: Consumer, stopping: Callable[[], bool]) -> None:
        """Feed the board from the progress topic until `stopping`."""
        while not stopping():
            for message in take(consumer, 100, POLL_S):
                error, value = message.error(), message.value()
                if error is not None:
                    raise_if_fatal(error)
                elif value is not None:
                    try:
                        progress = decode_progress(value)
                    except SchemaError:
                        continue  # a hint that can't be read is no hint; the ledger tells the truth
                    self.note(progress.stream, progress.epoch, progress.lane, progress.seq)
        consumer.close()
