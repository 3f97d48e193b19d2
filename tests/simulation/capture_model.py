"""A capture of the simulation: it continues the log from its last record, in batches of any cut."""

from __future__ import annotations

import random
from itertools import pairwise

from pipeline.builder import BatchBuilder
from schemas.change_batch import LogicalMessage
from schemas.change_batch_codec import decode_batch, encode_batch
from tests.properties.model import pack_change
from tests.simulation.history import Event, History


class Capture:
    """Appends the events that follow the log's end.

    A replaced one sends on what it has read. It does not begin a large transaction then: of two captures
    that both go on past one, the log keeps no order that a planner could follow (it stops at a gap).
    """

    def __init__(self, history: History, log: list[bytes], clock_us: int) -> None:
        self._history = history
        self._clock_us = clock_us
        self._generation, position = self._tail(log)
        self._events = [event for event in history.of(self._generation) if event.transaction.position > position]
        self._builder = BatchBuilder("s", self._generation, position)
        self._parts: list[list[int]] = []  # rows of the large transaction still to be sent, in parts
        self._told_end = False
        self.spent = False

    def _tail(self, log: list[bytes]) -> tuple[int, int]:
        """Generation and position that the log ends with."""
        if not log:
            return self._history.events[0].generation, 0
        batch = decode_batch(log[-1])
        return batch.generation, batch.last_position if batch.last_part else batch.previous_position

    @property
    def in_transaction(self) -> bool:
        """Whether a large transaction has begun and not ended."""
        return bool(self._parts)

    @property
    def finished(self) -> bool:
        """Whether everything has been sent, and a heartbeat after it."""
        return self._told_end

    def next_record(self, rng: random.Random, *, replaced: bool) -> bytes | None:
        """The next record; None when there is nothing, or nothing that a replaced capture still sends."""
        if self.spent:
            return None
        self._clock_us += 1
        if self._parts:
            self.spent = replaced and len(self._parts) == 1
            return self._part()
        if not self._events:
            return self._end(replaced)
        event = self._events[0]
        if self._in_parts(event):
            if replaced:
                self.spent = True
                return None
            count = len(event.transaction.changes)
            edges = sorted({0, count, *(rng.randint(1, max(1, count - 1)) for _ in range(rng.randint(1, 4)))})
            self._parts = [list(range(a, b)) for a, b in pairwise(edges)]
            if event.kind == "copy":
                self._parts.append([])  # its end has no rows
            return self._part()
        return self._batch(rng)

    def _in_parts(self, event: Event) -> bool:
        """Now and then a capture finds time to send whole what another one has begun to send in parts."""
        if event.kind == "copy":
            return True
        whole = (self._clock_us // 1000 + event.number) % 3 == 0
        return event.large and len(event.transaction.changes) > 1 and not whole

    def _part(self) -> bytes:
        event, rows = self._events[0], self._parts.pop(0)
        tx = self._builder.begin(event.transaction.position, 0, 0)
        for n in rows:
            pack_change(self._builder, tx, event.transaction.changes[n])
        if not self._parts:
            del self._events[0]
        kind = "snapshot" if event.kind == "copy" else "live"
        return encode_batch(self._builder.close(kind, 0, self._clock_us, last_part=not self._parts))

    def _batch(self, rng: random.Random) -> bytes:
        kind = self._events[0].kind
        count = 1 if kind == "snapshot" else rng.choice([0, 1, 2, 3, 5, 8, 12])
        taken: list[Event] = []
        for event in self._events[:count]:
            if event.kind != kind or self._in_parts(event):
                break
            taken.append(event)
        for event in taken:
            tx = self._builder.begin(event.transaction.position, 0, 0)
            for change in event.transaction.changes:
                pack_change(self._builder, tx, change)
            if rng.random() < 0.05:
                self._builder.messages.append(LogicalMessage(tx, self._builder.rank, "headrace", b""))
        del self._events[: len(taken)]
        return encode_batch(self._builder.close(kind, 0, self._clock_us))

    def _end(self, replaced: bool) -> bytes | None:
        """Behind an unfinished snapshot the next generation begins; at the very end a heartbeat tells of gaps."""
        if replaced or self._told_end:
            return None
        if self._generation == self._history.generation:
            self._told_end = True
            return encode_batch(self._builder.close("live", 0, self._clock_us))
        self._generation += 1
        self._events = self._history.of(self._generation)
        self._builder = BatchBuilder("s", self._generation, 0)
        return self.next_record(random.Random(self._clock_us), replaced=False)
