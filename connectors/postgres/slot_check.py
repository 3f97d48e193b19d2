"""Before a capture goes on: does the slot still continue what Kafka has?

Each answer of "no" would lose changes silently, or is told by the server in words that name no remedy.
"""

from __future__ import annotations

import psycopg

from connectors.postgres.errors import translated
from connectors.postgres.replication import lsn_text, parse_lsn
from connectors.postgres.slot import slot_name
from connectors.source import Tail
from pipeline.errors import StreamStoppedError


def check_slot(conn: psycopg.Connection, stream: str, tail: Tail) -> None:
    """Raise StreamStoppedError, with the remedy, when changes after `tail` can't come from the slot."""
    slot = slot_name(stream)
    with translated(f"stream {stream}: looking at its slot"):
        row = conn.execute(
            "SELECT wal_status, confirmed_flush_lsn::text, pg_current_wal_flush_lsn()::text"
            " FROM pg_replication_slots s RIGHT JOIN (SELECT) one ON s.slot_name = %s", [slot],
        ).fetchone()  # fmt: skip
    if row is None:
        raise AssertionError("a right join with one row returns one")
    status, confirmed, current = row
    reason = _reason(slot, tail, status, confirmed, current)
    if reason:
        raise StreamStoppedError(
            f"stream {stream}: {reason} Nothing beyond position {tail.position} was captured. Take a new "
            f"snapshot: stop all roles, then `headrace resync --stream {stream} --yes`."
        )


def _reason(slot: str, tail: Tail, status: str | None, confirmed: str | None, current: str) -> str:
    end = parse_lsn(current)
    if tail.position > end:
        return (
            f"the source is at {current}, before the last captured position {lsn_text(tail.position)}: it was restored "
            "from a backup, or a standby took over that had not received everything."
        )
    if status is None:
        return f"the source has no replication slot {slot}: it was dropped, or another server took over without it."
    if status == "lost":
        return f"the replication slot {slot} is invalidated: its WAL is gone (max_slot_wal_keep_size)."
    if confirmed is not None and 0 < tail.end_position < parse_lsn(confirmed):
        return (
            f"the replication slot {slot} was advanced to {confirmed}, past {lsn_text(tail.end_position)}, where the "
            "changes topic ends: something else used the slot, or the topic has lost its newest records."
        )
    return ""
