"""The target of the simulation: rows, constraints and the ledger, committed together.

It checks what Headrace promises, at every commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline import fence
from pipeline.fence import Fenced, LaneRow
from pipeline.planner import Restart
from schemas.apply_unit import LANES_MAX
from schemas.change_batch import DELETE, INSERT, TRUNCATE, ChangeBatch, iter_order
from tests.properties.model import Row, Table, unpack_key, unpack_row
from tests.simulation.history import History, State, key_in


class BrokenPromiseError(AssertionError):
    """Something that must never happen."""


class RefusedError(Exception):
    """A constraint refuses the rows."""


@dataclass(frozen=True)
class Group:
    """Units of one lane for one target transaction."""

    lane: int
    epoch: int
    first_seq: int
    last_seq: int
    next_offset: int
    batches: Sequence[ChangeBatch]


class Target:
    """Rows and ledger of one stream."""

    def __init__(self, history: History, *, enforce_foreign_keys: bool) -> None:
        self.state: State = {name: dict(rows) for name, rows in history.start.items()}
        self.epoch = 0
        self.watermark = (0, 0)  # generation, position
        self.rows = [LaneRow(0, 0, 0) for _ in range(LANES_MAX)]
        self.applied: set[tuple[int, int]] = set()  # above the watermark
        self.done: set[int] = set()  # numbers of all events ever applied
        self._history = history
        self._enforce = enforce_foreign_keys

    # -- rule 3 ---------------------------------------------------------------------------------

    def takeover(self) -> Restart:
        """Raise the epoch and tell where to start."""
        self.epoch += 1
        self.rows = [LaneRow(self.epoch, 0, row.next_offset) for row in self.rows]
        above: dict[int, set[int]] = {}
        for generation, position in self.applied:
            above.setdefault(generation, set()).add(position)
        generation, watermark = self.watermark
        return Restart(self.epoch, generation, watermark, {g: frozenset(found) for g, found in above.items()})

    def advance(self, epoch: int, generation: int, position: int) -> bool:
        """Move the watermark; whether `epoch` still rules."""
        if epoch != self.epoch or (generation, position) < self.watermark:
            return False
        self.watermark = (generation, position)
        for event in self._history.of(generation):
            if event.transaction.position <= position and event.transaction.changes and event.number not in self.done:
                raise BrokenPromiseError(f"the watermark {self.watermark} passed {event.name}, which is not applied")
        self.applied = {name for name in self.applied if name > self.watermark}
        return True

    # -- rule 2 ---------------------------------------------------------------------------------

    def apply(self, group: Group) -> Fenced | None:
        """Apply and commit; the fence's verdict when it refuses. Raises RefusedError."""
        row = self.rows[group.lane]
        if not fence.admits(row, group.epoch, group.first_seq):
            return fence.judge(row, group.epoch, group.first_seq, group.last_seq)
        kept = {name: dict(rows) for name, rows in self.state.items()}
        try:
            for batch in group.batches:
                self._write(batch)
        except RefusedError:
            self.state = kept
            raise
        self.rows[group.lane] = LaneRow(group.epoch, group.last_seq, group.next_offset)
        for batch in group.batches:
            if batch.last_part:
                for position in batch.positions:
                    self._note(batch.generation, position)
        return None

    def _note(self, generation: int, position: int) -> None:
        event = self._history.named.get((generation, position))
        if event is None:
            raise BrokenPromiseError(f"({generation}, {position}) is no transaction of the source")
        if event.number in self.done:
            raise BrokenPromiseError(f"{event.name} was applied twice")
        if missing := event.before - self.done:
            raise BrokenPromiseError(f"{event.name} was applied before {sorted(missing)}, which it depends on")
        if any(self._history.events[number].generation > generation for number in self.done):
            raise BrokenPromiseError(f"{event.name} was applied after a newer generation had begun")
        self.done.add(event.number)
        self.applied.add(event.name)

    # -- rows -----------------------------------------------------------------------------------

    def _write(self, batch: ChangeBatch) -> None:
        for _, number, row in iter_order(batch):
            section = batch.sections[number]
            of = next(each for each in self._history.tables if each.relation == section.relation)
            rows, op = self.state[of.name], section.ops[row]
            if op == TRUNCATE:
                rows.clear()
                continue
            key = unpack_key(section.key_list()[row], of.relation)
            if op != INSERT:
                old = section.old_key_map().get(row)
                self._remove(
                    of, key if old is None else unpack_key(old, of.relation), gone=op == DELETE or old is not None
                )
            if op != DELETE:
                self._add(of, unpack_row(section.row_list()[row], of.relation))

    def _remove(self, of: Table, key: Row, *, gone: bool) -> None:
        if self.state[of.name].pop(key, None) is None:
            raise RefusedError(f"{of.name} {key} is not there")
        needed = of.name == "account" and any(child[1] == key[0] for child in self.state["child"].values())
        if gone and self._enforce and needed:
            raise RefusedError(f"account {key} has children")

    def _add(self, of: Table, row: Row) -> None:
        rows = self.state[of.name]
        key = key_in(of, row)
        if key in rows:
            raise RefusedError(f"{of.name} {key} is there already")
        if of.name == "item" and row[1] is not None and any(other[1] == row[1] for other in rows.values()):
            raise RefusedError(f"code {row[1]} is taken")
        if self._enforce and of.target.foreign_keys and (row[1],) not in self.state["account"]:
            raise RefusedError(f"child {key} has no account {row[1]}")
        rows[key] = row
