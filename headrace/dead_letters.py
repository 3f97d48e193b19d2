"""`headrace dead-letters`: transactions that the target refused, and those parked behind them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from connectors.dead_letters import ChangeText, LetterOutcome
from headrace.configuration import read_settings
from headrace.console import EX_FAILURE, EX_OK
from headrace.dead_letter_text import letter_text, time_text
from headrace.options import DEFAULT_CONFIG, Config, Json, Stream
from headrace.options import console as _console
from headrace.streams import chosen_streams, dead_letters
from pipeline.errors import ConfigError
from schemas.change_batch_codec import decode_batch
from schemas.dead_letter import DeadLetter
from topologies.stream_settings import StreamConfig

app = typer.Typer(help="Look at transactions that the target refused; replay or discard them.", no_args_is_help=True)
Positions = Annotated[list[int] | None, typer.Option("--position", help="A letter's position; may be repeated.")]


@app.command(name="list")
def list_letters(config: Config = DEFAULT_CONFIG, stream: Stream = None, json: Json = False) -> None:
    """List dead letters in source order."""
    found = [letter for each in _streams(config, stream) for letter in dead_letters(each).letters()]
    if json:
        _print_json([_summary(letter) for letter in found])
        return
    if not found:
        _console().print("no dead letters")
        return
    table = Table("stream", "position", "committed", "tables", "error", title="Dead letters")
    for letter in found:
        summary = _summary(letter)
        names = ", ".join(summary["tables"])
        table.add_row(letter.stream, str(letter.position), summary["committed"], names, escape(letter.error))
    _console().print(table)


@app.command()
def show(
    position: Annotated[int, typer.Argument(help="The letter's position.")],
    config: Config = DEFAULT_CONFIG,
    stream: Stream = None,
    json: Json = False,
    raw: Annotated[Path | None, typer.Option("--raw", help="Write the record's bytes (a ChangeBatch) there.")] = None,
) -> None:
    """Show one letter: its error, what it waits for, its changes, and what to do."""
    for each in _streams(config, stream):
        admin = dead_letters(each)
        for letter in admin.letters():
            if letter.position == position:
                if raw is not None:
                    raw.write_bytes(letter.batch)
                _show(letter, admin.changes(letter), as_json=json)
                return
    raise ConfigError(f"there is no dead letter at position {position}; see `headrace dead-letters list`")


@app.command()
def replay(config: Config = DEFAULT_CONFIG, stream: Stream = None, position: Positions = None) -> None:
    """Apply letters in source order; exit code 1 when one stays."""
    outcomes = [
        outcome
        for each in _streams(config, stream)
        for outcome in dead_letters(each).replay(lambda letter: not position or letter.position in position)
    ]
    raise typer.Exit(_tell(outcomes, position))


@app.command()
def discard(
    config: Config = DEFAULT_CONFIG,
    stream: Stream = None,
    position: Positions = None,
    everything: Annotated[bool, typer.Option("--all", help="All letters.")] = False,
) -> None:
    """Delete letters: the target never gets them, and later transactions are no longer parked behind them."""
    if bool(position) == everything:
        raise ConfigError("say which letters: --position P, once or more, or --all")
    outcomes = [
        outcome
        for each in _streams(config, stream)
        for outcome in dead_letters(each).discard(lambda letter: everything or letter.position in (position or ()))
    ]
    raise typer.Exit(_tell(outcomes, position))


def _streams(config: Path, stream: str | None) -> Sequence[StreamConfig]:
    return chosen_streams(read_settings(config), stream)


def _tell(outcomes: Sequence[LetterOutcome], positions: Iterable[int] | None) -> int:
    console = _console()
    for outcome in outcomes:
        letter = outcome.letter
        console.print(f"stream {letter.stream}, position {letter.position}: {escape(outcome.text)}", soft_wrap=True)
    unknown = set(positions or ()) - {outcome.letter.position for outcome in outcomes}
    for position in sorted(unknown):
        console.print(f"position {position}: there is no such letter")
    settled = sum(outcome.settled for outcome in outcomes)
    console.print(f"{settled} settled, {len(outcomes) - settled} left")
    return EX_OK if settled == len(outcomes) and not unknown else EX_FAILURE


def _summary(letter: DeadLetter) -> dict[str, Any]:
    batch = decode_batch(letter.batch)
    return {
        "stream": letter.stream, "position": letter.position, "generation": letter.generation,
        "source_id": letter.source_id, "committed": time_text(letter.commit_time_us),
        "parked": time_text(letter.parked_us),
        "sqlstate": letter.sqlstate, "error": letter.error, "behind": letter.behind,
        "tables": sorted({".".join(section.relation.name) for section in batch.sections}),
        "changes": batch.rows(), "bytes": len(letter.batch),
    }  # fmt: skip


def _show(letter: DeadLetter, changes: Sequence[ChangeText], *, as_json: bool) -> None:
    if as_json:
        _print_json({**_summary(letter), "changes": [asdict(change) for change in changes]})
        return
    _console().print(escape(letter_text(letter, changes)), soft_wrap=True)


def _print_json(value: object) -> None:
    _console().print_json(json.dumps(value))
