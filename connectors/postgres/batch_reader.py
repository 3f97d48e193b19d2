"""A running replication stream, read as change batches."""

from __future__ import annotations

import time
from collections.abc import Iterator

from connectors.postgres.pgoutput import PgOutputDecoder
from connectors.postgres.replication import NAP_S, ReplicationConnection
from pipeline.builder import BatchBuilder
from pipeline.closing import Arrivals, ClosingRule, age_s
from pipeline.slicing import split
from schemas.change_batch import ChangeBatch

READ_MESSAGES_MAX = 512  # between two looks at the clock and the batch's size
MESSAGES_MIN = 3  # of a transaction: begin, a change, commit
PART_BYTES_MAX = 4 * 1024 * 1024  # of one transaction in a record, well under the broker's 16 MiB
HEARTBEAT_S = 5.0


class BatchReader:
    """Reads what `decoder` makes of `replication` and puts into `builder`, and closes batches by `rule`."""

    def __init__(
        self, replication: ReplicationConnection, builder: BatchBuilder, decoder: PgOutputDecoder, rule: ClosingRule
    ) -> None:
        self._replication = replication
        self._builder = builder
        self._decoder = decoder
        self._rule = rule
        # When the open batch began, the last one was closed, and something was read.
        self._opened_s = self._sent_s = self._arrived_s = time.monotonic()

    def batches(self) -> Iterator[ChangeBatch | None]:
        """Yield batches for ever; None when there was nothing for a moment. Raises what reading and decoding raise."""
        replication, builder, decoder, rule = self._replication, self._builder, self._decoder, self._rule
        naps = 0
        while True:
            arrivals, now_s = self._read()
            if decoder.in_transaction and builder.bytes >= PART_BYTES_MAX:
                yield from self._cut_transaction()
                self._sent_s = now_s
            elif not decoder.in_transaction and rule.is_due(builder, arrivals, (now_s - self._opened_s) * 1000):
                rule.closed(arrivals, round(now_s * 1e6))
                yield self._closed(decoder.end_position, now_s)
            elif not (arrivals.busy or builder.positions) and now_s - self._sent_s >= HEARTBEAT_S:
                yield self._closed(replication.received, now_s)
            naps = 0 if arrivals.busy else naps + 1
            if naps:
                yield None
                replication.wait(0 if builder.positions else naps, rule.nap_s(arrivals, NAP_S))

    def _read(self) -> tuple[Arrivals, float]:
        """Read a run of messages that ends between transactions, if it can; how they came, and the time.

        While a large transaction is sent in parts, nothing beyond its end is read: a part holds it alone.
        """
        replication, builder = self._replication, self._builder
        rank = builder.rank
        room = self._rule.transactions_max - len(builder.positions)
        most = min(READ_MESSAGES_MAX, MESSAGES_MIN * max(0, room))
        empty = replication.pump(self._decoder, 0 if builder.part else most, PART_BYTES_MAX)
        replication.send_status_if_due()
        now_s = time.monotonic()
        if builder.rank != rank:
            self._arrived_s = now_s
        if not builder.positions:
            self._opened_s = now_s
        pause_ms = (now_s - self._arrived_s) * 1000
        return Arrivals(age_s(builder, replication.server_time_s), pause_ms, not empty), now_s

    def _closed(self, end_position: int, now_s: float) -> ChangeBatch:
        self._opened_s = self._sent_s = now_s
        return self._builder.close("live", end_position, time.time_ns() // 1000)

    def _cut_transaction(self) -> Iterator[ChangeBatch]:
        """Close the running transaction's rows so far as a part; whole transactions before it go first."""
        builder, decoder = self._builder, self._decoder
        before = len(builder.positions) - 1 if builder.part == 0 else 0
        batch = builder.close("live", 0 if before else decoder.end_position, time.time_ns() // 1000, last_part=False)
        whole, running = split(batch, before)
        if whole is not None:
            whole.end_position = decoder.end_position
            builder.previous_position = whole.last_position
            yield whole
        yield running
        decoder.continue_transaction()
