"""Random source histories for the simulation, and what their order demands.

Some dependences are not logged, as in PostgreSQL under the default replica identity: the old value of a
unique column, and the parent that a deleted child referred to. Only the target can notice those.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from pipeline.catalogue import Catalogue, ForeignKey, TableName
from schemas.change_batch import DELETE, INSERT, TRUNCATE, UPDATE
from tests.properties.model import PUBLIC, Change, Row, Table, Transaction, catalogue, table
from tests.properties.oracle import uses

ACCOUNT = table("account", [("id", "int8"), ("n", "int8")], ("id",))
ITEM = table("item", [("id", "int8"), ("code", "text")], ("id",), uniques=(("code",),))
CHILD = table(
    "child", [("id", "int8"), ("account", "int8")], ("id",),
    foreign_keys=(ForeignKey(("account",), (PUBLIC, "account"), ("id",)),),
)  # fmt: skip
FREE_CHILD = table("child", [("id", "int8"), ("account", "int8")], ("id",))
NOTE = table("note", [("text", "text")])
CODES = ("u", "v", "w", "x")
EXCHANGES = 0.2  # under focus "codes", the share of transactions that an exchange of two codes follows

State = dict[str, dict[Row, Row]]  # table -> key -> row; of tables without a key the row is the key


@dataclass(frozen=True)
class Event:
    """A transaction in its generation; `before` are the events that must be applied before it."""

    number: int
    generation: int
    transaction: Transaction
    kind: str = "live"
    large: bool = False
    before: frozenset[int] = frozenset()

    @property
    def name(self) -> tuple[int, int]:
        """Generation and position."""
        return self.generation, self.transaction.position


@dataclass
class History:
    """A source's past: events in order, the target's state at their start, the source's at their end."""

    start: State
    end: State
    events: list[Event]
    tables: tuple[Table, ...]
    poison: frozenset[int] = frozenset()  # events that the target refuses until an operator has corrected it
    copied: frozenset[TableName] = frozenset()  # tables that are damaged at the start, and copied anew once
    superseded: frozenset[int] = frozenset()  # events of which nothing is left, since that copy comes after them
    catalogue: Catalogue = field(init=False)
    named: dict[tuple[int, int], Event] = field(init=False)

    def __post_init__(self) -> None:
        self.catalogue = catalogue(self.tables)
        self.named = {event.name: event for event in self.events}

    @property
    def generation(self) -> int:
        """The last one."""
        return self.events[-1].generation

    def of(self, generation: int) -> list[Event]:
        """The events of one generation."""
        return [event for event in self.events if event.generation == generation]


def key_in(of: Table, row: Row) -> Row:
    """The row's key in a State."""
    return of.key_of(row) if of.key else row


class Source:
    """A source database that makes valid transactions."""

    def __init__(self, rng: random.Random, child: Table, focus: str) -> None:
        self._rng = rng
        self._focus = focus
        self._child = child
        self.tables = (ACCOUNT, ITEM, child, NOTE)
        self.state: State = {of.name: {} for of in self.tables}
        for n in range(4):
            self.state["account"][(n,)] = (n, 0)
            self.state["item"][(n,)] = (n, CODES[n] if n < 2 else None)
        self.state["child"][(0,)] = (0, 1)

    def transaction(self, position: int, *, large: bool) -> Transaction:
        """The next transaction, a large one with more changes."""
        rng = self._rng
        if not large and rng.random() < 0.03:
            return Transaction(position, (self._do(Change(NOTE, TRUNCATE)),))
        count = rng.randint(5, 9) if large else rng.choice([0, 1, 1, 2, 3])
        makers = [self._account, self._account, self._item, self._item, self._item, self._children, self._note]
        if self._focus == "codes":
            makers += [self._item] * 20
        made = (rng.choice(makers)(position) for _ in range(count))
        return Transaction(position, tuple(self._do(change) for change in made if change is not None))

    def _do(self, change: Change) -> Change:
        rows = self.state[change.table.name]
        if change.op == TRUNCATE:
            rows.clear()
        if change.old is not None:
            del rows[key_in(change.table, change.old)]
        if change.new is not None:
            rows[key_in(change.table, change.new)] = change.new
        return change

    def _pick(self, of: Table) -> Row | None:
        rows = sorted(self.state[of.name].values(), key=repr)
        return self._rng.choice(rows) if rows else None

    def _account(self, position: int) -> Change | None:
        number, row = self._rng.randint(0, 7), self._pick(ACCOUNT)
        free = (number,) not in self.state["account"]
        childless = row is not None and all(child[1] != row[0] for child in self.state["child"].values())
        if row is None or (free and self._rng.random() < 0.3):
            return Change(ACCOUNT, INSERT, new=(number, position)) if free else None
        if childless and self._rng.random() < 0.5:
            if free and self._rng.random() < 0.7:
                return Change(ACCOUNT, UPDATE, row, (number, position))
            return Change(ACCOUNT, DELETE, old=row)
        return Change(ACCOUNT, UPDATE, row, (row[0], position))

    def _item(self, _: int) -> Change | None:
        taken = {row[1] for row in self.state["item"].values()}
        free = [code for code in CODES if code not in taken]
        code = self._rng.choice([None, *free])
        number, row = self._rng.randint(0, 7), self._pick(ITEM)
        if row is None or ((number,) not in self.state["item"] and self._rng.random() < 0.3):
            return Change(ITEM, INSERT, new=(number, code))
        if self._rng.random() < 0.2:
            return Change(ITEM, DELETE, old=row)
        return Change(ITEM, UPDATE, row, (row[0], code))

    def exchange(self) -> list[Change]:
        """Two items exchange their codes in three transactions.

        The first and the last are of one item, the second is of the other, and what each frees is not logged:
        two independent sets, neither of which can be applied before the other.
        """
        holders = sorted((row for row in self.state["item"].values() if row[1] is not None), key=repr)
        if len(holders) < 2:
            return []
        (one, first), (other, second) = self._rng.sample(holders, 2)
        moves = [((one, first), (one, None)), ((other, second), (other, first)), ((one, None), (one, second))]
        return [self._do(Change(ITEM, UPDATE, old, new)) for old, new in moves]

    def _children(self, _: int) -> Change | None:
        parent, number, row = self._pick(ACCOUNT), self._rng.randint(0, 5), self._pick(self._child)
        if row is not None and self._rng.random() < 0.3:
            return Change(self._child, DELETE, old=row)
        if parent is None:
            return None
        if row is not None and self._rng.random() < 0.4:
            return Change(self._child, UPDATE, row, (row[0], parent[0]))
        return Change(self._child, INSERT, new=(number, parent[0])) if (number,) not in self.state["child"] else None

    def _note(self, position: int) -> Change | None:
        text = f"{position} {len(self.state['note'])}"
        return Change(NOTE, INSERT, new=(text,)) if (text,) not in self.state["note"] else None


def make_history(rng: random.Random, transactions: int, focus: str) -> History:
    """A history with or without foreign keys, a snapshot, an earlier snapshot that was not finished.

    `focus` on "parts" makes large transactions frequent, on "codes" unique values that move, on "copies" has a table
    copied anew in the middle.
    """
    source = Source(rng, CHILD if rng.random() < 0.6 else FREE_CHILD, focus)
    start = {name: dict(rows) for name, rows in source.state.items()}
    generation, events = 1, []
    if focus != "copies" and rng.random() < 0.4:
        initial, start = start, {name: {} for name in start}
        if rng.random() < 0.5:
            events += [
                (1, each, "snapshot", False) for each in snapshot(rng, source.tables, initial)[: rng.randint(1, 4)]
            ]
            generation = 2
        events += [(generation, each, "snapshot", False) for each in snapshot(rng, source.tables, initial)]
    position, share_of_large = 100, {"parts": 0.4, "poison": 0.0}.get(focus, 0.04)
    copy_at = rng.randrange(transactions) if focus == "copies" else None
    for nth in range(transactions):
        position += rng.randint(1, 3)
        large = rng.random() < share_of_large
        events.append((generation, source.transaction(position, large=large), "live", large))
        for change in source.exchange() if focus == "codes" and rng.random() < EXCHANGES else ():
            position += 1
            events.append((generation, Transaction(position, (change,)), "live", False))
        if nth == copy_at:
            position += 1
            events.append((generation, item_copy(position, source.state), "copy", True))
    if copy_at is not None:
        return with_copy(start, source, events)
    ordered = list(in_order(events))
    live = [event.number for event in ordered if event.kind == "live" and event.transaction.changes]
    poison = rng.sample(live, min(len(live), rng.randint(1, 3))) if focus == "poison" else ()
    return History(start, source.state, ordered, source.tables, frozenset(poison))


def item_copy(position: int, state: State) -> Transaction:
    """The item table copied anew."""
    rows = sorted(state["item"].values(), key=repr)
    return Transaction(position, (Change(ITEM, TRUNCATE), *(Change(ITEM, INSERT, new=row) for row in rows)))


def with_copy(start: State, source: Source, events: Sequence[tuple[int, Transaction, str, bool]]) -> History:
    """A history whose target has lost items, and has items of its own, until they are copied anew."""
    copied = next(n for n, (_, _, kind, _) in enumerate(events) if kind == "copy")
    left = [
        (of, replace(tx, changes=tuple(c for c in tx.changes if n >= copied or c.table is not ITEM)), kind, large)
        for n, (of, tx, kind, large) in enumerate(events)
    ]
    ordered = [replace(event, transaction=events[n][1]) for n, event in enumerate(in_order(left))]
    superseded = frozenset(n for n, (_, tx, _, _) in enumerate(left) if not tx.changes)
    for lost in ((0,), (2,)):
        start["item"].pop(lost, None)
    start["item"][(9,)] = (9, "u")
    return History(
        start, source.state, ordered, source.tables, copied=frozenset([ITEM.relation.name]), superseded=superseded
    )


def snapshot(rng: random.Random, tables: Sequence[Table], state: State) -> list[Transaction]:
    """The parts of a snapshot: emptied tables, then the rows in chunks."""
    found = [Transaction(1, tuple(Change(of, TRUNCATE) for of in tables))]
    for of in tables:
        rows = sorted(state[of.name].values(), key=repr)
        while rows:
            size = rng.randint(1, 3)
            found.append(Transaction(len(found) + 1, tuple(Change(of, INSERT, new=row) for row in rows[:size])))
            rows = rows[size:]
    return found


def in_order(events: Iterable[tuple[int, Transaction, str, bool]]) -> Iterable[Event]:
    """Number the events and say what must come before each, from the keys that they are known to take."""
    writers: dict[object, int] = {}
    readers: dict[object, list[int]] = defaultdict(list)
    barrier: int | None = None
    since_barrier: list[int] = []
    loaded: list[int] = []
    generation = 0
    for number, (of, transaction, kind, large) in enumerate(events):
        if of != generation:
            # What an unfinished snapshot has left is not waited for; it must not come later either.
            generation, barrier = of, None
            since_barrier, loaded = [], []
        before = {barrier} if barrier is not None else set()
        if transaction.truncates:
            before |= set(since_barrier)
            barrier, since_barrier = number, []
        elif kind == "snapshot":
            loaded.append(number)
        else:
            before |= set(loaded)
        if kind == "live":
            modes: dict[object, bool] = {}
            for change in transaction.changes:
                for key, written in uses(change) if change.op != TRUNCATE else ():
                    modes[key] = modes.get(key, False) or written
            for key, written in modes.items():
                before |= {writers[key]} if key in writers else set()
                if written:
                    before |= set(readers.pop(key, ()))
                    writers[key] = number
                else:
                    readers[key].append(number)
        if transaction.changes:
            since_barrier.append(number)
        yield Event(number, of, transaction, kind, large, frozenset(before - {number}))
