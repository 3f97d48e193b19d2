"""A stream without Kafka: a source decoded, and applied by one lane, in this process.

For statements whose effect on the target is the question, whatever the way there. Everything from the slot to the
ledger is real; the planner and its records are left out.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

import psycopg

from connectors.base import TableCheck
from connectors.errors import RefusedError
from connectors.lane import UnitGroup
from connectors.postgres.facts import SourceFacts
from connectors.postgres.lane import PostgresLane
from connectors.postgres.ledger import PostgresLedger
from connectors.postgres.pgoutput import PgOutputDecoder
from connectors.postgres.publications import ensure_publications
from connectors.postgres.replication import ReplicationConnection
from connectors.postgres.slot import slot_name
from connectors.postgres.source_tables import source_tables
from connectors.postgres.types import local_columns
from connectors.postgres.verify import verify_tables
from connectors.settings import SourceSettings, TargetSettings
from pipeline.builder import BatchBuilder
from schemas.change_batch import ChangeBatch
from schemas.change_batch_codec import decode_batch, encode_batch

BYTES_MAX = 1 << 20
END = "the end of what a test has written"


class DirectStream:
    """Tables must be there on both sides; what is written afterwards is replicated."""

    def __init__(self, source: SourceSettings, target: TargetSettings) -> None:
        self.stream = f"d{uuid.uuid4().hex[:10]}"
        self.source, self.target = source, target
        self.conn = psycopg.connect(source.dsn, autocommit=True, client_encoding="utf8")
        self.there = psycopg.connect(target.dsn, autocommit=True, client_encoding="utf8")
        tables = source_tables(self.conn, source)
        publications = ensure_publications(self.conn, self.stream, tables)
        self._replication = ReplicationConnection(source.dsn, self.stream)
        position, _ = self._replication.create_slot(slot_name(self.stream), export=False)
        self._generation, binary = position, not local_columns(self.conn, tables, every=source.as_text)
        self._replication.start(slot_name(self.stream), publications, 0, binary=binary)
        self._facts = SourceFacts(self.stream, source.dsn)
        self._builder = BatchBuilder(self.stream, position, position)
        self._decoder = PgOutputDecoder(self._builder, position, self._facts, binary=binary, mapping=source.mapping)
        ledger = PostgresLedger(self.stream, target)
        ledger.ensure()
        self.epoch = ledger.takeover().epoch
        ledger.close()
        self.lane = PostgresLane(self.stream, 0, target)
        self._seq = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for part in (self.lane, self._facts, self._replication, self.conn, self.there):
            with contextlib.suppress(psycopg.Error):
                part.close()

    def write(self, *transactions: str) -> ChangeBatch:
        """Run each text as a transaction of its own; return what came of them, as it comes out of Kafka."""
        for statement in transactions:
            self.conn.execute(statement.encode())
        self.conn.execute("SELECT pg_logical_emit_message(true, %s, '')", [END])
        while not any(message.prefix == END for message in self._builder.messages) or self._decoder.in_transaction:
            if self._replication.pump(self._decoder, 1, BYTES_MAX):
                self._replication.wait(1000)  # in poll, until the server sends
        return decode_batch(encode_batch(self._builder.close("live", self._decoder.end_position, 1)))

    def apply(self, *batches: ChangeBatch, serial: bool = False) -> None:
        """Apply batches in one target transaction, as the apply stage does: refused together, then each in order."""
        try:
            applied = self.lane.apply(self.group(batches, serial=serial))
        except RefusedError:
            if serial:
                raise
            for batch in batches:
                self.apply(batch, serial=True)
            return
        assert applied.fenced is None
        self._seq += len(batches)

    def group(self, batches: Sequence[ChangeBatch], *, serial: bool = False) -> UnitGroup:
        """The next units of the lane, as one group."""
        return UnitGroup(
            self.stream, self._generation, 0, self.epoch, self._seq + 1, self._seq + len(batches), 0, list(batches),
            serial=serial,
        )  # fmt: skip

    def replicate(self, *transactions: str, serial: bool = False) -> None:
        """Write and apply."""
        self.apply(self.write(*transactions), serial=serial)

    def new_lane(self) -> None:
        """Begin again with a lane that knows nothing, as the apply stage does after a fault that may pass."""
        self.lane.close()
        self.lane = PostgresLane(self.stream, 0, self.target)

    def differing(self, tables: Sequence[str]) -> list[TableCheck]:
        """The tables (patterns) that differ between the sides."""
        chosen = replace(self.source, tables=tuple(tables))
        return [check for check in verify_tables(chosen, self.target) if check.differences]

    def rows(self, query: str) -> list[tuple[object, ...]]:
        """Rows of a query on the target."""
        return self.there.execute(query.encode()).fetchall()


def on_both(dsns: Sequence[str], script: str) -> None:
    """Run a script on each database."""
    for dsn in dsns:
        with psycopg.connect(dsn, autocommit=True, client_encoding="utf8") as conn:
            conn.execute(script.encode())
