"""The PostgreSQL source: snapshot, then the replication stream, as change batches.

**Guarantee:** yields every committed transaction of the published tables after `tail` exactly once and in
commit order; whole, or in parts marked as such. Position: the LSN of the commit record, which pgoutput
tells at BEGIN (the end LSN only at COMMIT, too late for a transaction sent in parts).
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections.abc import Collection, Iterator

from connectors.postgres.errors import connect, translated
from connectors.postgres.facts import SourceFacts
from connectors.postgres.pgoutput import PgOutputDecoder
from connectors.postgres.publications import ensure_publications
from connectors.postgres.relation_message import TextNeededError
from connectors.postgres.replication import NAP_S, ReplicationConnection
from connectors.postgres.slot import check_wal_level, claim_snapshot, require_no_foreign_slot, slot_name
from connectors.postgres.slot_check import check_slot
from connectors.postgres.snapshot import snapshot_batches
from connectors.postgres.source_tables import SourceTable, source_tables
from connectors.postgres.table_copier import TableCopier
from connectors.postgres.types import LocalColumns, local_columns
from connectors.postgres.watch import TableWatch
from connectors.settings import SourceSettings
from connectors.source import Tail
from pipeline.builder import BatchBuilder
from pipeline.catalogue import TableName
from pipeline.errors import RetriableError
from pipeline.selection import selected
from pipeline.slicing import select
from schemas.change_batch import ChangeBatch

log = logging.getLogger(__name__)
READ_MESSAGES_MAX = 512  # between two looks at the clock and the batch's size
MESSAGES_MIN = 3  # of a transaction: begin, a change, commit
PART_BYTES_MAX = 4 * 1024 * 1024  # of one transaction in a record, well under the broker's 16 MiB
HEARTBEAT_S = 5.0
RELEASE_TRIES_MAX, RELEASE_PAUSE_S = 50, 0.1
LINGER_BUSY_MS = 100.0  # while the server sends without a pause
# Transactions this old are a backlog, whatever the socket holds at the moment: a capture faster than the server finds
# it empty all the time. A pause of the server says that the backlog is at its end.
BACKLOG_AGE_S = 1.0
BACKLOG_PAUSE_MS = 20.0
# A backlog is read in long runs into full batches, since every read and every record costs about the same however much
# is in it. Beside naps of 0.2 ms and batches of 100 ms, drains in turn on busy cores: 22.4 -> 28.9 K transactions/s,
# capture 10.3 -> 6.3, planner 3.5 -> 2.2, broker 5.5 -> 3.4 µs a transaction (medians of four).
BACKLOG_LINGER_MS = 250.0
BACKLOG_NAP_S = 0.003
NAP_MAX_S = 0.001  # otherwise


class PostgresSource:
    """See `connectors.source.Source`."""

    def __init__(self, stream: str, settings: SourceSettings) -> None:
        self._stream = stream
        self._settings = settings
        self._slot = slot_name(stream)
        self._replication: ReplicationConnection | None = None
        self._facts: SourceFacts | None = None
        self._tables = TableWatch(stream, settings)
        self._copier = TableCopier(stream, settings)
        self._confirmed = 0

    def batches(self, tail: Tail | None) -> Iterator[ChangeBatch | None]:
        """Yield batches for ever; see `connectors.source.Source`."""
        settings, anew = self._settings, tail is None or tail.snapshot_open
        # Kept open until the stream runs: an advisory lock on it is held while a snapshot is taken.
        with connect(settings.dsn, f"headrace {self._stream} capture") as conn:
            check_wal_level(conn)
            require_no_foreign_slot(conn, self._stream)
            with translated(f"stream {self._stream}: reading the source's catalogue"):
                tables = source_tables(conn, settings)
                if not anew:
                    tables = self._tables.carried(conn, tables)
                local = local_columns(conn, tables, every=settings.as_text)
            publications = ensure_publications(conn, self._stream, tables)
            if anew:
                with translated(f"stream {self._stream}: dropping an unfinished slot"):
                    claim_snapshot(conn, self._stream)
            elif tail is not None:
                check_slot(conn, self._stream, tail)
            self._replication = ReplicationConnection(settings.dsn, self._stream)
            if anew:
                for batch in self._start_anew(self._replication, tables, local):
                    yield batch
                    tail = Tail(batch.generation, batch.last_position, snapshot_open=False)
            if local and not settings.as_text:
                log.info(
                    "stream %s: rows are read as text, since the binary form of %s is of use on one server only",
                    self._stream, ", ".join(sorted(".".join([*table, column]) for table, column in local)),
                )  # fmt: skip
            self._replication.start(self._slot, publications, self._confirmed, binary=not local)
        if tail is None:
            raise AssertionError("a new stream begins with at least one batch")
        yield from self._streamed(publications, tail, binary=not local)

    def _streamed(self, publications: list[str], tail: Tail, *, binary: bool) -> Iterator[ChangeBatch | None]:
        """Yield what the started replication sends; begin again as text once a table needs that."""
        facts = self._facts = SourceFacts(self._stream, self._settings.dsn)
        builder = BatchBuilder(self._stream, tail.generation, tail.position)
        while True:
            decoder = PgOutputDecoder(
                builder, builder.previous_position, facts, binary=binary, mapping=self._settings.mapping,
                chooses=lambda name: selected(name, self._settings.tables, self._settings.exclude),
            )  # fmt: skip
            try:
                for batch in self._stream_batches(self._running(), builder, decoder):
                    if batch is not None and decoder.unwanted:
                        batch.sections = [s for s in batch.sections if s.relation.oid not in decoder.unwanted]
                    yield from self._with_copy(batch)
                    self._copier.begin_if_due(time.monotonic())
            except TextNeededError as reason:
                log.info(
                    "stream %s: rows are read as text from here on, since the binary form of %s is of use on one "
                    "server only", self._stream, reason,
                )  # fmt: skip
                binary = False
                builder = BatchBuilder(self._stream, tail.generation, builder.previous_position)
                self._start_again(publications)

    def _with_copy(self, batch: ChangeBatch | None) -> Iterator[ChangeBatch | None]:
        """Yield `batch`, and at its place in there the tables that are copied anew."""
        place = self._copier.place
        if place is None or batch is None or not batch.positions or batch.last_position < place:
            yield batch
            return
        before = bisect_left(batch.positions, place)
        previous = batch.previous_position
        if before:
            whole = select(batch, range(before))
            whole.last_part, whole.end_position = True, 0
            previous = whole.last_position
            yield whole
        for part in self._copier.batches(batch.generation, previous):
            self.keepalive()
            previous = part.last_position
            yield part
        rest = select(batch, range(before, len(batch.positions)))
        rest.previous_position = previous
        yield rest

    def _start_again(self, publications: list[str]) -> None:
        """Read on from the confirmed position as text; the server may need a moment to release the slot."""
        self._running().close()
        for attempt in range(RELEASE_TRIES_MAX):
            self._replication = ReplicationConnection(self._settings.dsn, self._stream)
            try:
                self._replication.start(self._slot, publications, self._confirmed, binary=False)
            except RetriableError:
                self._replication.close()
                if attempt == RELEASE_TRIES_MAX - 1:
                    raise
                time.sleep(RELEASE_PAUSE_S)
            else:
                return

    def _running(self) -> ReplicationConnection:
        if self._replication is None:
            raise AssertionError("the source is closed")
        return self._replication

    def _start_anew(
        self, replication: ReplicationConnection, tables: list[SourceTable], local: LocalColumns
    ) -> Iterator[ChangeBatch]:
        wanted = self._settings.snapshot == "initial"
        generation, name = replication.create_slot(self._slot, export=wanted)
        position = 0
        if wanted:
            for batch in snapshot_batches(self._stream, generation, name, tables, local, self._settings):
                yield batch
                position = batch.last_position
        # Says that the snapshot is complete: a capture that finds a live record resumes from the slot.
        yield BatchBuilder(self._stream, generation, position).close("live", generation, time.time_ns() // 1000)

    def _stream_batches(
        self, replication: ReplicationConnection, builder: BatchBuilder, decoder: PgOutputDecoder
    ) -> Iterator[ChangeBatch | None]:
        settings = self._settings
        opened_s = sent_s = arrived_s = time.monotonic()
        naps = 0
        while True:
            rank = builder.rank
            empty = self._read(replication, builder, decoder)
            replication.send_status_if_due()
            now_s = time.monotonic()
            if builder.rank != rank:
                arrived_s = now_s
            age_s = _age_s(builder, replication.server_time_s)
            backlog = _is_backlog(age_s, (now_s - arrived_s) * 1000)
            self._tables.look_if_due(now_s)
            if not builder.positions:
                opened_s = now_s
            if decoder.in_transaction and builder.bytes >= PART_BYTES_MAX:
                yield from self._cut_transaction(builder, decoder)
                sent_s = now_s
            elif self._is_due(builder, decoder, (now_s - opened_s) * 1000, busy=not empty, backlog=backlog):
                if settings.size is not None:
                    settings.size.closed(age_s, round(now_s * 1e6))
                yield builder.close("live", decoder.end_position, time.time_ns() // 1000)
                opened_s = sent_s = now_s
            elif empty and not builder.positions and now_s - sent_s >= HEARTBEAT_S:
                yield builder.close("live", replication.received, time.time_ns() // 1000)
                sent_s = now_s
            naps = naps + 1 if empty else 0
            if empty:
                yield None
                replication.wait(0 if builder.positions else naps, BACKLOG_NAP_S if backlog else self._nap_s)

    def _read(self, replication: ReplicationConnection, builder: BatchBuilder, decoder: PgOutputDecoder) -> bool:
        """Read a run of messages that ends between transactions, if it can; whether the socket is empty.

        While a large transaction is sent in parts, nothing beyond its end is read: a part holds it alone.
        """
        room = self._settings.batch_transactions_max - len(builder.positions)
        most = min(READ_MESSAGES_MAX, MESSAGES_MIN * max(0, room))
        return replication.pump(decoder, 0 if builder.part else most, PART_BYTES_MAX)

    @property
    def _linger_ms(self) -> float:
        settings = self._settings
        return settings.linger.ms if settings.linger is not None else settings.linger_ms

    @property
    def _nap_s(self) -> float:
        """Between two looks at the socket: a tenth of what a transaction may wait in its batch anyway."""
        return min(NAP_MAX_S, max(NAP_S, self._linger_ms / 10_000))

    def _is_due(
        self, builder: BatchBuilder, decoder: PgOutputDecoder, age_ms: float, *, busy: bool, backlog: bool
    ) -> bool:
        """Whether the batch should be closed now."""
        settings = self._settings
        if decoder.in_transaction or not builder.positions:
            return False
        most = settings.batch_transactions_max if backlog or settings.size is None else settings.size.limit
        wait_ms = BACKLOG_LINGER_MS if backlog else LINGER_BUSY_MS if busy else self._linger_ms
        return (
            builder.part > 0
            or len(builder.positions) >= most
            or builder.bytes >= settings.batch_bytes_max
            or age_ms >= wait_ms
        )

    def _cut_transaction(self, builder: BatchBuilder, decoder: PgOutputDecoder) -> Iterator[ChangeBatch]:
        """Close the running transaction's rows so far as a part; whole transactions before it go first."""
        now_us = time.time_ns() // 1000
        before = len(builder.positions) - 1
        if before and builder.part == 0:
            batch = builder.close("live", 0, now_us, last_part=False)
            whole = select(batch, range(before))
            whole.last_part, whole.end_position = True, decoder.end_position
            yield whole
            running = select(batch, [before])
            running.previous_position = whole.last_position
            builder.previous_position = whole.last_position
            yield running
        else:
            yield builder.close("live", decoder.end_position, now_us, last_part=False)
        decoder.continue_transaction()

    def confirm(self, end_position: int) -> None:
        """Let the server recycle WAL up to `end_position`."""
        self._confirmed = max(self._confirmed, end_position)
        if self._replication is not None:
            self._replication.confirmed = max(self._replication.confirmed, end_position)

    def copy_tables(self, tables: Collection[TableName]) -> None:
        """Copy tables anew; see `connectors.source.Source`."""
        self._copier.want(tables)

    def keepalive(self) -> None:
        """Send a status message if one is due."""
        if self._replication is not None:
            self._replication.excuse_silence()
            self._replication.send_status_if_due()

    def close(self) -> None:
        """End the replication connection."""
        if self._replication is not None:
            self._replication.close()
            self._replication = None
        if self._facts is not None:
            self._facts.close()
        self._tables.close()
        self._copier.give_up()


def _age_s(builder: BatchBuilder, now_s: float) -> float:
    """How long ago the last transaction that was read has been committed; 0 where none was."""
    return now_s - builder.commit_times_us[-1] / 1e6 if builder.commit_times_us else 0.0


def _is_backlog(age_s: float, pause_ms: float) -> bool:
    """Whether the transactions that come in were committed a while ago, and keep coming."""
    return age_s > BACKLOG_AGE_S and pause_ms < BACKLOG_PAUSE_MS
