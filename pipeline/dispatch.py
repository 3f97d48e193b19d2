"""Which lane each part of a record goes to, and what its unit has to wait for.

A record goes to the lanes in one of four ways. *Spread*: each independent set to the lane that has what it depends
on, else to one that suits (`pipeline.lanes`). *Single*: while one lane is active, as a whole and with no look at its
keys. *Snapshot*: a part, whose rows nothing else touches, to the lane with the least to do. *Barrier*: as one unit
behind everything in flight and before all that follows, where keys can't tell what depends on what.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.active_lanes import ActiveLanes
from pipeline.conflicts import KeyRules
from pipeline.independent import window_keys
from pipeline.inflight import InFlight, LaneSeqs, merge_waits
from pipeline.lane_queues import LaneQueues
from pipeline.lanes import Preferences, assign
from pipeline.priorities import Priorities
from pipeline.slicing import select
from pipeline.window import Window
from schemas.apply_unit import NORMAL, PARK, SERIAL, ApplyUnit
from schemas.change_batch import ChangeBatch
from schemas.change_batch_codec import encode_batch

BACKLOG_TRANSACTIONS = 1000  # in flight from which on the lanes are never without work


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be planned of a record, encoded too; `window` notes the units, `now_us` is the time of planning."""

    window: Window
    batch: ChangeBatch
    record: bytes
    now_us: int

    @property
    def transactions(self) -> range:
        """The indexes of all its transactions."""
        return range(len(self.batch.positions))


class Dispatcher:
    """The lanes of one stream in one epoch, as its planner sees them; `active` says how many of them are in use."""

    def __init__(
        self, stream: str, epoch: int, rules: KeyRules, active: ActiveLanes, prefer: Preferences | None,
        priorities: Priorities | None,
    ) -> None:  # fmt: skip
        self.active = active
        self.queues = LaneQueues()
        self._stream = stream
        self._epoch = epoch
        self._rules = rules
        self._renewed = False  # keys in flight may be of other rules
        self._prefer = prefer
        self._priorities = priorities
        self._inflight = InFlight()
        self._barrier_seq = 0
        self._parts_open = False  # the last unit of lane 0 is a part of a transaction that has not ended

    def renew(self, rules: KeyRules) -> None:
        """Go by other rules, behind all keys in flight that older ones gave."""
        self._rules, self._renewed = rules, True

    def nothing(self) -> None:
        """Note a window of which nothing goes to a lane but what is parked."""
        self._inflight.record_nothing()

    def park(self, work: Work, behind: dict[int, tuple[int, ...]]) -> ApplyUnit:
        """The unit that parks transactions. Without waits: it changes no rows, and the lane keeps their order."""
        unit = self._unit(work, 0, list(behind), {}, PARK)
        return replace(unit, behind=tuple(behind.values()))

    def plan(self, work: Work, mode: str) -> list[ApplyUnit]:
        """The units that apply the work; one in source order where `mode` is SERIAL."""
        batch = work.batch
        # A capture that starts again may send whole what another had begun to send in parts. The lane commits
        # its parts with the unit that follows them, so that unit must be in the same lane.
        alone = mode == SERIAL or not batch.whole or self._parts_open
        incomparable, self._renewed = self._renewed and self._inflight.has_keys(), False
        if alone or incomparable or batch.truncates:
            return [self._barrier(work, mode)]
        if batch.kind == "snapshot":
            return [self._snapshot(work)]
        if self._priorities is None and self.active.count == 1 and set(self.queues.busy()) <= {0}:
            self.active.observe(1, 0)
            return [self._single(work)]
        if not self._rules.admit(batch):
            return [self._barrier(work, mode)]
        return self._spread(work)

    def _barrier(self, work: Work, mode: str) -> ApplyUnit:
        waits = {lane: self.queues.seqs[lane] for lane in self.queues.busy() if lane != 0}
        unit = self._unit(work, 0, work.transactions, waits, mode)
        self._inflight.record_barrier(0, unit.seq)
        self._barrier_seq = unit.seq
        self._parts_open = not work.batch.last_part
        return unit

    def _snapshot(self, work: Work) -> ApplyUnit:
        """Parts are disjoint, so they wait for the emptied tables alone.

        Where foreign keys exist they go through one lane, parents first as the source sent them.
        """
        lanes = self._active_lanes()[: 1 if self._rules.has_foreign_keys else None]
        lane = min(lanes, key=self.queues.loads.__getitem__)
        waits = {0: self._barrier_seq} if lane != 0 and self._inflight.applied[0] < self._barrier_seq else {}
        unit = self._unit(work, lane, work.transactions, waits, rows=work.batch.rows())
        self._inflight.record_blind(lane, unit.seq)
        return unit

    def _single(self, work: Work) -> ApplyUnit:
        unit = self._unit(work, 0, work.transactions, {})
        self._inflight.record_barrier(0, unit.seq)
        return unit

    def _spread(self, work: Work) -> list[ApplyUnit]:
        blind = self._inflight.blind()
        keys = window_keys(work.batch, self._rules)
        components = keys.components()
        lane_of, lane_waits = self._assign(work.batch, components, self._inflight.dependencies(keys))
        chosen: dict[int, list[int]] = {}
        for component, transactions in components.items():
            chosen.setdefault(lane_of[component], []).extend(transactions)
        # Behind a unit whose keys are not known everything waits, in any lane: that binds no set to a lane, and says
        # nothing about how many of them are of use.
        self.active.observe(len(chosen), sum(1 for lane in chosen if lane_waits.get(lane)))
        units = []
        for lane in sorted(chosen):
            waits = lane_waits.get(lane, {})
            merge_waits(waits, {other: seq for other, seq in blind.items() if other != lane})
            units.append(self._unit(work, lane, sorted(chosen[lane]), waits))
        self._inflight.record(keys, {c: (lane, self.queues.seqs[lane]) for c, lane in lane_of.items()})
        return units

    def _assign(
        self, batch: ChangeBatch, components: dict[int, list[int]], dependencies: dict[int, LaneSeqs]
    ) -> tuple[dict[int, int], dict[int, LaneSeqs]]:
        prefer = self._prefer.window(batch) if self._prefer is not None else None
        if self._priorities is None:
            loads = {lane: self.queues.loads[lane] for lane in self._active_lanes()}
            return assign(components, dependencies, loads, prefer)
        return self._priorities.assign(batch, components, dependencies, self.queues.loads, self.active.count, prefer)

    def _active_lanes(self) -> Sequence[int]:
        """The lanes to use now, lane 0 first. Where priorities give lanes to classes, the numbers say which."""
        count = self.active.count
        if self._prefer is None or self._priorities is not None:
            return range(count)
        return self._prefer.lane_order()[:count]

    def _unit(
        self, work: Work, lane: int, transactions: Sequence[int], waits: LaneSeqs, mode: str = NORMAL, rows: int = 0
    ) -> ApplyUnit:
        """A unit of the given transactions, queued in the lane; `rows` count beside them where they are the load."""
        batch, window, record = work.batch, work.window, work.record
        seq = self.queues.send(lane, len(transactions) + rows)
        if len(transactions) < len(batch.positions):
            record = encode_batch(select(batch, transactions))
        window.units[lane] = seq
        return ApplyUnit(
            self._stream, batch.generation, lane, self._epoch, seq, mode, window.previous_position, waits,
            work.now_us, record,
        )  # fmt: skip

    def progress(self, lane: int, seq: int) -> int:
        """Note that `lane` has applied up to `seq`; return the transactions that this is news of."""
        if seq <= self._inflight.applied[lane]:
            return 0
        self._inflight.applied[lane] = seq
        return self.queues.settle(lane, seq)

    def measure(self, now_us: int, applied: int) -> None:
        """Let the controller of the active lanes see that `applied` transactions are applied so far."""
        # Behind units whose keys are not known everything waits, however many lanes are active.
        spread = self.active.count == 1 or not self._inflight.blind()
        self.active.measure(now_us, applied, backlog=spread and self.queues.total >= BACKLOG_TRANSACTIONS)

    def is_applied(self, window: Window) -> bool:
        """Whether all units of the window are applied."""
        applied = self._inflight.applied
        return all(seq <= applied[lane] for lane, seq in window.units.items())

    def forget_window(self) -> None:
        """Drop the keys of the oldest window, which is applied."""
        self._inflight.forget_window()
