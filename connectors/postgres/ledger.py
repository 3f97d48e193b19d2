"""The ledger: what has been applied, kept in the target beside the data. The only truth about progress.

Rows of `applied` hold the positions of one target transaction each; those wholly below the watermark are
deleted as it advances.

`incarnation` binds an epoch to this life of the server. With asynchronous commit a crash may lose the newest
target transactions, which planner and lanes remember as applied; but crash recovery also empties an unlogged
table, so after it the fence refuses every unit until a planner has taken over from what is really there.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import LiteralString

import psycopg

from connectors.ledger import StreamRow
from connectors.postgres.catalogue import read_catalogue, table_exists
from connectors.postgres.copy_requests import (
    clear_resync,
    forget_copies,
    note_sent,
    request_copies,
    request_resync,
    requested_copies,
    resync_requested,
    superseded_tables,
    table_copies,
)  # fmt: skip
from connectors.postgres.errors import connect, place, translated
from connectors.postgres.ledger_tables import drop_from_ledger, make_ledger, read_stream_row
from connectors.postgres.letters import closed_by
from connectors.postgres.schema import read_shapes
from connectors.settings import TargetSettings
from pipeline.catalogue import Catalogue, TableName
from pipeline.fence import LaneRow
from pipeline.table_copies import TableCopy
from pipeline.window import Restart
from schemas.packed import INT64, unpack


class PostgresLedger:
    """See `connectors.ledger.Ledger`."""

    def __init__(self, stream: str, settings: TargetSettings) -> None:
        self._stream = stream
        self._where = f"stream {stream}: ledger at {place(settings.dsn)}"
        self._conn = connect(settings.dsn, f"headrace {stream} ledger", lock_timeout="30s")

    def ensure(self) -> None:
        """Create what is missing. Safe to call from several processes at once."""
        with translated(f"{self._where}: creating schema headrace"), self._conn.transaction():
            make_ledger(self._conn, self._stream)

    def takeover(self) -> Restart:
        """Raise the epoch; waits for units in flight, whose lane rows are locked by their transactions.

        An epoch is the second of its takeover, or the next number: a target that was restored from a backup
        must not use an epoch again that its lost history has used, since units of that time are still there.
        """
        with translated(f"{self._where}: taking over"), self._conn.transaction():
            epoch, generation, watermark = self._raise_epoch()
            applied = self._applied(generation, watermark)
            parked = self._parked_since(generation)
            shapes = read_shapes(self._conn, self._stream)
            superseded = superseded_tables(self._conn, self._stream)
        return Restart(epoch, generation, watermark, applied, parked, shapes, superseded)

    def _raise_epoch(self) -> tuple[int, int, int]:
        """Begin the next epoch, on the stream and all its lanes; returns it with generation and watermark."""
        row = self._conn.execute(
            "UPDATE headrace.stream SET epoch = greatest(epoch + 1, extract(epoch FROM clock_timestamp())::bigint),"
            " updated_at = now() WHERE stream = %s RETURNING epoch, generation, watermark",
            [self._stream],
        ).fetchone()
        if row is None:
            raise psycopg.errors.UndefinedObject("the stream has no row in headrace.stream")
        epoch, generation, watermark = row
        self._conn.execute("UPDATE headrace.lane SET epoch = %s, seq = 0 WHERE stream = %s", [epoch, self._stream])
        self._conn.execute(
            "INSERT INTO headrace.incarnation VALUES (%s, %s)"
            " ON CONFLICT (stream) DO UPDATE SET epoch = excluded.epoch, closed_by = excluded.closed_by",
            [self._stream, epoch],
        )
        return epoch, generation, watermark

    def _parked_since(self, generation: int) -> list[bytes]:
        """The dead letters' batches, in order."""
        rows = self._conn.execute(
            "SELECT batch FROM headrace.parked WHERE stream = %s AND generation >= %s ORDER BY generation, position",
            [self._stream, generation],
        )
        return [batch for (batch,) in rows]

    def _applied(self, generation: int, watermark: int) -> dict[int, frozenset[int]]:
        rows = self._conn.execute(
            "SELECT generation, positions FROM headrace.applied"
            " WHERE stream = %s AND (generation, last_position) > (%s, %s)",
            [self._stream, generation, watermark],
        )
        found: dict[int, set[int]] = {}
        for of_generation, packed in rows:
            positions: array[int] = unpack(INT64, packed, "headrace.applied.positions")
            found.setdefault(of_generation, set()).update(positions)
        return {of_generation: frozenset(positions) for of_generation, positions in found.items()}

    def applied(self) -> dict[int, frozenset[int]]:
        """Read what is applied above the watermark."""
        row = self.stream_row()
        if row is None:
            return {}
        with translated(f"{self._where}: reading applied positions"):
            return self._applied(row.generation, row.watermark)

    def advance(self, epoch: int, generation: int, watermark: int, time_us: int, changes_offset: int) -> bool:
        """Move the watermark forward; see `connectors.ledger.Ledger`."""
        with translated(f"{self._where}: advancing the watermark"), self._conn.transaction():
            moved = self._conn.execute(
                "UPDATE headrace.stream SET generation = %s, watermark = %s,"
                " watermark_time_us = greatest(watermark_time_us, %s), changes_offset = %s, updated_at = now()"
                " WHERE stream = %s AND epoch = %s AND (generation, watermark) <= (%s, %s)"
                " AND EXISTS (SELECT FROM headrace.incarnation i WHERE i.stream = %s AND abs(i.epoch) = %s)",
                [generation, watermark, time_us, changes_offset, self._stream, epoch, generation, watermark,
                 self._stream, epoch],
            )  # fmt: skip
            if moved.rowcount != 1:
                return False
            self._conn.execute(
                "DELETE FROM headrace.applied WHERE stream = %s AND (generation, last_position) <= (%s, %s)",
                [self._stream, generation, watermark],
            )
            forget_copies(self._conn, self._stream, watermark)
        return True

    def stop(self, reason: str) -> None:
        """Write why the stream stops; the first reason stays."""
        with translated(f"{self._where}: stopping"):
            self._conn.execute(
                "UPDATE headrace.stream SET stopped = %s WHERE stream = %s AND stopped = ''", [reason, self._stream]
            )

    def request_resync(self, tables: Sequence[tuple[str, str]], changes_offset: int) -> int:
        """Forget progress and letters; see `connectors.ledger.Ledger`."""
        with translated(f"{self._where}: asking for a new snapshot"), self._conn.transaction():
            return request_resync(self._conn, self._stream, tables, changes_offset)

    def resync_requested(self) -> bool:
        """Whether a new snapshot is wanted."""
        with translated(f"{self._where}: reading"):
            return resync_requested(self._conn, self._stream)

    def clear_resync(self) -> None:
        """Note that the wanted snapshot has begun, so that it is wanted no more."""
        with translated(f"{self._where}: noting that the snapshot has begun"):
            clear_resync(self._conn, self._stream)

    def request_copies(self, tables: Sequence[TableName]) -> None:
        """Ask for copies of single tables."""
        with translated(f"{self._where}: asking for copies"), self._conn.transaction():
            request_copies(self._conn, self._stream, tables)

    def requested_copies(self) -> list[TableName]:
        """The tables that are to be copied anew, and are not in Kafka yet."""
        with translated(f"{self._where}: reading"):
            return requested_copies(self._conn, self._stream)

    def table_copies(self) -> list[TableCopy]:
        """The copies of single tables that are not done with."""
        with translated(f"{self._where}: reading"):
            return table_copies(self._conn, self._stream)

    def copies_sent(self, tables: Sequence[TableName]) -> None:
        """Note that Kafka has the copies."""
        with translated(f"{self._where}: noting what is copied"):
            note_sent(self._conn, self._stream, tables)

    def clear_stop(self) -> None:
        """Forget why the stream stopped."""
        with translated(f"{self._where}: starting again"):
            self._conn.execute("UPDATE headrace.stream SET stopped = '' WHERE stream = %s", [self._stream])

    def is_current(self, epoch: int) -> bool:
        """Whether `epoch` still rules, in this life of the server."""
        with translated(f"{self._where}: reading"):
            row = self._conn.execute(
                "SELECT epoch FROM headrace.incarnation WHERE stream = %s", [self._stream]
            ).fetchone()
        return row is not None and row[0] == epoch

    def closed_by(self, epoch: int) -> str | None:
        """What has closed `epoch`, unless another has begun."""
        with translated(f"{self._where}: reading"):
            return closed_by(self._conn, self._stream, epoch)

    def stream_row(self) -> StreamRow | None:
        """Read the stream's row, None when there is no ledger or no row."""
        with translated(f"{self._where}: reading"):
            if not table_exists(self._conn, ("headrace", "stream")):
                return None
            return read_stream_row(self._conn, self._stream)

    def lane_rows(self) -> dict[int, LaneRow]:
        """Read the stream's lane rows, by lane."""
        with translated(f"{self._where}: reading lanes"):
            rows = self._conn.execute(
                "SELECT lane, epoch, seq, next_offset FROM headrace.lane WHERE stream = %s", [self._stream]
            ).fetchall()
        return {lane: LaneRow(epoch, seq, offset) for lane, epoch, seq, offset in rows}

    def totals(self) -> tuple[int, int]:
        """Transactions and rows applied since the stream began."""
        return self._sums("SELECT sum(transactions), sum(rows) FROM headrace.lane WHERE stream = %s")

    def anomalies(self) -> tuple[int, int]:
        """Rows missing, and rows there already, since the stream began."""
        return self._sums("SELECT sum(missing_rows), sum(existing_rows) FROM headrace.lane WHERE stream = %s")

    def _sums(self, query: LiteralString) -> tuple[int, int]:
        """Two sums over the stream's lanes; 0 where it has none."""
        with translated(f"{self._where}: adding up the lanes"):
            row = self._conn.execute(query, [self._stream]).fetchone()
        return (int(row[0] or 0), int(row[1] or 0)) if row is not None else (0, 0)

    def parked_count(self) -> int:
        """The number of dead letters; 0 in a ledger that never had any."""
        with translated(f"{self._where}: counting dead letters"):
            if not table_exists(self._conn, ("headrace", "parked")):
                return 0
            row = self._conn.execute(
                "SELECT count(*) FROM headrace.parked WHERE stream = %s", [self._stream]
            ).fetchone()
        return int(row[0]) if row is not None else 0

    def catalogue(self) -> Catalogue:
        """Read the target's tables."""
        with translated(f"{self._where}: reading the target's catalogue"):
            return read_catalogue(self._conn)

    def drop(self) -> list[str]:
        """Remove the stream's rows, and the schema with its last stream."""
        if self.stream_row() is None:
            return []
        with translated(f"{self._where}: dropping"), self._conn.transaction():
            return drop_from_ledger(self._conn, self._stream)

    def close(self) -> None:
        """Drop the connection."""
        self._conn.close()
