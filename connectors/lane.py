"""One lane of a target: groups of units in, one commit each with its ledger entries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from connectors.ledger import StreamRow
from pipeline.fence import Fenced, LaneRow
from schemas.change_batch import ChangeBatch
from schemas.dead_letter import DeadLetter


@dataclass(frozen=True, slots=True)
class UnitGroup:
    """Queued units of one lane merged into one target transaction: first_seq..last_seq of `epoch`.

    `serial` selects source order row by row. `behind` holds, for each transaction of a unit that is to be
    parked, the parked positions that it depends on.
    """

    stream: str
    generation: int
    lane: int
    epoch: int
    first_seq: int
    last_seq: int
    next_offset: int
    batches: Sequence[ChangeBatch]
    serial: bool = False
    behind: Sequence[tuple[int, ...]] = ()


@dataclass(frozen=True, slots=True)
class Applied:
    """What a commit did. `fenced` is set when the ledger refused the group, and nothing was changed.

    `closed` says that transactions were parked and the epoch is closed: nothing more is admitted in it.
    """

    rows: int = 0
    closed: bool = False
    fenced: Fenced | None = None


class LaneTarget(Protocol):
    """One lane's connection to the target. Used by one thread; keeps no state that matters."""

    def closed_by(self, epoch: int) -> str | None:
        """What closed `epoch`, as `Ledger.closed_by`."""

    def lane_row(self) -> LaneRow:
        """Read the lane's ledger row. Raises RetriableError."""

    def lane_seqs(self, epoch: int) -> dict[int, int]:
        """Read the applied seq of every lane of the stream; empty when the ledger's epoch is another."""

    def stream_row(self) -> StreamRow:
        """Read the stream's ledger row."""

    def apply(self, group: UnitGroup) -> Applied:
        """Apply and commit `group` with its ledger entries in one transaction.

        The fence is the transaction's first statement. Raises RefusedError (rolled back), RetriableError
        (the outcome of a COMMIT may be unknown: read the lane row, then decide).
        """

    def apply_part(self, group: UnitGroup, *, first: bool) -> Applied:
        """Apply a part of a large transaction and leave the target transaction open for the next.

        `first` rolls an unfinished one back. No ledger row is locked before the last part, so a planner can
        take over meanwhile; a unit of an older epoch is refused at the next part.
        """

    def apply_last(self, group: UnitGroup) -> Applied:
        """Apply the last part of a large transaction and commit all its parts; fenced like `apply`."""

    def park(self, group: UnitGroup) -> Applied:
        """Keep the transactions of `group` as dead letters, and count them as applied; fenced like `apply`."""

    def apply_or_park(self, group: UnitGroup) -> Applied:
        """Apply the transactions of `group` one by one in source order, in one target transaction.

        One that is refused is kept as a dead letter, and so is one that depends on a kept one. When there are
        any, the same target transaction closes the epoch: units planned in it don't know of them.
        """

    def unpublished_letters(self) -> list[DeadLetter]:
        """Return the next dead letters of the stream that the topic may not have yet."""

    def mark_published(self, letters: Sequence[DeadLetter]) -> None:
        """Note that the topic has `letters`."""

    def stop_stream(self, reason: str) -> None:
        """Write the reason that stops the stream into the ledger."""

    def close(self) -> None:
        """Drop the connection; an open transaction is rolled back by the server."""
