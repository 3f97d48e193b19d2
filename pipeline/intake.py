"""What of a record is still to be planned: not what was planned or applied before, nor what a table's copy supersedes.

Rule 1 (the chain) and the first half of rule 3: a new planner reads again what another had planned, and leaves out
what the ledger has. Beside it are the transactions that can't be applied, since they depend on parked ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.chain import Chain, Verdict
from pipeline.conflicts import KeyRules
from pipeline.errors import StreamStoppedError
from pipeline.parking import ParkedKeys
from pipeline.table_copies import SupersededTables
from pipeline.window import Restart
from schemas.change_batch import ChangeBatch
from schemas.change_batch_codec import decode_batch


@dataclass(frozen=True, slots=True)
class Entry:
    """A record as it continues the stream.

    `previous_position` is where the chain stood before it. `batch` lacks what a copy supersedes; `wanted` are its
    transactions to be applied, `behind` those to be parked, with the parked positions that they depend on.
    """

    previous_position: int
    batch: ChangeBatch
    wanted: Sequence[int]
    behind: dict[int, tuple[int, ...]]


class Intake:
    """Takes the records of one stream in order, from where the ledger says."""

    def __init__(self, stream: str, start: Restart, rules: KeyRules) -> None:
        self.chain = Chain(stream, start.generation, start.watermark)
        self._stream = stream
        self._rules = rules
        self._applied_before = start.applied
        self._parked_before = [decode_batch(record) for record in start.parked]
        self._parked = self._parked_in(start.generation)
        self._superseded = SupersededTables(start.superseded)

    def take(self, batch: ChangeBatch) -> Entry:
        """Take the next record.

        Raises StreamGapError when the chain is broken, StreamStoppedError when more must be parked than can be.
        """
        before = self.chain.position
        link = self.chain.offer(batch)
        if link.verdict is Verdict.REPEAT:
            return Entry(before, batch, (), {})
        if link.verdict is Verdict.RESTART:
            before = 0
            self._parked = self._parked_in(self.chain.generation)  # the tables are copied anew
            self._superseded = SupersededTables()
        batch = self._superseded.strip(batch)
        missing = self._missing(batch, link.first)
        behind = self._behind(batch, missing)
        return Entry(before, batch, [n for n in missing if n not in behind] if behind else missing, behind)

    def renew(self, rules: KeyRules) -> None:
        """Tell by other rules from now on what depends on parked transactions."""
        self._rules = rules
        self._parked = self._parked_in(self.chain.generation)

    def _missing(self, batch: ChangeBatch, first: int) -> Sequence[int]:
        """The transactions from `first` on that are not applied."""
        applied = self._applied_before.get(batch.generation)
        indexes = range(first, len(batch.positions))
        if not applied:
            return indexes
        return [n for n in indexes if batch.positions[n] not in applied]

    def _parked_in(self, generation: int) -> ParkedKeys:
        parked = ParkedKeys(self._stream, self._rules)
        for batch in self._parked_before:
            if batch.generation == generation:
                parked.add(batch)
        return parked

    def _behind(self, batch: ChangeBatch, missing: Sequence[int]) -> dict[int, tuple[int, ...]]:
        """The transactions among `missing` that depend on parked ones, with their positions."""
        if not self._parked or not missing or batch.kind == "snapshot":
            return {}
        behind = self._parked.behind(batch, missing)
        if behind and not batch.whole:
            raise StreamStoppedError(
                f"stream {self._stream}: position {batch.last_position} is a transaction too large to be parked, and "
                f"it depends on parked position {behind[0][-1]}. Replay or discard that one (`headrace dead-letters`), "
                "then start again."
            )
        return behind
