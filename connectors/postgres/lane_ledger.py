"""The ledger as one lane reads and writes it, inside the target transactions that carry its units."""

from __future__ import annotations

import psycopg

from connectors.lane import UnitGroup
from connectors.ledger import StreamRow
from connectors.postgres.errors import translated
from connectors.postgres.ledger_tables import read_stream_row
from connectors.postgres.letters import closed_by
from connectors.postgres.pipelined import Statement
from connectors.postgres.tolerant import Anomalies
from pipeline.errors import RetriableError
from pipeline.fence import LaneRow
from schemas.packed import pack

_FENCE = (
    b"UPDATE headrace.lane SET seq = $1::int8, next_offset = $2::int8, transactions = transactions + $3::int8,"
    b" rows = rows + $4::int8 WHERE stream = $5::text AND lane = $6::int8 AND epoch = $7::int8 AND seq = $8::int8"
    b" AND EXISTS (SELECT FROM headrace.incarnation i WHERE i.stream = $5::text AND i.epoch = $7::int8)"
)
_APPLIED = b"INSERT INTO headrace.applied VALUES ($1::text, $2::int8, $3::int8, $4::int8, $5::bytea)"


class LaneLedger:
    """The rows of one lane and its stream; `where` begins the text of errors. Raises RetriableError."""

    def __init__(self, conn: psycopg.Connection, stream: str, lane: int, where: str) -> None:
        self._conn = conn
        self._stream = stream
        self._lane = lane
        self._where = where

    def lane_row(self) -> LaneRow:
        """Read the lane's row: epoch and seq of what it has applied, and where its units go on."""
        with translated(f"{self._where}: reading the ledger"):
            row = self._conn.execute(
                "SELECT epoch, seq, next_offset FROM headrace.lane WHERE stream = %s AND lane = %s",
                [self._stream, self._lane],
            ).fetchone()
        if row is None:
            raise RetriableError(f"{self._where}: the ledger has no row for this lane yet; has the planner started?")
        return LaneRow(*row)

    def closed_by(self, epoch: int) -> str | None:
        """What closed `epoch`, unless another has begun."""
        with translated(f"{self._where}: reading the ledger"):
            return closed_by(self._conn, self._stream, epoch)

    def lane_seqs(self, epoch: int) -> dict[int, int]:
        """Read the applied seq of all lanes in `epoch`."""
        with translated(f"{self._where}: reading the ledger"):
            rows = self._conn.execute(
                "SELECT lane, seq FROM headrace.lane WHERE stream = %s AND epoch = %s", [self._stream, epoch]
            ).fetchall()
        return dict(rows)

    def stream_row(self) -> StreamRow:
        """Read the stream's row: watermark, and why the stream is stopped if it is."""
        with translated(f"{self._where}: reading the ledger"):
            row = read_stream_row(self._conn, self._stream)
        if row is None:
            raise RetriableError(f"{self._where}: the ledger has no row for this stream yet")
        return row

    def fence(self, group: UnitGroup, rows: int) -> Statement:
        """What moves the lane's row past `group`: it touches one row where the ledger admits the group, else none."""
        # The parts of a snapshot have positions, and are no transactions of the source.
        count = sum(len(batch.positions) for batch in group.batches if batch.kind == "live")
        numbers = [group.last_seq, group.next_offset, count, rows]
        parameters = [str(n).encode() for n in numbers] + [self._stream.encode()]
        parameters += [str(n).encode() for n in (self._lane, group.epoch, group.first_seq - 1)]
        return Statement(_FENCE, parameters, [0] * len(parameters))

    def positions(self, group: UnitGroup) -> Statement:
        """What enters the positions of `group` as applied."""
        positions = b"".join([pack(batch.positions) for batch in group.batches])
        head = (self._stream, group.generation, group.batches[-1].last_position, self._lane)
        return Statement(_APPLIED, [*(str(value).encode() for value in head), positions], [0, 0, 0, 0, 1])

    def add(self, anomalies: Anomalies) -> None:
        """Count anomalies in the lane's row, in the open transaction."""
        if anomalies.missing or anomalies.existing:
            self._conn.execute(
                "UPDATE headrace.lane SET missing_rows = missing_rows + %s, existing_rows = existing_rows + %s"
                " WHERE stream = %s AND lane = %s",
                [anomalies.missing, anomalies.existing, self._stream, self._lane],
            )

    def stop_stream(self, reason: str) -> None:
        """Write why the stream stops into its row."""
        with translated(f"{self._where}: stopping"):
            self._conn.execute("UPDATE headrace.stream SET stopped = %s WHERE stream = %s", [reason, self._stream])
