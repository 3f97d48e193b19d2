"""The target of the simulation: rows, constraints and the ledger, committed together.

It checks what Headrace promises, at every commit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pipeline import fence
from pipeline.catalogue import TableName
from pipeline.conflicts import KeyRules
from pipeline.fence import Fenced, LaneRow
from pipeline.parking import ParkedKeys, Refusal, settle_in_order
from pipeline.slicing import select
from pipeline.window import Restart
from schemas.apply_unit import LANES_MAX
from schemas.change_batch import DELETE, INSERT, TRUNCATE, ChangeBatch, iter_order
from schemas.change_batch_codec import encode_batch
from tests.properties.model import Row, Table, Transaction, unpack_key, unpack_row
from tests.properties.oracle import conflict
from tests.simulation.history import Event, History, State, key_in


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


def needs(later: Transaction, earlier: Transaction) -> bool:
    """Whether the later transaction touches what the earlier one writes, or writes what it touches."""
    if later.truncates or earlier.truncates:
        tables = [{change.table.name for change in each.changes} for each in (later, earlier)]
        return bool(tables[0] & tables[1])
    return conflict(later, earlier)


class Target:
    """Rows and ledger of one stream."""

    def __init__(self, history: History, *, enforce_foreign_keys: bool) -> None:
        self.state: State = {name: dict(rows) for name, rows in history.start.items()}
        self.epoch = 0
        self.watermark = (1 if history.copied else 0, 0)  # generation, position; copies are asked for later
        self.rows = [LaneRow(0, 0, 0) for _ in range(LANES_MAX)]
        self.applied: set[tuple[int, int]] = set()  # above the watermark
        self.done: set[int] = set()  # numbers of all events ever applied
        self.parked: dict[tuple[int, int], ChangeBatch] = {}  # dead letters
        self.closed = False  # dead letters have changed: nothing more is admitted in this epoch
        self.copying: dict[TableName, int | None] = dict.fromkeys(history.copied)  # table -> position of its copy
        self._kept: set[int] = set()  # numbers of the parked events
        self._corrected = False
        self._history = history
        self._enforce = enforce_foreign_keys

    # -- rule 3 ---------------------------------------------------------------------------------

    def takeover(self) -> Restart:
        """Raise the epoch and tell where to start."""
        self.epoch += 1
        self.closed = False
        self.rows = [LaneRow(self.epoch, 0, row.next_offset) for row in self.rows]
        above: dict[int, set[int]] = {}
        for generation, position in self.applied:
            above.setdefault(generation, set()).add(position)
        generation, watermark = self.watermark
        letters = [encode_batch(batch) for name, batch in sorted(self.parked.items()) if name[0] >= generation]
        applied = {g: frozenset(found) for g, found in above.items()}
        return Restart(self.epoch, generation, watermark, applied, letters, superseded=dict(self.copying))

    def advance(self, epoch: int, generation: int, position: int) -> bool:
        """Move the watermark; whether `epoch` still rules."""
        if epoch != self.epoch or (generation, position) < self.watermark:
            return False
        self.watermark = (generation, position)
        for event in self._history.of(generation):
            if event.transaction.position <= position and event.transaction.changes and not self._settled(event):
                raise BrokenPromiseError(f"the watermark {self.watermark} passed {event.name}, which is not applied")
        self.applied = {name for name in self.applied if name > self.watermark}
        self.copying = {name: at for name, at in self.copying.items() if at is None or at > position}
        return True

    # -- rule 2 ---------------------------------------------------------------------------------

    def apply(self, group: Group) -> Fenced | None:
        """Apply and commit; the fence's verdict when it refuses. Raises RefusedError."""
        fenced = self._fence(group)
        if fenced is None:
            with self._all_or_nothing():
                for batch in group.batches:
                    self._write(batch)
            self._commit(group, [])
        return fenced

    def park(self, group: Group) -> Fenced | None:
        """Keep all transactions of the group as dead letters."""
        fenced = self._fence(group)
        if fenced is None:
            self._commit(group, [select(batch, [n]) for batch in group.batches for n in range(len(batch.positions))])
        return fenced

    def apply_or_park(self, group: Group) -> Fenced | None:
        """Apply one by one, and keep what is refused and what depends on it; nothing more in this epoch then."""
        fenced = self._fence(group)
        if fenced is None:
            keys = ParkedKeys("s", KeyRules(self._history.catalogue))
            parked = [each.batch for batch in group.batches for each in settle_in_order(batch, keys, self._try)]
            self._commit(group, parked)
            self.closed = bool(parked)
        return fenced

    def replay(self) -> int:
        """Apply the dead letters at or below the watermark, in order, and close the epoch; how many there were."""
        self._corrected = True
        letters = sorted(name for name in self.parked if name <= self.watermark)
        for name in letters:
            try:
                self._write(self.parked.pop(name))
            except RefusedError as error:
                raise BrokenPromiseError(f"dead letter {name} is refused in its place: {error}") from error
            self._kept.discard(self._history.named[name].number)
            self.done.add(self._history.named[name].number)
        self.closed = True
        return len(letters)

    def _try(self, batch: ChangeBatch) -> Refusal | None:
        try:
            with self._all_or_nothing():
                self._write(batch)
        except RefusedError as error:
            return Refusal("23505", str(error))
        return None

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        kept = {name: dict(rows) for name, rows in self.state.items()}
        try:
            yield
        except RefusedError:
            self.state = kept
            raise

    def _fence(self, group: Group) -> Fenced | None:
        row = self.rows[group.lane]
        if fence.admits(row, group.epoch, group.first_seq) and not self.closed:
            return None
        return fence.judge(row, group.epoch, group.first_seq, group.last_seq)

    def _commit(self, group: Group, parked: Sequence[ChangeBatch]) -> None:
        self.rows[group.lane] = LaneRow(group.epoch, group.last_seq, group.next_offset)
        letters = {(batch.generation, batch.last_position): batch for batch in parked}
        if any(batch.table_copy for batch in group.batches):
            self.copying = dict.fromkeys(self.copying, group.batches[-1].last_position)
        for batch in group.batches:
            if batch.last_part:
                for position in batch.positions:
                    letter = letters.get((batch.generation, position))
                    self._note(batch.generation, position, parked=letter is not None)
        self.parked |= letters

    def _settled(self, event: Event) -> bool:
        return event.number in self.done or event.number in self._kept or event.number in self._history.superseded

    def _note(self, generation: int, position: int, *, parked: bool) -> None:
        event = self._history.named.get((generation, position))
        if event is None:
            raise BrokenPromiseError(f"({generation}, {position}) is no transaction of the source")
        if event.number in self._history.superseded:
            self.applied.add(event.name)
            return
        if self._settled(event):
            raise BrokenPromiseError(f"{event.name} was applied twice")
        self.applied.add(event.name)
        if parked:
            self._kept.add(event.number)
            return
        for number in self._kept:
            earlier = self._history.events[number]
            if number < event.number and needs(event.transaction, earlier.transaction):
                raise BrokenPromiseError(f"{event.name} was applied, though {earlier.name} before it is parked")
        missing = set(event.before - self.done - self._kept)
        if self._history.poison:  # a TRUNCATE that is to be parked is no barrier for other tables
            events = self._history.events
            missing = {n for n in missing if needs(event.transaction, events[n].transaction)}
        if missing:
            raise BrokenPromiseError(f"{event.name} was applied before {sorted(missing)}, which it depends on")
        if any(self._history.events[number].generation > generation for number in self.done):
            raise BrokenPromiseError(f"{event.name} was applied after a newer generation had begun")
        self.done.add(event.number)

    # -- rows -----------------------------------------------------------------------------------

    def _write(self, batch: ChangeBatch) -> None:
        poison = () if self._corrected else self._history.poison
        for position in batch.positions:
            event = self._history.named.get((batch.generation, position))
            if event is not None and event.number in poison:
                raise RefusedError(f"{event.name} is poison")
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
