"""A source, its log, and a target that applies in any order and sets aside what it refuses; drawn from a seed."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from pipeline.builder import BatchBuilder
from pipeline.cache.view import TargetView
from schemas.change_batch import DELETE, INSERT, TRUNCATE, UPDATE, Relation
from schemas.change_batch_codec import encode_batch
from schemas.rows import pack_fields
from tests.properties.model import Change, Row, Table, fields, pack_change, table

NAME = ("public", "t")
ALL = (("id", "int8"), ("note", "text"), ("n", "int4"), ("more", "text"))


def numbered(*numbers: int, oid: int = 1) -> Table:
    """The table with as many columns, numbered as its source does."""
    made = table("t", ALL[: len(numbers)], ("id",))
    pairs = zip(made.relation.columns, numbers, strict=True)
    columns = tuple(replace(column, number=number, modifier=number + 4) for column, number in pairs)
    return replace(made, relation=replace(made.relation, columns=columns, oid=oid))


NARROW = numbered(1, 2, 3)
WIDE = numbered(1, 2, 3, 4)  # `more` was added
FRESH = numbered(1, 5, 3, 4)  # `note` was dropped, and another of its name and type was added
REBORN = numbered(1, 2, 3, 4, oid=2)  # the table was renamed, and one of its name created
NEXT = {NARROW: (WIDE,), WIDE: (FRESH, REBORN), FRESH: (REBORN,), REBORN: ()}


def unnumbered(relation: Relation) -> Relation:
    """A table as the target has it."""
    columns = tuple(replace(column, number=0, modifier=-1) for column in relation.columns)
    return replace(relation, columns=columns, oid=0)


TARGET = unnumbered(NARROW.relation)
KEYS = range(8)
State = dict[int, Row]


def altered(state: State, to: Table) -> State:
    """What becomes of the rows that are there when their table becomes `to`; no record of the log tells it."""
    if to is REBORN:
        return {}
    return {key: (*row, None) if to is WIDE else (row[0], None, *row[2:]) for key, row in state.items()}


def fits(state: State, change: Change) -> bool:
    """Whether the target can apply a change; what it can't becomes a dead letter."""
    if change.old is not None and change.old[0] not in state:
        return False
    return (
        change.new is None or change.new[0] not in state or (change.old is not None and change.old[0] == change.new[0])
    )


def apply_change(state: State, change: Change) -> None:
    """What the target does; columns that the source left out stay as they are."""
    if change.op == TRUNCATE:
        state.clear()
    before = state.pop(int(change.old[0] or 0)) if change.old is not None else None
    if change.new is not None:
        row = tuple(before[n] if before and n in change.left_out else v for n, v in enumerate(change.new))
        state[int(change.new[0] or 0)] = row


@functools.cache
def key_bytes(key: int) -> bytes:
    return pack_fields(fields((key,), Relation(0, "", "", "d", NARROW.relation.columns[:1])))


@dataclass
class Txn:
    """A source transaction."""

    position: int
    changes: tuple[Change, ...]
    table: Table

    @property
    def keys(self) -> set[int]:
        """The keys it touches; all of them for a TRUNCATE."""
        if any(change.op == TRUNCATE for change in self.changes):
            return set(range(8))
        return {int(row[0] or 0) for c in self.changes for row in (c.old, c.new) if row is not None}


class Databases:
    """One source, one log, one target with its dead letters."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.table = NARROW
        self.state: State = {}
        self.history: list[Txn] = []
        self.log: list[bytes] = []
        self.position = 0
        self.applied: set[int] = set()
        self.watermark = 0
        self.parked: set[int] = set()
        self.discarded: set[int] = set()
        self.letters = self.dice.random() < 0.5  # dead letters, or changes of columns and lost commits
        self.known: dict[int, State] = {}  # states at positions, while no letter is parked or settled
        self.commit_snapshot()

    # ---- the source and its log ------------------------------------------------------------------

    def commit_snapshot(self) -> None:
        """A part that empties the table, and one of rows, both without keys."""
        columns = tuple(replace(column, key=False) for column in NARROW.relation.columns)
        keyless = replace(NARROW, relation=replace(NARROW.relation, identity="n", columns=columns))
        rows = [(key, "old", 0) for key in self.dice.sample(KEYS, 4)]
        for changes in ([Change(keyless, TRUNCATE)], [Change(keyless, INSERT, None, row) for row in rows]):
            self.commit_changes(changes, kind="snapshot")

    def commit_changes(self, *transactions: list[Change], kind: str = "live") -> None:
        builder = BatchBuilder("s", 1, self.position)
        for changes in transactions:
            self.position += 10
            tx = builder.begin(self.position, 0, 0)
            for change in changes:
                pack_change(builder, tx, change)
                apply_change(self.state, change)
            self.history.append(Txn(self.position, tuple(changes), self.table))
        self.log.append(encode_batch(builder.close(kind, self.position, 0)))

    def draw_change(self, state: State) -> Change:
        op = self.dice.choice([INSERT, INSERT, UPDATE, UPDATE, UPDATE, DELETE, TRUNCATE])
        key = self.dice.choice(KEYS)
        note, n = self.dice.choice(["x", "y", "zzzz" * 40]), self.dice.randint(0, 3)
        rest = (note, n, "m")[: len(self.table.relation.columns) - 1]
        if op == TRUNCATE and self.dice.random() < 0.2:
            state.clear()
            return Change(self.table, TRUNCATE)
        if key not in state:
            state[key] = (key, *rest)
            return Change(self.table, INSERT, None, state[key])
        old = state.pop(key)
        if op == DELETE:
            return Change(self.table, DELETE, old)
        to = self.dice.choice(KEYS) if self.dice.random() < 0.3 else key
        to = key if to in state else to
        left_out = frozenset({1}) if self.dice.random() < 0.4 else frozenset()
        state[to] = (to, old[1] if left_out else note, *rest[1:])
        return Change(self.table, UPDATE, old, state[to], left_out)

    def commit(self) -> None:
        state = dict(self.state)
        counts = [self.dice.randint(0, 3) for _ in range(self.dice.randint(1, 3))]
        self.commit_changes(*[[self.draw_change(state) for _ in range(count)] for count in counts])

    def alter_table(self) -> None:
        """The rows that are there get a value that no record tells."""
        if not NEXT[self.table] or self.letters:
            return
        self.table = self.dice.choice(NEXT[self.table])
        self.state = altered(self.state, self.table)
        key = next(key for key in range(99) if key not in self.state)
        self.commit_changes([Change(self.table, INSERT, None, (key, "new", 1, "m"))])

    def beat(self) -> None:
        """The source says that it has committed nothing for a while."""
        self.log.append(encode_batch(BatchBuilder("s", 1, self.position).close("live", self.position + 5, 0)))

    # ---- the target ------------------------------------------------------------------------------

    def apply(self) -> None:
        """Apply transactions whose earlier neighbours are applied, in any order."""
        for _ in range(self.dice.randint(1, 5)):
            waiting = [txn for txn in self.history if not self.has(txn.position)]
            if not waiting:
                return
            free = [
                txn for n, txn in enumerate(waiting)
                if all(not txn.keys & other.keys and txn.table is other.table for other in waiting[:n])
            ]  # fmt: skip
            txn = self.dice.choice(free)
            if self.letters and (self.dice.random() < 0.04 or not self.can_apply(txn)):
                self.park(txn)
            self.applied.add(txn.position)

    def can_apply(self, txn: Txn) -> bool:
        """Whether no letter is before it, and the target has the rows that it changes."""
        letters = [other for other in self.history if other.position in self.parked]
        if any(txn.keys & other.keys for other in letters if other.position < txn.position):
            return False
        state, _ = self.target_state()
        for change in txn.changes:
            if not fits(state, change):
                return False
            apply_change(state, change)
        return True

    def park(self, txn: Txn) -> None:
        """The transaction counts as applied, and the target does not have it."""
        self.parked.add(txn.position)
        self.known.clear()

    def settle(self) -> None:
        """Replay or discard the oldest letter."""
        if not self.parked:
            return
        position = min(self.parked)
        (txn,) = [txn for txn in self.history if txn.position == position]
        can_apply = self.can_apply(txn)
        self.parked.discard(position)
        if self.dice.random() < 0.5 or not can_apply:
            self.discarded.add(position)
        self.known.clear()

    def has(self, position: int) -> bool:
        return position <= self.watermark or position in self.applied

    def advance(self) -> None:
        """Move the watermark over what is applied without a gap."""
        for txn in self.history:
            if not self.has(txn.position):
                break
            self.watermark = max(self.watermark, txn.position)
        self.applied = {position for position in self.applied if position > self.watermark}

    def crash_target(self) -> None:
        """Asynchronous commits are lost: the newest ones in commit order, so what depends on them too."""
        if self.letters:
            return
        keep = self.dice.randint(0, len(self.applied))
        self.applied = set(sorted(self.applied)[:keep])

    def view(self) -> TargetView:
        discarded = max(self.discarded, default=0)
        return TargetView(1, self.watermark, frozenset(self.applied), frozenset(self.parked), discarded)

    def target_state(self) -> tuple[State, Table]:
        """What the target has, and in which columns."""
        return self.fold(lambda txn: self.has(txn.position) and txn.position not in self.parked)

    def fold(self, wanted: Callable[[Txn], bool]) -> tuple[State, Table]:
        """Rows and columns after the wanted transactions, without those that were discarded."""
        state: State = {}
        now = NARROW
        for txn in self.history:
            if wanted(txn) and txn.position not in self.discarded:
                if txn.table is not now:
                    now = txn.table
                    state = altered(state, now)
                for change in txn.changes:
                    apply_change(state, change)
        return state, now

    def wait_for_discarded(self) -> None:
        """A node begins once the watermark has passed what was discarded."""
        while self.watermark < max(self.discarded, default=0):
            self.apply()
            self.advance()

    def target_relation(self) -> Relation:
        """The target's columns, which have no numbers of the source."""
        return unnumbered(self.target_state()[1].relation)

    def state_at(self, position: int) -> State:
        """The source's rows at a position, without what dead letters have changed."""
        if position not in self.known:
            self.known[position], _ = self.fold(lambda t: t.position <= position and t.position not in self.parked)
        return self.known[position]
