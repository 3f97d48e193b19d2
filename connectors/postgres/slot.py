"""The replication slot of a stream."""

from __future__ import annotations

import psycopg

from pipeline.errors import ConfigError, RetriableError

FOREIGN_REMEDY = "Give this stream another name: a server has one slot of a name for all its databases"


def slot_name(stream: str) -> str:
    """The stream's replication slot, one a server, so streams of one source need names of their own."""
    return f"headrace_{stream}"


def check_wal_level(conn: psycopg.Connection) -> None:
    """Raise ConfigError unless the source writes logical WAL."""
    row = conn.execute("SHOW wal_level").fetchone()
    if row is None or row[0] != "logical":
        raise ConfigError(
            f"the source has wal_level={row[0] if row else '?'}, logical decoding needs wal_level=logical: "
            "ALTER SYSTEM SET wal_level = logical, then restart the server"
        )


_OWN = "plugin = 'pgoutput' AND database = current_database()"  # slots have one space of names in a server
_FOREIGN = f"""
SELECT coalesce('plugin ' || plugin, 'a physical slot'), database FROM pg_replication_slots
 WHERE slot_name = %s AND ({_OWN}) IS NOT TRUE
"""


def foreign_slot(conn: psycopg.Connection, stream: str) -> str:
    """Whose slot it is that has the stream's name without being the stream's; empty when there is none."""
    row = conn.execute(_FOREIGN.encode(), [slot_name(stream)]).fetchone()
    if row is None:
        return ""
    return f"replication slot {slot_name(stream)} is somebody else's ({row[0]}, database {row[1] or 'none'})"


def require_no_foreign_slot(conn: psycopg.Connection, stream: str) -> None:
    """Raise ConfigError when somebody else has the slot of the stream's name."""
    if found := foreign_slot(conn, stream):
        raise ConfigError(f"stream {stream}: {found}. {FOREIGN_REMEDY}")


def claim_snapshot(conn: psycopg.Connection, stream: str) -> None:
    """Make this session the one that takes the stream's snapshot; drop the slot of an unfinished one.

    Raises RetriableError while another capture takes it or streams: its slot is not taken away.
    """
    locked = conn.execute("SELECT pg_try_advisory_lock(hashtext('headrace snapshot'), hashtext(%s))", [stream])
    if locked.fetchone() != (True,):
        raise RetriableError(
            f"stream {stream}: another process takes its snapshot. Is a second capture of this stream running?"
        )
    slot = slot_name(stream)
    active = conn.execute("SELECT FROM pg_replication_slots WHERE slot_name = %s AND active", [slot])
    if active.fetchone() is not None:
        raise RetriableError(f"stream {stream}: another process uses the slot {slot}. Is a second capture running?")
    drop_slot(conn, slot)


def drop_slot(conn: psycopg.Connection, slot: str) -> bool:
    """Drop the slot if it exists and is Headrace's, ending a walsender that still holds it; whether it existed."""
    conn.execute(
        "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots"
        f" WHERE slot_name = %s AND active_pid IS NOT NULL AND {_OWN}".encode(), [slot],
    )  # fmt: skip
    dropped = conn.execute(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
        f" WHERE slot_name = %s AND {_OWN}".encode(), [slot],
    )  # fmt: skip
    return dropped.rowcount > 0
