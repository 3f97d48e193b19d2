"""What commands ask of a source and of a target: preflight, definitions, removal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.definitions import SequenceState, TableDefinition


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of a preflight check. A blocker keeps the stream from starting."""

    blocker: bool
    subject: str
    text: str
    remedy: str


class SourceAdmin(Protocol):
    """What commands ask of a source; every call opens and closes its own connection."""

    def check(self) -> list[Finding]:
        """What keeps the stream from starting, or will trouble it, as far as the source can tell."""

    def tables(self) -> list[tuple[str, str]]:
        """The tables that the stream replicates by their names on the target, parents before children."""

    def database(self) -> str:
        """Which database it is; the same text for the same one, however it is reached."""

    def release(self) -> str:
        """What the server is; two of one release understand each other's binary values."""

    def definitions(self) -> list[TableDefinition]:
        """What a target needs to have of these tables, by its own names."""

    def sequences(self) -> list[SequenceState]:
        """The sequences of the stream's tables, as they stand."""

    def slot_exists(self) -> bool:
        """Whether the stream's slot exists."""

    def mark(self) -> int:
        """Write a marker transaction; return a position: its own or lower, above all commits before the call."""

    def left_out(self) -> list[tuple[str, str]]:
        """Chosen tables that the running stream does not carry until they are copied, by their names on the target."""

    def current_position(self) -> int:
        """The source's newest position."""

    def drop(self) -> list[str]:
        """Remove what the stream created; return what was removed, a line each."""

    def drop_slot(self) -> list[str]:
        """Remove the stream's slot, ending a capture that uses it; return what was removed, a line each."""


class TargetAdmin(Protocol):
    """What commands ask of a target; every call opens and closes its own connection."""

    def check(self, tables: Sequence[TableDefinition], *, fresh: bool) -> list[Finding]:
        """What keeps the stream from starting, or will trouble it, in the target's part of `tables`.

        `fresh`: the stream begins with a snapshot.
        """

    def database(self) -> str:
        """Which database it is, as `SourceAdmin.database`."""

    def release(self) -> str:
        """What the server is, as `SourceAdmin.release`."""

    def create_missing(self, tables: Sequence[TableDefinition]) -> list[str]:
        """Create the tables that are not there; returns what was done, a line each. Raises ConfigError."""

    def set_sequences(self, states: Sequence[SequenceState]) -> list[str]:
        """Set the target's sequences at least as far as these; returns a line for each."""
