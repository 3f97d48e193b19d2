"""Keys of units that were sent and are not yet applied: where a later window must queue or wait."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from pipeline.independent import WindowKeys
from pipeline.keyspaces import Keyspace
from schemas.apply_unit import LANES_MAX

LaneSeqs = dict[int, int]
Unit = tuple[int, int]  # lane and seq


@dataclass(slots=True)
class _WindowTrace:
    """What a window left in the tables, to be taken out when it is applied: no object a key.

    `writers` and `readers` are the window's keys beside each table; `units` the unit of each of its transactions.
    """

    units: list[Unit] = field(default_factory=list)
    writers: list[tuple[dict[bytes, Unit], dict[bytes, int]]] = field(default_factory=list)
    readers: list[tuple[dict[bytes, LaneSeqs], dict[bytes, list[int]]]] = field(default_factory=list)


class InFlight:
    """Last writer and readers of each key in flight, as (lane, seq).

    `applied[lane]` is the highest seq known to be applied; entries at or below it do not count.
    """

    def __init__(self) -> None:
        self.applied = [0] * LANES_MAX
        self._writers: dict[Keyspace, dict[bytes, Unit]] = {}
        self._readers: dict[Keyspace, dict[bytes, LaneSeqs]] = {}
        self._traces: deque[_WindowTrace] = deque()
        # Units whose keys were not recorded (barriers, single-lane windows): everything depends on them.
        self._blind: LaneSeqs = {}

    def blind(self) -> LaneSeqs:
        """Return the unrecorded units still in flight."""
        return self._live(self._blind)

    def has_keys(self) -> bool:
        """Whether keys of units in flight are recorded."""
        return any(self._writers.values()) or any(self._readers.values())

    def dependencies(self, keys: WindowKeys) -> dict[int, LaneSeqs]:
        """Return component -> {lane: seq} of the units in flight that it conflicts with."""
        found: dict[int, LaneSeqs] = {}
        for space, owner in keys.writers.items():
            writers, readers = self._writers.get(space, {}), self._readers.get(space, {})
            for key in owner.keys() & writers.keys():
                self._depend(found, keys.find(owner[key]), dict([writers[key]]))
            for key in owner.keys() & readers.keys():
                self._depend(found, keys.find(owner[key]), readers[key])
        for space, shared in keys.readers.items():
            writers = self._writers.get(space, {})
            for key in shared.keys() & writers.keys():
                for tx in shared[key]:
                    self._depend(found, keys.find(tx), dict([writers[key]]))
        return found

    def _depend(self, found: dict[int, LaneSeqs], component: int, on: LaneSeqs) -> None:
        live = self._live(on)
        if live:
            merge_waits(found.setdefault(component, {}), live)

    def _live(self, seqs: LaneSeqs) -> LaneSeqs:
        return {lane: seq for lane, seq in seqs.items() if seq > self.applied[lane]}

    def record(self, keys: WindowKeys, unit_of: dict[int, Unit]) -> None:
        """Enter a window's keys; `unit_of` maps component -> (lane, seq)."""
        units = [unit_of[keys.find(tx)] for tx in range(len(keys.parents))]
        trace = _WindowTrace(units)
        for space, owner in keys.writers.items():
            writers = self._writers.setdefault(space, {})
            writers.update(zip(owner, map(units.__getitem__, owner.values()), strict=True))
            trace.writers.append((writers, owner))
        for space, shared in keys.readers.items():
            readers = self._readers.setdefault(space, {})
            for key, transactions in shared.items():
                merge_waits(readers.setdefault(key, {}), dict([units[tx] for tx in transactions]))
            trace.readers.append((readers, shared))
        self._traces.append(trace)

    def record_blind(self, lane: int, seq: int) -> None:
        """Enter a unit whose keys are not known: all later ones depend on it."""
        self._blind[lane] = seq
        self.record_nothing()

    def record_barrier(self, lane: int, seq: int) -> None:
        """Enter a unit that comes after everything in flight: who waits for it needs no keys of what was before."""
        for writers in self._writers.values():
            writers.clear()
        for readers in self._readers.values():
            readers.clear()
        self.record_blind(lane, seq)

    def record_nothing(self) -> None:
        """Enter a window without units."""
        self._traces.append(_WindowTrace())

    def forget_window(self) -> None:
        """Drop the entries of the oldest window, which is applied."""
        trace = self._traces.popleft()
        units = trace.units
        for writers, owner in trace.writers:
            for key, tx in owner.items():
                if writers.get(key) == units[tx]:
                    del writers[key]
        for readers, shared in trace.readers:
            for key in shared:
                entry = readers.get(key)
                if entry is not None and not self._live(entry):
                    del readers[key]


def merge_waits(into: LaneSeqs, other: LaneSeqs) -> None:
    """Raise the waits of `into` to those of `other`."""
    for lane, seq in other.items():
        if seq > into.get(lane, 0):
            into[lane] = seq
