"""The makespan of a plan in a simulation of the lanes, in microseconds: Headrace's and those of its rivals.

Each transaction has a duration of its own. Headrace's plans come from the real planner; a lane merges what is queued.
The rivals are level barriers (a transaction's level is one above its dependencies', a level begins when the one before
has ended, a window after the other) and key-hash partitioning (a key belongs to a lane; a transaction with keys of
several lanes waits until all of them are free, keeps them all, and commits alone).
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable

from benchmarks.keyed_windows import Keys, make_planner, to_batches
from pipeline.planner import Planner
from schemas.apply_unit import LANES_MAX, ApplyUnit
from schemas.change_batch_codec import decode_batch, encode_batch

WINDOW = 1000


def _levels(keys: Keys, costs_us: list[float], commit_us: float) -> float:
    """Level after level, each spread over the lanes (longest first), one commit a lane and level."""
    total = 0.0
    for start in range(0, len(keys), WINDOW):
        level_of: dict[int, int] = {}
        levels: list[list[float]] = []
        for touched, cost in zip(keys[start : start + WINDOW], costs_us[start : start + WINDOW], strict=True):
            level = max((level_of.get(key, -1) for key in touched), default=-1) + 1
            level_of.update(dict.fromkeys(touched, level))
            if level == len(levels):
                levels.append([])
            levels[level].append(cost)
        for costs in levels:
            lanes = [0.0] * min(LANES_MAX, len(costs))
            for cost in sorted(costs, reverse=True):
                heapq.heapreplace(lanes, lanes[0] + cost)
            total += max(lanes) + commit_us
    return total


def _partitions(keys: Keys, costs_us: list[float], commit_us: float) -> float:
    """A key's lane is its hash; a transaction begins when all its lanes are free. Those of one lane merge."""
    free = [0.0] * LANES_MAX
    for touched, cost in zip(keys, costs_us, strict=True):
        lanes = {hash((key, 7)) % LANES_MAX for key in touched}
        end = max(free[lane] for lane in lanes) + cost + (commit_us if len(lanes) > 1 else 0.0)
        for lane in lanes:
            free[lane] = end
    return max(free)


class _Lanes:
    """Lanes that merge what is queued, and wait for what a unit waits for."""

    def __init__(self, costs_us: list[float], commit_us: float) -> None:
        self._costs_us = costs_us
        self._commit_us = commit_us
        self._done: dict[tuple[int, int], float] = {}  # (lane, seq) -> when it is applied
        self._now = 0.0
        self.free = [0.0] * LANES_MAX  # when each lane has nothing to do

    def execute(self, unit: ApplyUnit) -> None:
        """Have the unit applied as soon as its lane is free and its waits are met."""
        free = self.free[unit.lane]
        start = max([self._now, free, *(self._done[wait] for wait in unit.waits.items())])
        positions: array[int] = decode_batch(unit.batch).positions
        # A unit that finds its lane busy is merged with what runs there: no commit of its own.
        alone = start > free or bool(unit.waits)
        end = start + sum(self._costs_us[position - 1] for position in positions) + (self._commit_us if alone else 0.0)
        self.free[unit.lane] = self._done[unit.lane, unit.seq] = end

    def retire_oldest(self, planner: Planner) -> None:
        """Let time pass until the planner's oldest window is applied."""
        until = max((self._done[unit] for unit in planner.windows[0].units.items()), default=0.0)
        for (lane, seq), at in self._done.items():
            if at <= until:
                planner.progress(lane, 1, seq)
        planner.retire()
        self._now = max(self._now, until)


def _headrace(keys: Keys, costs_us: list[float], commit_us: float) -> float:
    """The real planner's units, planned while there is room for another window."""
    planner, lanes = make_planner(), _Lanes(costs_us, commit_us)
    for number, batch in enumerate(to_batches(keys, WINDOW)):
        if planner.full:
            lanes.retire_oldest(planner)
        for unit in planner.offer(batch, encode_batch(batch), number + 1, None, 0):
            lanes.execute(unit)
    return max(lanes.free)


# Of the keys of each transaction, their costs, and the cost of a commit.
RIVALS: dict[str, Callable[[Keys, list[float], float], float]] = {
    "level barriers": _levels, "key-hash partitions": _partitions, "Headrace": _headrace,
}  # fmt: skip
