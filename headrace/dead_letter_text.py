"""A dead letter for people."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from connectors.dead_letters import ChangeText
from schemas.dead_letter import DeadLetter

VALUE_CHARACTERS_MAX = 200  # of a column's value on the screen; --json and --raw have all of it


def letter_text(letter: DeadLetter, changes: Sequence[ChangeText]) -> str:
    """What was refused and why, each change with its table, key and columns, and what to do."""
    return "\n".join([*_head(letter), "", *_changes(changes), "", *_remedy(letter)])


def time_text(time_us: int) -> str:
    """A time as ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(time_us / 1e6, UTC).isoformat(timespec="milliseconds")


def _head(letter: DeadLetter) -> Iterator[str]:
    yield f"dead letter: stream {letter.stream}, position {letter.position}, source transaction {letter.source_id}"
    yield f"committed:   {time_text(letter.commit_time_us)}"
    yield f"set aside:   {time_text(letter.parked_us)}"
    yield f"error:       {letter.error} (SQLSTATE {letter.sqlstate})"
    if letter.behind:
        yield f"waits for:   the dead letters at {_positions(letter)}"


def _changes(changes: Sequence[ChangeText]) -> Iterator[str]:
    yield f"{len(changes):,} changes, in order:" if len(changes) != 1 else "1 change:"
    for change in changes:
        key = f", where {_condition(change.before)}" if change.op == "UPDATE" and change.before else ""
        yield f"  {change.op} {change.table}{key}"
        yield from _columns(change.before if change.op == "DELETE" else change.after)


def _condition(key: Mapping[str, str | None]) -> str:
    return " and ".join(f"{column} is {_value(value)}" for column, value in key.items())


def _columns(values: Mapping[str, str | None]) -> Iterator[str]:
    width = max(map(len, values), default=0)
    for column, value in values.items():
        yield f"      {column:<{width}}  {_value(value)}"


def _value(value: str | None) -> str:
    """The value on one line; quoted where it could be taken for something else."""
    if value is None:
        return "NULL"
    shown = value[:VALUE_CHARACTERS_MAX]
    if not shown.isprintable() or shown.strip() != shown or shown in ("", "NULL"):
        shown = json.dumps(shown, ensure_ascii=False)
    return shown if len(value) <= VALUE_CHARACTERS_MAX else f"{shown}... ({len(value):,} characters)"


def _remedy(letter: DeadLetter) -> Iterator[str]:
    if letter.behind:
        yield f"Nothing is wrong with it: settle {_positions(letter)} first. `headrace dead-letters replay` applies all"
        yield "letters in source order."
    else:
        yield "Correct on the target what the error names, then apply it, and what waits for it:"
        yield "  headrace dead-letters replay"
    yield "To leave it out for good (the target never gets it, and later transactions no longer wait for it):"
    yield f"  headrace dead-letters discard --position {letter.position}"


def _positions(letter: DeadLetter) -> str:
    return ", ".join(map(str, letter.behind))
