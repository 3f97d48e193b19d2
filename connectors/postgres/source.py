"""The PostgreSQL source: snapshot, then the replication stream, as change batches.

**Guarantee:** yields every committed transaction of the published tables after `tail` exactly once and in
commit order; whole, or in parts marked as such. Position: the LSN of the commit record, which pgoutput
tells at BEGIN (the end LSN only at COMMIT, too late for a transaction sent in parts).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator

from connectors.postgres.batch_reader import BatchReader
from connectors.postgres.errors import connect, translated
from connectors.postgres.facts import SourceFacts
from connectors.postgres.pgoutput import PgOutputDecoder
from connectors.postgres.publications import ensure_publications
from connectors.postgres.relation_message import TextNeededError
from connectors.postgres.replication import ReplicationConnection
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
from pipeline.closing import ClosingRule
from pipeline.errors import RetriableError
from pipeline.selection import selected
from schemas.change_batch import ChangeBatch

log = logging.getLogger(__name__)
RELEASE_TRIES_MAX, RELEASE_PAUSE_S = 50, 0.1


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
        self._rule = ClosingRule(
            settings.batch_transactions_max, settings.batch_bytes_max, settings.linger_ms, settings.linger,
            settings.size,
        )  # fmt: skip

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
            reader = BatchReader(self._running(), builder, decoder, self._rule)
            try:
                for batch in reader.batches():
                    yield from self._chosen(batch, decoder.unwanted)
                    now_s = time.monotonic()
                    self._copier.begin_if_due(now_s)
                    self._tables.look_if_due(now_s)
            except TextNeededError as reason:
                log.info(
                    "stream %s: rows are read as text from here on, since the binary form of %s is of use on one "
                    "server only", self._stream, reason,
                )  # fmt: skip
                binary = False
                builder = BatchBuilder(self._stream, tail.generation, builder.previous_position)
                self._start_again(publications)

    def _chosen(self, batch: ChangeBatch | None, unwanted: Collection[int]) -> Iterator[ChangeBatch | None]:
        """Yield `batch` without the tables of these numbers, and in its place what is copied anew."""
        if batch is None:
            yield None
            return
        if unwanted:
            batch.sections = [section for section in batch.sections if section.relation.oid not in unwanted]
        yield from self._copier.with_copy(batch, self.keepalive)

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
