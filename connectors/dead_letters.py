"""What a connector offers for a stream's dead letters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from schemas.dead_letter import DeadLetter


@dataclass(frozen=True, slots=True)
class ChangeText:
    """One change of a dead letter as text: what the source told of the row before it and after it."""

    op: str
    table: str
    before: dict[str, str | None]
    after: dict[str, str | None]


@dataclass(frozen=True, slots=True)
class LetterOutcome:
    """What became of a dead letter; `settled`: it is one no more."""

    letter: DeadLetter
    settled: bool
    text: str


class DeadLetters(Protocol):
    """What commands do with the dead letters of a stream."""

    def letters(self) -> list[DeadLetter]:
        """All of them, in order."""

    def changes(self, letter: DeadLetter) -> list[ChangeText]:
        """The changes of a letter, in order."""

    def replay(self, wanted: Callable[[DeadLetter], bool]) -> list[LetterOutcome]:
        """Apply the wanted letters in source order, in one target transaction; what fails stays a letter.

        A letter waits for those before it that it depends on, and for the watermark.
        """

    def discard(self, wanted: Callable[[DeadLetter], bool]) -> list[LetterOutcome]:
        """Delete the wanted letters: the target never gets them."""
