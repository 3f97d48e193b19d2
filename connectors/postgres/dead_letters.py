"""What an operator does with a stream's dead letters: look, replay, discard.

**Guarantee:** a letter is replayed in its place, after every transaction before it that it depends on, once. What is
replayed or discarded closes the epoch in the same target transaction: a running planner takes over from itself and
no longer parks what comes behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing

import psycopg
from psycopg import pq, sql

from connectors.dead_letters import ChangeText, LetterOutcome
from connectors.postgres.errors import connect, place, translated
from connectors.postgres.lane import NO_LANE
from connectors.postgres.letters import close_epoch, note_discarded, read_letters
from connectors.postgres.parking_lane import ParkingLane
from connectors.postgres.type_names import type_name
from connectors.settings import TargetSettings
from pipeline.conflicts import KeyRules
from pipeline.parking import ParkedKeys
from schemas.change_batch import DELETE, TRUNCATE, ChangeBatch, Column, Section, iter_order
from schemas.change_batch_codec import decode_batch
from schemas.dead_letter import DeadLetter
from schemas.rows import Field, key_fields, row_fields

OPS = {73: "INSERT", 85: "UPDATE", 68: "DELETE", 84: "TRUNCATE"}
LEFT_OUT = "(unchanged, not sent by the source)"
Wanted = Callable[[DeadLetter], bool]


class PostgresDeadLetters:
    """See `connectors.dead_letters.DeadLetters`. Each call opens and closes its own connection."""

    def __init__(self, stream: str, settings: TargetSettings) -> None:
        self._stream = stream
        self._settings = settings
        self._where = f"stream {stream}: dead letters at {place(settings.dsn)}"

    def _connect(self) -> psycopg.Connection:
        return connect(self._settings.dsn, f"headrace {self._stream} dead letters")

    def letters(self) -> list[DeadLetter]:
        """All letters, in order."""
        with self._connect() as conn, translated(f"{self._where}: reading"):
            return read_letters(conn, self._stream)

    def changes(self, letter: DeadLetter) -> list[ChangeText]:
        """The changes of a letter as text, in order."""
        batch = decode_batch(letter.batch)
        with self._connect() as conn:
            return [_change(conn, batch.sections[number], row) for _, number, row in iter_order(batch)]

    def replay(self, wanted: Wanted) -> list[LetterOutcome]:
        """Apply the wanted letters in order, each where its place allows; see `connectors.dead_letters.DeadLetters`."""
        with closing(_ReplaySession(self._stream, NO_LANE, self._settings)) as session:
            return session.replay(wanted)

    def discard(self, wanted: Wanted) -> list[LetterOutcome]:
        """Delete the wanted letters."""
        with self._connect() as conn, translated(f"{self._where}: discarding"), conn.transaction():
            conn.execute("SELECT FROM headrace.stream WHERE stream = %s FOR UPDATE", [self._stream])
            chosen = [letter for letter in read_letters(conn, self._stream) if wanted(letter)]
            for letter in chosen:
                _delete(conn, letter)
                note_discarded(conn, letter)
            if chosen:
                close_epoch(conn, self._stream, "dead letters were discarded")
        return [LetterOutcome(letter, settled=True, text="discarded") for letter in chosen]


class _ReplaySession(ParkingLane):
    """A session that writes as a lane does."""

    def replay(self, wanted: Wanted) -> list[LetterOutcome]:
        """One target transaction: what is replayed, and the end of the epoch."""
        with self._transaction("replaying dead letters"):
            self._pipeline.run(self._writer.begin)
            # Held to the end: no takeover reads the letters meanwhile, and the watermark stands.
            row = self._conn.execute(
                "SELECT generation, watermark FROM headrace.stream WHERE stream = %s FOR UPDATE", [self._stream]
            ).fetchone()
            outcomes = list(self._replay_all(wanted, (row[0], row[1]) if row is not None else (0, 0)))
            if any(outcome.settled for outcome in outcomes):
                close_epoch(self._conn, self._stream, "dead letters were replayed")
            self._conn.execute("COMMIT")
        return outcomes

    def _replay_all(self, wanted: Wanted, watermark: tuple[int, int]) -> Iterable[LetterOutcome]:
        left = ParkedKeys(self._stream, KeyRules(self._writer.catalogue), bounded=False)
        for letter in read_letters(self._conn, self._stream):
            batch = decode_batch(letter.batch)
            if letter.generation < watermark[0]:
                if wanted(letter):
                    yield LetterOutcome(letter, settled=False, text="its tables were copied anew since: discard it")
                continue
            text = ""
            if wanted(letter):
                text = self._replay(letter, batch, left, watermark)
                yield LetterOutcome(letter, settled=not text, text=text or "replayed")
            if text or not wanted(letter):
                left.add(batch)

    def _replay(self, letter: DeadLetter, batch: ChangeBatch, left: ParkedKeys, watermark: tuple[int, int]) -> str:
        """Replay one; why it could not be."""
        if (letter.generation, letter.position) > watermark:
            return "not yet: transactions before it are still to be applied; try again in a moment"
        behind = left.behind(batch, [0])
        if behind:
            return f"waits for the letters before it: {', '.join(map(str, behind[0]))}"
        refusal = self._try(batch)
        if refusal is None:
            _delete(self._conn, letter)
            return ""
        self._conn.execute(
            "UPDATE headrace.parked SET sqlstate = %s, error = %s"
            " WHERE stream = %s AND generation = %s AND position = %s",
            [refusal.sqlstate, refusal.error, letter.stream, letter.generation, letter.position],
        )
        return f"refused again: {refusal.error}"


def _delete(conn: psycopg.Connection, letter: DeadLetter) -> None:
    conn.execute(
        "DELETE FROM headrace.parked WHERE stream = %s AND generation = %s AND position = %s",
        [letter.stream, letter.generation, letter.position],
    )


def _change(conn: psycopg.Connection, section: Section, row: int) -> ChangeText:
    relation, op = section.relation, section.ops[row]
    table = f"{relation.schema}.{relation.table}"
    if op == TRUNCATE:
        return ChangeText(OPS[op], table, {}, {})
    keys = [column for column in relation.columns if column.key]
    key = section.old_key_map().get(row, section.key_list()[row])
    data, mask = section.row_list()[row], section.mask_map().get(row, b"")
    before = _texts(conn, keys, key_fields(key, len(keys))) if op != 73 else {}
    if op == DELETE:
        whole = _texts(conn, relation.columns, row_fields(data, len(relation.columns))) if data else before
        return ChangeText(OPS[op], table, whole, {})
    after = _texts(conn, relation.columns, row_fields(data, len(relation.columns)))
    for n, column in enumerate(relation.columns):
        if mask and mask[n >> 3] >> (n & 7) & 1:
            after[column.name] = LEFT_OUT
    return ChangeText(OPS[op], table, before, after)


def _texts(conn: psycopg.Connection, columns: Sequence[Column], fields: Sequence[Field]) -> dict[str, str | None]:
    return {column.name: _text(conn, column, value) for column, value in zip(columns, fields, strict=True)}


def _text(conn: psycopg.Connection, column: Column, value: Field) -> str | None:
    """A field as the server prints it; as bytes where it does not know the type."""
    if value is None:
        return None
    if not column.binary:
        return value.decode(errors="replace")
    query = sql.SQL("SELECT $1::{}::text").format(type_name(column.type)).as_bytes(conn)
    result = conn.pgconn.exec_params(query, [value], None, [1], 0)
    if result.status != pq.ExecStatus.TUPLES_OK:
        return f"\\x{value.hex()}"
    return (result.get_value(0, 0) or b"").decode(errors="replace")
