"""Which queued units of a lane may share one target transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from schemas.apply_unit import NORMAL, ApplyUnit
from schemas.change_batch import ChangeBatch


@dataclass(frozen=True, slots=True)
class QueuedUnit:
    """A decoded unit with its offset in the units topic."""

    unit: ApplyUnit
    batch: ChangeBatch
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Damage:
    """A record of the lane that can't be read; `text` says where and why."""

    text: str
    size: int


def stands_alone(queued: QueuedUnit) -> bool:
    """Whether a unit must not be merged: serial, parked, a part of a large transaction, a truncate."""
    batch = queued.batch
    return queued.unit.mode != NORMAL or not batch.whole or batch.truncates


def transactions_of(group: Sequence[QueuedUnit]) -> int:
    """Transactions in the units of `group`."""
    return sum(len(queued.batch.positions) for queued in group)


def may_follow(group: Sequence[QueuedUnit], candidate: QueuedUnit, transactions_max: int, bytes_max: int) -> bool:
    """Whether `candidate` may join `group`.

    Its waits are not looked at: a caller that merges a unit whose waits are unmet would hold back the
    group's own units, on which those waits may depend.
    """
    last = group[-1].unit
    unit = candidate.unit
    if unit.epoch != last.epoch or unit.seq != last.seq + 1 or unit.generation != last.generation:
        return False
    if stands_alone(candidate) or stands_alone(group[-1]) or candidate.batch.kind != group[-1].batch.kind:
        return False
    transactions = transactions_of(group) + len(candidate.batch.positions)
    return transactions <= transactions_max and sum(queued.size for queued in group) + candidate.size <= bytes_max
