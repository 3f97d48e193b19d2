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

import psycopg

from connectors.ledger import StreamRow
from connectors.postgres.catalogue import read_catalogue
from connectors.postgres.copy_requests import DDL as COPIES_DDL
from connectors.postgres.copy_requests import (
    forget_copies,
    forget_requests,
    note_sent,
    request_copies,
    requested_copies,
    superseded_tables,
)  # fmt: skip
from connectors.postgres.errors import connect, place, translated
from connectors.postgres.letters import DDL as LETTERS_DDL
from connectors.postgres.letters import DISCARDED_DDL
from connectors.postgres.schema import read_shapes
from connectors.settings import TargetSettings
from pipeline.catalogue import Catalogue, TableName
from pipeline.fence import LaneRow
from pipeline.planner import Restart
from schemas.apply_unit import LANES_MAX
from schemas.packed import INT64, unpack

_DDL = """
CREATE SCHEMA IF NOT EXISTS headrace;
CREATE TABLE IF NOT EXISTS headrace.stream (
    stream text PRIMARY KEY,
    epoch bigint NOT NULL,
    generation bigint NOT NULL,
    watermark bigint NOT NULL,
    watermark_time_us bigint NOT NULL,
    changes_offset bigint NOT NULL,
    stopped text NOT NULL DEFAULT '',
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS headrace.lane (
    stream text NOT NULL REFERENCES headrace.stream ON DELETE CASCADE,
    lane int NOT NULL,
    epoch bigint NOT NULL,
    seq bigint NOT NULL,
    next_offset bigint NOT NULL,
    transactions bigint NOT NULL DEFAULT 0,
    rows bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (stream, lane)
) WITH (fillfactor = 20);
CREATE TABLE IF NOT EXISTS headrace.applied (
    stream text NOT NULL,
    generation bigint NOT NULL,
    last_position bigint NOT NULL,
    lane int NOT NULL,
    positions bytea NOT NULL,
    PRIMARY KEY (stream, generation, last_position, lane)
);
ALTER TABLE headrace.applied ALTER COLUMN positions SET STORAGE EXTERNAL;
CREATE TABLE IF NOT EXISTS headrace.snapshot_table (
    stream text NOT NULL, schema_name text NOT NULL, table_name text NOT NULL,
    PRIMARY KEY (stream, schema_name, table_name)
);
CREATE TABLE IF NOT EXISTS headrace.relation (
    stream text NOT NULL, schema_name text NOT NULL, table_name text NOT NULL,
    columns text NOT NULL,
    PRIMARY KEY (stream, schema_name, table_name)
);
CREATE TABLE IF NOT EXISTS headrace.refused_change (
    stream text NOT NULL, schema_name text NOT NULL, table_name text NOT NULL,
    columns text NOT NULL,
    epoch bigint NOT NULL,
    PRIMARY KEY (stream, schema_name, table_name)
);
CREATE UNLOGGED TABLE IF NOT EXISTS headrace.incarnation (stream text PRIMARY KEY, epoch bigint NOT NULL);
"""
_LATER_DDL = """
ALTER TABLE headrace.lane ADD COLUMN IF NOT EXISTS missing_rows bigint NOT NULL DEFAULT 0;
ALTER TABLE headrace.lane ADD COLUMN IF NOT EXISTS existing_rows bigint NOT NULL DEFAULT 0;
CREATE TABLE IF NOT EXISTS headrace.resync (stream text PRIMARY KEY, requested_at timestamptz NOT NULL DEFAULT now());
"""
_NEWEST_TABLE = "headrace.discarded"  # where it is, everything is
_STREAM = (
    "SELECT epoch, generation, watermark, watermark_time_us, changes_offset, stopped"
    " FROM headrace.stream WHERE stream = %s"
)


class PostgresLedger:
    """See `connectors.ledger.Ledger`."""

    def __init__(self, stream: str, settings: TargetSettings) -> None:
        self._stream = stream
        self._where = f"stream {stream}: ledger at {place(settings.dsn)}"
        self._conn = connect(settings.dsn, f"headrace {stream} ledger", lock_timeout="30s")

    def ensure(self) -> None:
        """Create what is missing. Safe to call from several processes at once."""
        with translated(f"{self._where}: creating schema headrace"), self._conn.transaction():
            self._conn.execute("SELECT pg_advisory_xact_lock(hashtext('headrace ledger'))")
            there = self._conn.execute("SELECT to_regclass(%s)", [_NEWEST_TABLE]).fetchone()
            if there is None or there[0] is None:
                self._conn.execute(_DDL + LETTERS_DDL + _LATER_DDL + COPIES_DDL + DISCARDED_DDL)
            self._conn.execute(
                "INSERT INTO headrace.stream VALUES (%s, 0, 0, 0, 0, 0) ON CONFLICT DO NOTHING",
                [self._stream],
            )
            self._conn.execute(
                "INSERT INTO headrace.lane SELECT %s, n, 0, 0, 0 FROM generate_series(0, %s) n ON CONFLICT DO NOTHING",
                [self._stream, LANES_MAX - 1],
            )

    def takeover(self) -> Restart:
        """Raise the epoch; waits for units in flight, whose lane rows are locked by their transactions.

        An epoch is the second of its takeover, or the next number: a target that was restored from a backup
        must not use an epoch again that its lost history has used, since units of that time are still there.
        """
        with translated(f"{self._where}: taking over"), self._conn.transaction():
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
                "INSERT INTO headrace.incarnation VALUES (%s, %s) ON CONFLICT (stream) DO UPDATE"
                " SET epoch = excluded.epoch",
                [self._stream, epoch],
            )
            applied = self._applied(generation, watermark)
            parked = self._conn.execute(
                "SELECT batch FROM headrace.parked WHERE stream = %s AND generation >= %s"
                " ORDER BY generation, position",
                [self._stream, generation],
            ).fetchall()
            shapes = read_shapes(self._conn, self._stream)
            superseded = superseded_tables(self._conn, self._stream)
        return Restart(epoch, generation, watermark, applied, [batch for (batch,) in parked], shapes, superseded)

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
            self._conn.execute(
                "UPDATE headrace.stream SET generation = 0, watermark = 0, watermark_time_us = 0, changes_offset = %s,"
                " stopped = '' WHERE stream = %s",
                [changes_offset, self._stream],
            )
            # A planner that was about to start, unseen, may have begun an epoch: nothing of it counts.
            self._conn.execute("DELETE FROM headrace.incarnation WHERE stream = %s", [self._stream])
            self._conn.execute("DELETE FROM headrace.applied WHERE stream = %s", [self._stream])
            forget_requests(self._conn, self._stream)
            letters = self._conn.execute("DELETE FROM headrace.parked WHERE stream = %s", [self._stream]).rowcount
            # The operator has said so: these tables may be emptied.
            with self._conn.cursor() as cursor:
                cursor.executemany(
                    "INSERT INTO headrace.snapshot_table VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
                    [(self._stream, *name) for name in tables],
                )
            self._conn.execute("INSERT INTO headrace.resync VALUES (%s) ON CONFLICT DO NOTHING", [self._stream])
        return letters

    def resync_requested(self) -> bool:
        """Whether a new snapshot is wanted."""
        with translated(f"{self._where}: reading"):
            there = self._conn.execute("SELECT to_regclass('headrace.resync')").fetchone()
            if there is None or there[0] is None:
                return False
            return self._conn.execute("SELECT FROM headrace.resync WHERE stream = %s", [self._stream]).rowcount > 0

    def clear_resync(self) -> None:
        """Note that it has begun."""
        with translated(f"{self._where}: noting that the snapshot has begun"):
            self._conn.execute("DELETE FROM headrace.resync WHERE stream = %s", [self._stream])

    def request_copies(self, tables: Sequence[TableName]) -> None:
        """Ask for copies of single tables."""
        with translated(f"{self._where}: asking for copies"), self._conn.transaction():
            request_copies(self._conn, self._stream, tables)

    def requested_copies(self) -> list[TableName]:
        """The tables that are to be copied anew, and are not in Kafka yet."""
        with translated(f"{self._where}: reading"):
            return requested_copies(self._conn, self._stream)

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

    def is_closed(self, epoch: int) -> bool:
        """Whether dead letters have closed `epoch`, and no other has begun."""
        with translated(f"{self._where}: reading"):
            row = self._conn.execute(
                "SELECT epoch FROM headrace.incarnation WHERE stream = %s", [self._stream]
            ).fetchone()
        return row is not None and row[0] == -epoch

    def stream_row(self) -> StreamRow | None:
        """Read the stream's row, None when there is no ledger or no row."""
        with translated(f"{self._where}: reading"):
            there = self._conn.execute("SELECT to_regclass('headrace.stream')").fetchone()
            if there is None or there[0] is None:
                return None
            row = self._conn.execute(_STREAM, [self._stream]).fetchone()
        return StreamRow(*row) if row is not None else None

    def lane_rows(self) -> dict[int, LaneRow]:
        """Read the lane rows."""
        with translated(f"{self._where}: reading lanes"):
            rows = self._conn.execute(
                "SELECT lane, epoch, seq, next_offset FROM headrace.lane WHERE stream = %s", [self._stream]
            ).fetchall()
        return {lane: LaneRow(epoch, seq, offset) for lane, epoch, seq, offset in rows}

    def totals(self) -> tuple[int, int]:
        """Transactions and rows applied since the stream began."""
        with translated(f"{self._where}: reading totals"):
            row = self._conn.execute(
                "SELECT coalesce(sum(transactions), 0)::bigint, coalesce(sum(rows), 0)::bigint"
                " FROM headrace.lane WHERE stream = %s",
                [self._stream],
            ).fetchone()
        return (int(row[0]), int(row[1])) if row is not None else (0, 0)

    def anomalies(self) -> tuple[int, int]:
        """Rows missing, and rows there already, since the stream began."""
        with translated(f"{self._where}: counting rows"):
            row = self._conn.execute(
                "SELECT coalesce(sum(missing_rows), 0)::bigint, coalesce(sum(existing_rows), 0)::bigint"
                " FROM headrace.lane WHERE stream = %s",
                [self._stream],
            ).fetchone()
        return (int(row[0]), int(row[1])) if row is not None else (0, 0)

    def parked_count(self) -> int:
        """The number of dead letters; 0 in a ledger that never had any."""
        with translated(f"{self._where}: counting dead letters"):
            there = self._conn.execute("SELECT to_regclass(%s)", ["headrace.parked"]).fetchone()
            if there is None or there[0] is None:
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
            for table in (
                "applied", "parked", "discarded", "resync", "table_copy", "snapshot_table", "relation",
                "refused_change", "incarnation", "lane", "stream",
            ):  # fmt: skip
                self._conn.execute(
                    psycopg.sql.SQL("DELETE FROM headrace.{} WHERE stream = %s").format(psycopg.sql.Identifier(table)),
                    [self._stream],
                )
            left = self._conn.execute("SELECT count(*) FROM headrace.stream").fetchone()
            if left is not None and left[0] == 0:
                self._conn.execute("DROP SCHEMA headrace CASCADE")
                return [f"ledger of stream {self._stream} and schema headrace"]
        return [f"ledger of stream {self._stream}"]

    def close(self) -> None:
        """Drop the connection."""
        self._conn.close()
