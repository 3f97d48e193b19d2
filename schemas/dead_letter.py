"""DeadLetter: a whole transaction that the target refuses."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.single_object import codec


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A parked transaction; `behind` names the parked positions it depends on, `batch` is a ChangeBatch."""

    stream: str
    generation: int
    position: int
    source_id: int
    commit_time_us: int
    parked_us: int
    sqlstate: str
    error: str
    behind: list[int]
    batch: bytes


def encode_dead_letter(letter: DeadLetter) -> bytes:
    """Return the record of `letter`."""
    return codec("dead_letter").encode({name: getattr(letter, name) for name in DeadLetter.__slots__})


def decode_dead_letter(data: bytes) -> DeadLetter:
    """Return the letter in `data`. Raises SchemaError."""
    return DeadLetter(**codec("dead_letter").decode(data))
