"""Rule 1, the chain: a batch is accepted only if it continues what came before.

The coordinate is (generation, position, part). A capture that restarts may repeat any run of whole
transactions, cut into other batches; what is at or below the last position is dropped. A batch that
starts beyond it is a gap.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from pipeline.errors import StreamGapError
from schemas.change_batch import ChangeBatch


class Verdict(Enum):
    """What to do with a batch."""

    ACCEPT = "accept"
    REPEAT = "repeat"
    RESTART = "restart"  # a new snapshot generation starts here


@dataclass(frozen=True, slots=True)
class Link:
    """Verdict on a batch; transactions before `first` are already in the chain and must be dropped."""

    verdict: Verdict
    first: int = 0


@dataclass(slots=True)
class Chain:
    """The end of a stream's chain as its planner knows it.

    `open_part` is the next part number of a large transaction whose parts have begun, -1 when none is.
    `open_position` is that transaction's position, `open_run` the run that its parts belong to.
    """

    stream: str
    generation: int
    position: int
    open_position: int = -1
    open_part: int = -1
    open_run: int = 0

    def offer(self, batch: ChangeBatch) -> Link:
        """Judge `batch` and, if it is accepted, move the end of the chain.

        Raises StreamGapError, naming both positions, when batches are missing before it.
        """
        if batch.generation < self.generation:
            return Link(Verdict.REPEAT)
        if batch.generation > self.generation:
            return self._restart(batch)
        if batch.part > 0:
            return self._offer_part(batch)
        if batch.previous_position > self.position:
            raise StreamGapError(self._gap_message(batch))
        if batch.last_position <= self.position:
            return Link(Verdict.REPEAT)
        first = sum(1 for position in batch.positions if position <= self.position)
        self._advance(batch)
        return Link(Verdict.ACCEPT, first)

    def is_heartbeat(self, batch: ChangeBatch) -> bool:
        """Whether a batch says that the source has nothing more up to its end."""
        here = (self.generation, self.position) == (batch.generation, batch.previous_position)
        return here and not batch.positions and self.open_part < 0

    def _restart(self, batch: ChangeBatch) -> Link:
        if batch.previous_position != 0 or batch.part != 0:
            raise StreamGapError(self._gap_message(batch))
        self.generation, self.position = batch.generation, 0
        self._advance(batch)
        return Link(Verdict.RESTART)

    def _offer_part(self, batch: ChangeBatch) -> Link:
        position = batch.last_position
        if position <= self.position:
            return Link(Verdict.REPEAT)
        if position == self.open_position and (batch.run != self.open_run or batch.part < self.open_part):
            # Late parts of a capture that another one has replaced: its run began anew and may be cut at
            # other rows. Should the new run never end, the next transaction's batch shows the gap.
            return Link(Verdict.REPEAT)
        if position != self.open_position or batch.part != self.open_part:
            raise StreamGapError(self._gap_message(batch))
        self._advance(batch)
        return Link(Verdict.ACCEPT)

    def _advance(self, batch: ChangeBatch) -> None:
        if batch.last_part:
            self.position = batch.last_position
            self.open_position = self.open_part = -1
        else:
            self.open_position, self.open_part, self.open_run = batch.last_position, batch.part + 1, batch.run

    def _gap_message(self, batch: ChangeBatch) -> str:
        return (
            f"stream {self.stream}: changes are missing between position {self.position} "
            f"(generation {self.generation}) and {batch.previous_position} (generation {batch.generation}, "
            f"part {batch.part}); nothing beyond the gap was applied. Was a record lost from the changes topic "
            "(retention, truncation)? Take a new snapshot: stop all roles, then "
            f"`headrace resync --stream {self.stream} --yes`."
        )
