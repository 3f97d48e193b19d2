"""Why a transaction is not applied yet: its unit's place in its lane, and what that unit waits for (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.conflicts import KeyRules
from pipeline.merging import QueuedUnit, transactions_of
from pipeline.window_graph import shared_keys


@dataclass(frozen=True, slots=True)
class Blocker:
    """A transaction in another lane that has to come first, and the key that both touch."""

    position: int
    key: str


@dataclass(frozen=True, slots=True)
class LaneWait:
    """`lane` has to reach `wanted` and is at `reached`; `blockers`: why, as far as its units show it."""

    lane: int
    wanted: int
    reached: int
    blockers: tuple[Blocker, ...]


@dataclass(frozen=True, slots=True)
class Waiting:
    """A transaction in a queued unit. `reached` is the lane's applied seq; `before` counts what is queued ahead."""

    lane: int
    seq: int
    reached: int
    units_before: int
    transactions_before: int
    waits: tuple[LaneWait, ...]
    head_waits: tuple[LaneWait, ...]  # of the lane's first queued unit, when that is another one


def why_waiting(
    position: int, units: Mapping[int, Sequence[QueuedUnit]], reached: Mapping[int, int], rules: KeyRules
) -> Waiting | None:
    """Find the transaction in the queued units (lane -> in order); None when it is in none of them."""
    for lane, queued in units.items():
        for number, found in enumerate(queued):
            if position in found.batch.positions:
                head = queued[0]
                return Waiting(
                    lane, found.unit.seq, reached.get(lane, 0), number, transactions_of(queued[:number]),
                    _waits(found, units, reached, rules), _waits(head, units, reached, rules) if number else (),
                )  # fmt: skip
    return None


def _waits(
    queued: QueuedUnit, units: Mapping[int, Sequence[QueuedUnit]], reached: Mapping[int, int], rules: KeyRules
) -> tuple[LaneWait, ...]:
    """The waits of a unit that are not met yet."""
    found = []
    for lane, wanted in sorted(queued.unit.waits.items()):
        if reached.get(lane, 0) < wanted:
            others = [other for other in units.get(lane, ()) if other.unit.seq <= wanted]
            keys = [pair for other in others for pair in shared_keys(other.batch, queued.batch, rules)]
            blockers = tuple(Blocker(position, key) for position, key in keys)
            found.append(LaneWait(lane, wanted, reached.get(lane, 0), blockers))
    return tuple(found)
