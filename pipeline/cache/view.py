"""What a cache is told by the target, and what it answers."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from pipeline.errors import RetriableError
from schemas.change_batch import Relation


@dataclass(frozen=True, slots=True)
class TargetView:
    """What one snapshot of the target's ledger says: everything up to `watermark`, and `applied` above it.

    `parked` are positions that count as applied and are dead letters: the target does not have them. `discarded` is
    the greatest position of a letter that it will never have.
    """

    generation: int
    watermark: int
    applied: Set[int]
    parked: Set[int] = frozenset()
    discarded: int = 0

    def has(self, position: int) -> bool:
        """Whether the transaction at `position` is applied."""
        return position <= self.watermark or position in self.applied


@dataclass(frozen=True, slots=True)
class Answer:
    """A row as of `position` or later; None: it does not exist."""

    position: int
    relation: Relation
    row: bytes | None


class TargetWentBackError(RetriableError):
    """The target is another one than was folded: it has lost transactions (restored, or crashed with asynchronous
    commits), or dead letters were replayed or discarded.
    """
