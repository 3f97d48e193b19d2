"""Table priorities: critical, high, normal, low. Each class that has tables has a lane of its own, normal the rest.

A transaction is as urgent as its most urgent table; an independent set is as urgent as its least urgent
transaction, since it is applied as a whole. A set that depends on what is in flight in a less urgent lane
goes there: it has to come after that anyway, and must not block the express lane meanwhile. So a class
waits for more urgent ones only, which are quick. Lanes run side by side; where they compete for the next
target transaction the more urgent goes first, and waiting raises a lane's rank, so that none starves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from pipeline.catalogue import TableName
from pipeline.inflight import LaneSeqs
from pipeline.lanes import Preference, assign
from schemas.change_batch import ChangeBatch

CLASSES = ("critical", "high", "normal", "low")
NORMAL = CLASSES.index("normal")
AGEING_S = 0.02  # of waiting raise a lane by one class: low yields to critical for 60 ms at most


def lanes_needed(patterns: Mapping[str, Sequence[str]]) -> int:
    """Lanes that these priorities need: one for each class with tables, and one for the rest."""
    return 1 + sum(bool(patterns.get(name)) for name in CLASSES if name != "normal")


def may_begin(rank: int, waited_s: float, others: Iterable[int]) -> bool:
    """Whether a lane of class `rank` that has waited so long may begin, while `others` are ready or at work."""
    return all(rank - waited_s / AGEING_S <= other for other in others)


class Priorities:
    """The classes of one stream. `patterns`: class -> shell-style patterns on `schema.table`."""

    def __init__(self, patterns: Mapping[str, Sequence[str]], lanes: int) -> None:
        self._patterns = [(rank, patterns[name]) for rank, name in enumerate(CLASSES) if patterns.get(name)]
        self._ranks: dict[TableName, int] = {}
        own = [rank for rank, _ in reversed(self._patterns) if rank != NORMAL]
        self.normal_lanes = lanes - len(own)
        if self.normal_lanes < 1:
            raise ValueError(f"{lanes} lanes for {len(own)} classes and the rest")
        self.rank_of_lane = [*[NORMAL] * self.normal_lanes, *own]
        self._lanes_of = {
            rank: [lane for lane, r in enumerate(self.rank_of_lane) if r == rank] for rank in {*own, NORMAL}
        }

    def __bool__(self) -> bool:
        """Whether there is more than one class."""
        return self.normal_lanes < len(self.rank_of_lane)

    def rank(self, table: TableName) -> int:
        """Index of a table's class: the most urgent one with a pattern for it, else normal."""
        found = self._ranks.get(table)
        if found is None:
            dotted = ".".join(table)
            matching = (rank for rank, patterns in self._patterns if any(fnmatchcase(dotted, p) for p in patterns))
            found = self._ranks[table] = next(matching, NORMAL)
        return found

    def ranks(self, batch: ChangeBatch) -> list[int]:
        """The class of each transaction in `batch`."""
        found: list[int | None] = [None] * len(batch.positions)
        for section in batch.sections:
            rank = self.rank(section.relation.name)
            for tx in section.tx:
                before = found[tx]
                found[tx] = rank if before is None else min(rank, before)
        return [NORMAL if rank is None else rank for rank in found]

    def assign(
        self, batch: ChangeBatch, components: dict[int, list[int]], dependencies: dict[int, LaneSeqs],
        loads: Sequence[int], active: int, prefer: Preference | None = None,
    ) -> tuple[dict[int, int], dict[int, LaneSeqs]]:  # fmt: skip
        """As `pipeline.lanes.assign`, class by class; `loads` are those of all lanes, `active` counts normal ones."""
        ranks = self.ranks(batch)
        classes: dict[int, list[int]] = {}
        for name, transactions in components.items():
            behind = [self.rank_of_lane[lane] for lane in dependencies.get(name, {})]
            rank = max([*(ranks[tx] for tx in transactions), *behind])
            classes.setdefault(rank if rank in self._lanes_of else NORMAL, []).append(name)
        lane_of: dict[int, int] = {}
        waits: dict[int, LaneSeqs] = {}
        for rank, names in classes.items():
            lanes = self._lanes_of[rank][:active] if rank == NORMAL else self._lanes_of[rank]
            chosen = {name: components[name] for name in names}
            bound = {name: dependencies[name] for name in names if name in dependencies}
            own = {lane: loads[lane] for lane in lanes}
            found, needed = assign(chosen, bound, own, prefer if rank == NORMAL else None)
            lane_of.update(found)
            waits.update(needed)
        return lane_of, waits
