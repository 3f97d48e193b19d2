"""Dead letters in the ledger: `headrace.parked` is the truth, the topic a copy for people.

A letter is written by the target transaction that counts its position as applied, so a crash neither loses it nor
parks it twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from connectors.postgres.catalogue import table_exists
from pipeline.parking import Parked
from schemas.change_batch_codec import encode_batch
from schemas.dead_letter import DeadLetter

LETTERS_AT_ONCE_MAX = 100  # sent to the topic between two commits of "published"

DDL = """
CREATE TABLE IF NOT EXISTS headrace.parked (
    stream text NOT NULL,
    generation bigint NOT NULL,
    position bigint NOT NULL,
    source_id bigint NOT NULL,
    commit_time_us bigint NOT NULL,
    parked_us bigint NOT NULL,
    sqlstate text NOT NULL,
    error text NOT NULL,
    behind bigint[] NOT NULL,
    batch bytea NOT NULL,
    published boolean NOT NULL DEFAULT false,
    PRIMARY KEY (stream, generation, position)
);
"""
# The greatest letter that was discarded: whoever follows the log must not read it again below that position.
DISCARDED_DDL = """
CREATE TABLE IF NOT EXISTS headrace.discarded (
    stream text PRIMARY KEY, generation bigint NOT NULL, position bigint NOT NULL
);
"""
_DISCARD = """
INSERT INTO headrace.discarded VALUES (%s, %s, %s)
ON CONFLICT (stream) DO UPDATE SET generation = excluded.generation, position = excluded.position
 WHERE (discarded.generation, discarded.position) < (excluded.generation, excluded.position)
"""
_INSERT = (
    "INSERT INTO headrace.parked VALUES (%s, %s, %s, %s, %s, (extract(epoch FROM clock_timestamp()) * 1e6)::bigint,"
    " %s, %s, %s, %s)"
)
_SELECT = (
    "SELECT stream, generation, position, source_id, commit_time_us, parked_us, sqlstate, error, behind, batch"
    " FROM headrace.parked WHERE stream = %s"
)
# `abs` of it is still the epoch: what was applied in a closed epoch is there, and the watermark may pass it.
_CLOSE = "UPDATE headrace.incarnation SET epoch = -epoch, closed_by = %s WHERE stream = %s AND epoch > 0"
_CLOSED_BY = "SELECT closed_by FROM headrace.incarnation WHERE stream = %s AND epoch = -%s"


def insert_letters(conn: psycopg.Connection, stream: str, parked: Sequence[Parked]) -> None:
    """Enter parked transactions, inside the caller's transaction."""
    with conn.cursor() as cursor:
        cursor.executemany(
            _INSERT,
            [
                (stream, each.batch.generation, each.batch.last_position, each.batch.source_ids[0],
                 each.batch.commit_times_us[0], each.sqlstate, each.error, list(each.behind), encode_batch(each.batch))
                for each in parked
            ],
        )  # fmt: skip


def note_discarded(conn: psycopg.Connection, letter: DeadLetter) -> None:
    """Note that the target never gets a letter, inside the transaction that deletes it."""
    conn.execute(_DISCARD, [letter.stream, letter.generation, letter.position])


def close_epoch(conn: psycopg.Connection, stream: str, why: str) -> None:
    """Admit nothing more in the present epoch: units planned in it don't know what the caller has changed.

    Inside the caller's transaction. The next takeover begins another epoch. `why` is for the logs of the roles.
    """
    conn.execute(_CLOSE, [why, stream])


def closed_by(conn: psycopg.Connection, stream: str, epoch: int) -> str | None:
    """What closed `epoch`; None when it rules, when another has begun, or when a crash of the target ended it."""
    row = conn.execute(_CLOSED_BY, [stream, epoch]).fetchone()
    return str(row[0]) if row is not None else None


def read_letters(conn: psycopg.Connection, stream: str) -> list[DeadLetter]:
    """All letters of the stream, in order; none in a target without a ledger."""
    if not table_exists(conn, ("headrace", "parked")):
        return []
    rows = conn.execute(f"{_SELECT} ORDER BY generation, position", [stream]).fetchall()
    return [DeadLetter(*row) for row in rows]


def unpublished_letters(conn: psycopg.Connection, stream: str) -> list[DeadLetter]:
    """The next letters that the topic may not have yet."""
    if not table_exists(conn, ("headrace", "parked")):
        return []
    query = f"{_SELECT} AND NOT published ORDER BY generation, position LIMIT {LETTERS_AT_ONCE_MAX}"
    return [DeadLetter(*row) for row in conn.execute(query.encode(), [stream])]


def mark_published(conn: psycopg.Connection, letters: Sequence[DeadLetter]) -> None:
    """Note that the topic has them."""
    with conn.cursor() as cursor:
        cursor.executemany(
            "UPDATE headrace.parked SET published = true WHERE stream = %s AND generation = %s AND position = %s",
            [(letter.stream, letter.generation, letter.position) for letter in letters],
        )
