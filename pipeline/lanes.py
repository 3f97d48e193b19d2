"""Choosing a lane for each independent set (design: planning, rule 2)."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import Protocol

from pipeline.inflight import LaneSeqs, merge_waits
from schemas.change_batch import ChangeBatch

# A lane that gets fewer transactions than this from a window costs more in commits than it saves.
GRAIN_TRANSACTIONS = 50

# Of the active lanes: the transactions queued in each. Small windows go to the first ones.
LaneLoads = dict[int, int]
# Of a set's transactions and the lanes' present loads: the lane it should go to, if any.
Preference = Callable[[list[int], LaneLoads], int | None]


class Preferences(Protocol):
    """Which lanes suit a window; nothing that is right depends on it."""

    def window(self, batch: ChangeBatch) -> Preference | None:
        """The preference for one window, if there is one."""

    def lane_order(self) -> Sequence[int]:
        """All lanes, lane 0 first: as many of the first ones are used as are active."""


def assign(
    components: dict[int, list[int]],
    dependencies: dict[int, LaneSeqs],
    loads: LaneLoads,
    prefer: Preference | None = None,
) -> tuple[dict[int, int], dict[int, LaneSeqs]]:
    """Return component -> lane, and lane -> waits of its unit.

    `loads` is raised by what is assigned. A set
    that depends on one lane goes there and waits for nothing; one that depends on several goes to the
    one it depends on most recently loaded with work, and waits for the others. A lane beyond the active ones
    gets nothing more, not even dependents, so that it runs dry.
    """
    lane_of: dict[int, int] = {}
    waits: dict[int, LaneSeqs] = {}
    for component, seqs in dependencies.items():
        lane = _dependent_lane(seqs, loads)
        lane_of[component] = lane
        merge_waits(waits.setdefault(lane, {}), {other: seq for other, seq in seqs.items() if other != lane})
        loads[lane] += len(components[component])
    free = [component for component in components if component not in lane_of]
    _spread(free, components, loads, lane_of, prefer)
    return lane_of, waits


def _dependent_lane(seqs: LaneSeqs, loads: LaneLoads) -> int:
    active = [lane for lane in seqs if lane in loads]
    if not active:
        return min(loads, key=loads.__getitem__)
    return max(active, key=lambda lane: (loads[lane], -lane))


def _spread(
    free: list[int],
    components: dict[int, list[int]],
    loads: LaneLoads,
    lane_of: dict[int, int],
    prefer: Preference | None,
) -> None:
    total = sum(len(components[component]) for component in free)
    width = max(1, min(len(loads), total // GRAIN_TRANSACTIONS))
    # Loads are compared in grains: small windows stay in the first lanes, where they merge into few commits,
    # instead of leaving keys in every lane that the next windows would have to wait for.
    near = sorted(loads, key=lambda lane: loads[lane] // GRAIN_TRANSACTIONS)[:width]
    heap = [(loads[lane], lane) for lane in near]
    heapq.heapify(heap)
    for component in free:
        size = len(components[component])
        wanted = prefer(components[component], loads) if prefer is not None else None
        if wanted is not None and wanted in loads:
            lane_of[component] = wanted
            loads[wanted] += size
            continue
        load, lane = heap[0]
        heapq.heapreplace(heap, (load + size, lane))
        lane_of[component] = lane
        loads[lane] += size
