"""The replication connection: slot creation, START_REPLICATION, status messages.

Source: PostgreSQL manual, "Streaming Replication Protocol".
"""

from __future__ import annotations

import select
import struct
import time
from typing import NoReturn

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo

from connectors.postgres.errors import ENCODING, place
from connectors.postgres.pgoutput import PgOutputDecoder
from connectors.postgres.pump import pump
from connectors.postgres.types import TEXT_SESSION
from pipeline.errors import ConfigError, HeadraceError, RetriableError, StreamStoppedError

_STATUS = struct.Struct("!cqqqqB")
_KEEPALIVE = struct.Struct("!qqB")
_PG_EPOCH_S = 946_684_800
STATUS_INTERVAL_S = 1.0
# Each status asks for an answer, so a server that says nothing is gone or frozen, not idle. PostgreSQL's own
# subscriber waits as long (wal_receiver_timeout).
SILENCE_MAX_S = 60.0
# Reading eagerly wakes both sides for every message: 60 µs a transaction against 12 with a nap of 0.2 ms
# whenever the socket is empty (2-core machine, pgbench TPC-B). Longer naps let the socket buffer fill up.
NAP_S = 0.0002
NAPS_MAX = 25  # then the stream is idle: wait in poll(), which costs nothing
IDLE_WAIT_S = 0.05


def lsn_text(lsn: int) -> str:
    """An LSN as PostgreSQL prints it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def parse_lsn(text: str) -> int:
    """The LSN that PostgreSQL prints as `text`."""
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


def position_text(generation: int, position: int) -> str:
    """A position as an LSN; the parts of a snapshot are numbered, below its consistent point."""
    return lsn_text(position) if position >= generation else f"part {position} of the snapshot"


class ReplicationConnection:
    """A walsender connection. Not thread-safe."""

    def __init__(self, dsn: str, stream: str) -> None:
        self._stream = stream
        self._where = f"stream {stream}: source {place(dsn)}"
        options = " ".join(f"-c {name}={value}" for name, value in TEXT_SESSION.items())
        info = make_conninfo(
            dsn, replication="database", application_name=f"headrace {stream} capture", options=options,
            client_encoding=ENCODING, connect_timeout=10, keepalives_idle=10, keepalives_interval=5,
        )  # fmt: skip
        self._conn = pq.PGconn.connect(info.encode())
        if self._conn.status != pq.ConnStatus.OK:
            message = self._conn.get_error_message().strip()
            self._conn.finish()
            permanent = ("password", "does not exist", "permission denied", "pg_hba", "must be")
            kind = ConfigError if any(word in message for word in permanent) else RetriableError
            raise kind(f"{self._where}: no replication connection: {message.splitlines()[-1]}")
        self._streaming = False
        self._status_sent_s = 0.0
        self._heard_s = time.monotonic()
        self._clock_late_s = 0.0  # the server's clock behind ours, as its last keepalive told
        self.confirmed = 0
        self.received = 0

    def create_slot(self, slot: str, *, export: bool) -> tuple[int, str]:
        """Create a logical slot for pgoutput; return its consistent point and its snapshot's name.

        The snapshot lives until the next command on this connection.
        """
        snapshot = "export" if export else "nothing"
        result = self._command(f"CREATE_REPLICATION_SLOT {slot} LOGICAL pgoutput (SNAPSHOT '{snapshot}')")
        point = (result.get_value(0, 1) or b"0/0").decode()
        return parse_lsn(point), (result.get_value(0, 2) or b"").decode()

    def start(self, slot: str, publications: list[str], from_lsn: int, *, binary: bool) -> None:
        """Begin streaming at `from_lsn` (or the slot's confirmed position, whichever is later)."""
        names = ",".join(publications)
        flag = "true" if binary else "false"
        protocol = min(4, max(2, self._conn.server_version // 10000 - 12))  # 2 in PostgreSQL 14, 3 in 15, 4 from 16 on
        self._command(
            f"START_REPLICATION SLOT {slot} LOGICAL {lsn_text(from_lsn)} (proto_version '{protocol}', "
            f"publication_names '{names}', binary '{flag}', messages 'true')",
            pq.ExecStatus.COPY_BOTH,
        )
        self._streaming = True
        self.confirmed = from_lsn
        self._heard_s = time.monotonic()

    def _command(self, command: str, wanted: pq.ExecStatus = pq.ExecStatus.TUPLES_OK) -> pq.abc.PGresult:
        result = self._conn.exec_(command.encode())
        if result.status != wanted:
            raise self._refusal(result)
        return result

    def _refusal(self, result: pq.abc.PGresult) -> HeadraceError:
        message = result.get_error_message().strip().splitlines()[0]
        state = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
        text = f"{self._where}: {message}"
        if state == "55006":  # object_in_use
            return RetriableError(
                f"{text}; another process uses the slot. Is a second capture of this stream running? "
                "Stop it, or wait until the server notices that it is gone (wal_sender_timeout)."
            )
        if state in ("55000", "58P01") or "can no longer" in message:
            return StreamStoppedError(
                f"{text}; the slot has lost WAL that was not captured yet. Take a new snapshot: stop all roles, then "
                f"`headrace resync --stream {self._stream} --yes`."
            )
        return ConfigError(text) if state[:2] in ("42", "28", "22") else RetriableError(text)

    def pump(self, decoder: PgOutputDecoder, messages_max: int, bytes_max: int) -> bool:
        """Feed what has arrived into `decoder`; whether nothing more is there.

        Limits as in `connectors.postgres.pump`. Keepalives are answered here. Raises RetriableError when
        the connection is lost, StreamStoppedError when the slot's WAL is gone.
        """
        filled = False
        while True:
            try:
                size, done, other = pump(self._conn.get_copy_data, decoder, messages_max, bytes_max)
                messages_max = max(0, messages_max - done)
                if size == 0 and (done or not filled):
                    self._conn.consume_input()
                    filled = True
                    continue
            except psycopg.Error as error:
                raise RetriableError(f"{self._where}: replication stream broke: {error}") from error
            if size <= 0:
                if size < 0:
                    self._ended()
                return True
            if other is None:
                return False
            self._keepalive(bytes(other))

    def _ended(self) -> NoReturn:
        result = self._conn.get_result()
        if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
            raise self._refusal(result)
        raise RetriableError(f"{self._where}: the server ended the replication stream")

    def _keepalive(self, data: bytes) -> None:
        end, sent_us, reply = _KEEPALIVE.unpack_from(data, 1)
        self.received = max(self.received, end)
        self._heard_s = time.monotonic()
        self._clock_late_s = time.time() - (_PG_EPOCH_S + sent_us / 1e6)
        if reply:
            self.send_status()

    @property
    def server_time_s(self) -> float:
        """What the server's clock shows (seconds since 1970), or a little less: commit times are compared with it."""
        return time.time() - self._clock_late_s

    def wait(self, naps: int, nap_s: float = NAP_S) -> None:
        """Pause after an empty read: a nap while traffic is near, poll() once it is not."""
        if naps < NAPS_MAX:
            time.sleep(nap_s)
        else:
            select.select([self._conn.socket], [], [], IDLE_WAIT_S)

    def send_status(self) -> None:
        """Report the confirmed position, below which the server may recycle WAL, and ask for an answer."""
        now_us = int((time.time() - _PG_EPOCH_S) * 1e6)
        lsn = self.confirmed
        try:
            self._conn.put_copy_data(_STATUS.pack(b"r", max(lsn, self.received), lsn, lsn, now_us, 1))
            self._conn.flush()
        except psycopg.Error as error:
            raise RetriableError(f"{self._where}: replication connection lost: {error}") from error
        self._status_sent_s = time.monotonic()

    def send_status_if_due(self) -> None:
        """Report the confirmed position once a second. Raises RetriableError when the server has fallen silent.

        Before the stream is started (during a snapshot) there is nothing to say, and no one who waits for it.
        """
        now_s = time.monotonic()
        if not self._streaming or now_s - self._status_sent_s < STATUS_INTERVAL_S:
            return
        if now_s - self._heard_s > SILENCE_MAX_S:
            raise RetriableError(f"{self._where}: no answer for {SILENCE_MAX_S:.0f} s; is the server frozen?")
        self.send_status()

    def excuse_silence(self) -> None:
        """Count silence from now: nothing was read for a while, so nothing could be heard."""
        self._heard_s = time.monotonic()

    def close(self) -> None:
        """End the connection."""
        self._conn.finish()
