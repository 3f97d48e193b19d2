"""Parking: a transaction that the target refuses is kept as a dead letter, and what depends on it behind it.

Dependence is conflict over keys (`pipeline.conflicts`) in source order: a later transaction that shares a key
with a parked one, which either of them writes, would find rows that are not there, or change them out of
order. Whatever depends on a parked transaction is parked too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.catalogue import TableName
from pipeline.conflicts import KeyRules
from pipeline.errors import StreamStoppedError
from pipeline.keyspaces import COARSE, Keyspace
from pipeline.slicing import select, without_truncates
from pipeline.touched_keys import keys_of
from schemas.change_batch import TRUNCATE, ChangeBatch, Relation

# A planner holds the parked transactions in memory, and reads them at each takeover.
PARKED_TRANSACTIONS_MAX = 10_000
PARKED_BYTES_MAX = 64 * 1024 * 1024
BEHIND_MAX = 10  # positions that a dead letter names: the latest ones

_Key = tuple[Keyspace, bytes]
_Uses = dict[_Key, bool]  # key -> whether it is written
_Positions = dict[_Key, list[int]]
_WHOLE = ("*table*",)  # the keyspace of a table as a whole: a TRUNCATE writes it, every change reads it


class ParkedKeys:
    """The keys of parked transactions (of one generation), which tell what has to be parked behind them.

    `bounded`: more than a planner should hold are an error.
    """

    def __init__(self, stream: str, rules: KeyRules, *, bounded: bool = True) -> None:
        self._bounded = bounded
        self._stream = stream
        self._rules = rules
        self._batches: list[ChangeBatch] = []
        self._count = 0
        self._bytes = 0
        self._version = rules.version
        self._relations: dict[TableName, Relation] = {}
        self._written: _Positions = {}
        self._read: _Positions = {}

    def __len__(self) -> int:
        return self._count

    def add(self, batch: ChangeBatch) -> None:
        """Enter parked transactions. Raises StreamStoppedError when there are too many to go on."""
        for section in batch.sections:
            self._relations.setdefault(section.relation.name, section.relation)
        self._keep(batch)
        self._note(batch, self._uses(batch))

    def behind(self, batch: ChangeBatch, transactions: Sequence[int]) -> dict[int, tuple[int, ...]]:
        """Return index -> parked positions that it depends on, for those of `transactions` that do, in order.

        They are entered, so those after them depend on them: the caller must park them. Raises
        StreamStoppedError when there are too many to go on.
        """
        if not self._count:
            return {}
        uses = self._uses(batch)
        self._follow_rules()
        found: dict[int, tuple[int, ...]] = {}
        for tx in transactions:
            position = batch.positions[tx]
            on = {other for key, written in uses[tx].items() for other in self._users(key, written=written)}
            earlier = sorted(other for other in on if other < position)
            if earlier:
                found[tx] = tuple(earlier[-BEHIND_MAX:])
                self._enter(position, uses[tx])
        if found:
            self._keep(select(batch, list(found)))
        return found

    def _keep(self, batch: ChangeBatch) -> None:
        self._batches.append(batch)
        self._count += len(batch.positions)
        self._bytes += sum(len(section.rows) + len(section.keys) for section in batch.sections)
        over = self._count > PARKED_TRANSACTIONS_MAX or self._bytes > PARKED_BYTES_MAX
        if over and self._bounded:
            raise StreamStoppedError(
                f"stream {self._stream}: {self._count:,} transactions of {self._bytes:,} bytes are parked, over the "
                f"limit of {PARKED_TRANSACTIONS_MAX:,} or {PARKED_BYTES_MAX:,} bytes. Correct the target, then run "
                "`headrace dead-letters replay` or `discard`, and start again."
            )

    def _follow_rules(self) -> None:
        """Derive the keys anew while they don't compare with those of newer batches."""
        while self._version != self._rules.version:
            self._version = self._rules.version
            self._written.clear()
            self._read.clear()
            for batch in self._batches:
                self._note(batch, self._uses(batch))

    def _note(self, batch: ChangeBatch, all_uses: Sequence[_Uses]) -> None:
        for position, uses in zip(batch.positions, all_uses, strict=True):
            self._enter(position, uses)

    def _enter(self, position: int, uses: _Uses) -> None:
        for key, written in uses.items():
            (self._written if written else self._read).setdefault(key, []).append(position)

    def _users(self, key: _Key, *, written: bool) -> Iterator[int]:
        yield from self._written.get(key, ())
        if written:
            yield from self._read.get(key, ())

    def _uses(self, batch: ChangeBatch) -> list[_Uses]:
        """The keys of each transaction of `batch`."""
        for section in batch.sections:
            self._rules.uses(section.relation)  # all first: one relation may change what another's keys are
        found: list[_Uses] = [{} for _ in batch.positions]
        for section in batch.sections:
            relation = section.relation
            # Rows of a table that has changed its columns meanwhile don't compare by key.
            changed = self._relations.get(relation.name, relation) != relation
            whole: _Key = ((relation.name, _WHOLE), COARSE)
            for tx, op in zip(section.tx, section.ops, strict=True):
                _use(found[tx], whole, written=changed or op == TRUNCATE)
            rows = without_truncates(section)
            for use in self._rules.uses(relation):
                for tx, key in keys_of(rows, use):
                    _use(found[tx], (use.space, key), written=use.exclusive)
        return found


def _use(uses: _Uses, key: _Key, *, written: bool) -> None:
    uses[key] = written or uses.get(key, False)


@dataclass(frozen=True, slots=True)
class Parked:
    """A transaction to be kept as a dead letter: the batch holds it alone."""

    batch: ChangeBatch
    sqlstate: str
    error: str
    behind: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the target refuses a transaction."""

    sqlstate: str
    error: str


BEHIND = "HR004"  # the sqlstate of what is parked behind something else


def parked_behind(batch: ChangeBatch, tx: int, positions: tuple[int, ...]) -> Parked:
    """Transaction `tx` of `batch`, parked behind `positions`."""
    names = ", ".join(map(str, positions))
    return Parked(
        select(batch, [tx]), BEHIND, f"depends on parked position{'s' * (len(positions) > 1)} {names}", positions
    )


def settle_in_order(
    batch: ChangeBatch, parked: ParkedKeys, write: Callable[[ChangeBatch], Refusal | None]
) -> list[Parked]:
    """Write the transactions of `batch` one by one; return those that were refused, and those behind them.

    `write` gets a batch with one transaction and leaves nothing of a refused one.
    """
    found: list[Parked] = []
    for tx in range(len(batch.positions)):
        behind = parked.behind(batch, [tx])
        if behind:
            found.append(parked_behind(batch, tx, behind[tx]))
            continue
        one = select(batch, [tx])
        refusal = write(one)
        if refusal is not None:
            parked.add(one)
            found.append(Parked(one, refusal.sqlstate, refusal.error))
    return found
