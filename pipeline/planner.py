"""The planner of one stream: windows in, units out, watermark forward. Pure; a plan is only advice.

Everything here may be lost at any moment: a new planner starts from the ledger (rule 3).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from pipeline.active_lanes import ActiveLanes
from pipeline.chain import Chain, Verdict
from pipeline.conflicts import KeyRules
from pipeline.errors import StreamStoppedError
from pipeline.independent import window_keys
from pipeline.inflight import InFlight, LaneSeqs, merge_waits
from pipeline.lane_queues import LaneQueues
from pipeline.lanes import Preferences, assign
from pipeline.parking import ParkedKeys
from pipeline.priorities import Priorities
from pipeline.relations import changes_of
from pipeline.schema_change import asks_nothing
from pipeline.slicing import select
from pipeline.table_copies import SupersededTables
from pipeline.window import Restart, Window
from schemas.apply_unit import NORMAL, PARK, SERIAL, ApplyUnit
from schemas.change_batch import ChangeBatch
from schemas.change_batch_codec import decode_batch, encode_batch

# In flight at most. Small windows are many: the lanes merge what they find queued, and a few transactions a window
# would keep a merge of thousands from ever coming together. 64 MiB of records are kept for planning again.
WINDOWS_MAX = 1024
TRANSACTIONS_MAX = 64_000
BYTES_MAX = 64 * 1024 * 1024
BACKLOG_TRANSACTIONS = 1000  # in flight from which on the lanes are never without work


class Planner:
    """Plans a stream's windows for up to `lanes` lanes.

    `order` is "dependent", or "commit": one lane, every target state is a source state. `priorities`
    gives classes of tables lanes of their own. `prefer` says for each window which lanes suit it.
    """

    def __init__(
        self,
        stream: str,
        start: Restart,
        rules: KeyRules,
        *,
        lanes: int,
        order: str = "dependent",
        prefer: Preferences | None = None,
        priorities: Priorities | None = None,
    ) -> None:
        self.stream = stream
        self.epoch = start.epoch
        self.chain = Chain(stream, start.generation, start.watermark)
        self.windows: deque[Window] = deque()
        self._priorities = priorities if priorities else None
        normal = priorities.normal_lanes if priorities is not None else lanes
        self.active = ActiveLanes(1 if order == "commit" else normal)
        self._applied_before = start.applied
        self._shapes = start.shapes
        self._rules = rules
        self._prefer = prefer
        self._inflight = InFlight()
        self._queues = LaneQueues()
        self._serial_at: int | None = None
        self._barrier_seq = 0
        self._parked_before = [decode_batch(record) for record in start.parked]
        self._parked = self._parked_in(start.generation)
        self._superseded = SupersededTables(start.superseded)
        self.applied = 0  # transactions, since this planner began
        self.bytes = 0  # of the records kept
        self._renewed = False
        self._parts_open = False  # the last unit of lane 0 is a part of a transaction that has not ended

    @property
    def full(self) -> bool:
        """Whether planning must pause until windows are applied. An open large transaction never waits."""
        return self.chain.open_part < 0 and (
            len(self.windows) >= WINDOWS_MAX or self.bytes >= BYTES_MAX or self._queues.total >= TRANSACTIONS_MAX
        )

    def plan_serially(self, last_position: int) -> None:
        """Plan the window that ends at `last_position` as one unit in source order (hidden dependences)."""
        self._serial_at = last_position

    def offer(self, batch: ChangeBatch, record: bytes, end_offset: int, token: object, now_us: int) -> list[ApplyUnit]:
        """Plan one batch and return its units, to be sent in this order.

        `end_offset` is the offset after the record. Raises StreamGapError when the chain is broken,
        StreamStoppedError when more must be parked than can be.
        """
        chain = self.chain
        before = chain.position
        link = chain.offer(batch)
        if link.verdict is Verdict.RESTART:
            before = 0
            self._parked = self._parked_in(chain.generation)  # the tables are copied anew
            self._superseded = SupersededTables()
        # A repeated record may be of an older generation, or parts of a transaction that ended long ago.
        window = Window(
            chain.generation, before, chain.position, end_offset, chain.open_part < 0, token,
            record if batch.whole else b"",
        )  # fmt: skip
        self.windows.append(window)
        self.bytes += len(window.record)
        if link.verdict is not Verdict.REPEAT:
            stripped = self._superseded.strip(batch)
            record = record if stripped is batch else encode_batch(stripped)
            batch = stripped
        wanted = [] if link.verdict is Verdict.REPEAT else self._missing(batch, link.first)
        behind = self._behind(batch, wanted)
        units = [self._park(window, batch, behind, now_us)] if behind else []
        wanted = [n for n in wanted if n not in behind] if behind else wanted
        if not wanted or (batch.whole and not batch.sections):
            self._inflight.record_nothing()
            return units
        serial = self._serial_at == batch.last_position
        if len(wanted) < len(batch.positions):
            batch = select(batch, wanted)
            record = encode_batch(batch)
        window.commit_times_us = batch.commit_times_us
        window.new_schema = self._follow_schema(batch)
        serial = serial or (window.new_schema and batch.kind == "live")
        return [*units, *self._plan(window, batch, record, now_us, SERIAL if serial else NORMAL)]

    def _follow_schema(self, batch: ChangeBatch) -> bool:
        """Whether the target may have to change: everything before is applied first, the rest after.

        A table that the ledger alone does not know is no reason: whoever applies its first rows notes its columns.
        """
        shapes = self._shapes
        changes = [relation for _, relation in changes_of(batch, shapes)] if shapes is not None else []
        if shapes is None or not changes:
            return False
        again = len({relation.name for relation in changes}) < len(changes)
        harmless = not again and all(asks_nothing(relation, shapes, self._rules.catalogue) for relation in changes)
        for relation in changes:
            shapes.learn(relation)
        return batch.kind == "snapshot" or not harmless

    def renew(self, rules: KeyRules) -> None:
        """Plan by the target's catalogue as it is now, behind all keys in flight that older rules gave."""
        if rules.catalogue == self._rules.catalogue:
            return
        self._rules, self._renewed = rules, True
        self._parked = self._parked_in(self.chain.generation)

    def _parked_in(self, generation: int) -> ParkedKeys:
        parked = ParkedKeys(self.stream, self._rules)
        for batch in self._parked_before:
            if batch.generation == generation:
                parked.add(batch)
        return parked

    def _behind(self, batch: ChangeBatch, wanted: Sequence[int]) -> dict[int, tuple[int, ...]]:
        """The transactions among `wanted` that depend on parked ones, with their positions."""
        if not self._parked or not wanted or batch.kind == "snapshot":
            return {}
        behind = self._parked.behind(batch, wanted)
        if behind and not batch.whole:
            raise StreamStoppedError(
                f"stream {self.stream}: position {batch.last_position} is a transaction too large to be parked, and it "
                f"depends on parked position {behind[0][-1]}. Replay or discard that one (`headrace dead-letters`), "
                "then start again."
            )
        return behind

    def _park(self, window: Window, batch: ChangeBatch, behind: dict[int, tuple[int, ...]], now_us: int) -> ApplyUnit:
        """The unit that parks transactions. Without waits: it changes no rows, and the lane keeps their order."""
        record = encode_batch(batch)
        unit = self._unit(window, batch, record, 0, list(behind), {}, now_us, PARK)
        return replace(unit, behind=tuple(behind.values()))

    def _missing(self, batch: ChangeBatch, first: int) -> Sequence[int]:
        applied = self._applied_before.get(batch.generation)
        indexes = range(first, len(batch.positions))
        if not applied:
            return indexes
        return [n for n in indexes if batch.positions[n] not in applied]

    def _plan(self, window: Window, batch: ChangeBatch, record: bytes, now_us: int, mode: str) -> list[ApplyUnit]:
        # A capture that starts again may send whole what another had begun to send in parts. The lane commits
        # its parts with the unit that follows them, so that unit must be in the same lane.
        alone = mode == SERIAL or not batch.whole or self._parts_open
        incomparable, self._renewed = self._renewed and self._inflight.has_keys(), False
        if alone or incomparable or batch.truncates:
            return [self._barrier(window, batch, record, now_us, mode)]
        if batch.kind == "snapshot":
            return [self._snapshot(window, batch, record, now_us)]
        if self._priorities is None and self.active.count == 1 and set(self._queues.busy()) <= {0}:
            self.active.observe(1, 0)
            return [self._single(window, batch, record, now_us)]
        if not self._rules.admit(batch):
            return [self._barrier(window, batch, record, now_us, mode)]
        blind = self._inflight.blind()
        keys = window_keys(batch, self._rules)
        components = keys.components()
        dependencies = self._inflight.dependencies(keys)
        lane_of, lane_waits = self._assign(batch, components, dependencies)
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
            units.append(self._unit(window, batch, record, lane, sorted(chosen[lane]), waits, now_us))
        self._inflight.record(keys, {c: (lane, self._queues.seqs[lane]) for c, lane in lane_of.items()})
        return units

    def _assign(
        self, batch: ChangeBatch, components: dict[int, list[int]], dependencies: dict[int, LaneSeqs]
    ) -> tuple[dict[int, int], dict[int, LaneSeqs]]:
        prefer = self._prefer.window(batch) if self._prefer is not None else None
        if self._priorities is None:
            loads = {lane: self._queues.loads[lane] for lane in self._active_lanes()}
            return assign(components, dependencies, loads, prefer)
        return self._priorities.assign(batch, components, dependencies, self._queues.loads, self.active.count, prefer)

    def _active_lanes(self) -> Sequence[int]:
        """The lanes to use now, lane 0 first. Where priorities give lanes to classes, the numbers say which."""
        count = self.active.count
        if self._prefer is None or self._priorities is not None:
            return range(count)
        return self._prefer.lane_order()[:count]

    def _single(self, window: Window, batch: ChangeBatch, record: bytes, now_us: int) -> ApplyUnit:
        unit = self._unit(window, batch, record, 0, range(len(batch.positions)), {}, now_us)
        self._inflight.record_barrier(0, unit.seq)
        return unit

    def _snapshot(self, window: Window, batch: ChangeBatch, record: bytes, now_us: int) -> ApplyUnit:
        """One unit a snapshot part: parts are disjoint, so they wait for the emptied tables alone.

        Where foreign keys exist they go through one lane, parents first as the source sent them.
        """
        lanes = self._active_lanes()[: 1 if self._rules.has_foreign_keys else None]
        lane = min(lanes, key=self._queues.loads.__getitem__)
        waits = {0: self._barrier_seq} if lane != 0 and self._inflight.applied[0] < self._barrier_seq else {}
        transactions = range(len(batch.positions))
        unit = self._unit(window, batch, record, lane, transactions, waits, now_us, rows=batch.rows())
        self._inflight.record_blind(lane, unit.seq)
        return unit

    def _barrier(self, window: Window, batch: ChangeBatch, record: bytes, now_us: int, mode: str) -> ApplyUnit:
        """One unit behind everything in flight, before everything that follows."""
        waits = {lane: self._queues.seqs[lane] for lane in self._queues.busy() if lane != 0}
        unit = self._unit(window, batch, record, 0, range(len(batch.positions)), waits, now_us, mode)
        self._inflight.record_barrier(0, unit.seq)
        self._barrier_seq = unit.seq
        self._parts_open = not batch.last_part
        return unit

    def _unit(
        self, window: Window, batch: ChangeBatch, record: bytes, lane: int, transactions: Sequence[int],
        waits: LaneSeqs, now_us: int, mode: str = NORMAL, rows: int = 0,
    ) -> ApplyUnit:  # fmt: skip
        """A unit of the given transactions, queued in the lane; `rows` count beside them where they are the load."""
        seq = self._queues.send(lane, len(transactions) + rows)
        if len(transactions) < len(batch.positions):
            record = encode_batch(select(batch, transactions))
        window.units[lane] = seq
        return ApplyUnit(
            self.stream, batch.generation, lane, self.epoch, seq, mode, window.previous_position, waits, now_us, record
        )  # fmt: skip

    def progress(self, lane: int, epoch: int, seq: int) -> None:
        """Note that `lane` has applied up to `seq`. Other epochs and older news are ignored."""
        if epoch != self.epoch or seq <= self._inflight.applied[lane]:
            return
        self._inflight.applied[lane] = seq
        self.applied += self._queues.settle(lane, seq)

    def measure(self, now_us: int) -> None:
        """Let the controller of the active lanes see how fast the target applies. To be called often."""
        # Behind units whose keys are not known everything waits, however many lanes are active.
        spread = self.active.count == 1 or not self._inflight.blind()
        self.active.measure(now_us, self.applied, backlog=spread and self._queues.total >= BACKLOG_TRANSACTIONS)

    def retire(self) -> list[Window]:
        """Take out and return the windows at the front that are applied; parts only with their last."""
        applied = self._inflight.applied
        done = 0
        for number, window in enumerate(self.windows, start=1):
            if any(seq > applied[lane] for lane, seq in window.units.items()):
                break
            if window.last_part:
                done = number
        for _ in range(done):
            self._inflight.forget_window()
        retired = [self.windows.popleft() for _ in range(done)]
        self.bytes -= sum(len(window.record) for window in retired)
        return retired

    def oldest_us(self) -> int:
        """Source commit time of the oldest transaction in flight, 0 when there is none."""
        return next((window.commit_times_us[0] for window in self.windows if window.commit_times_us), 0)

    def queued_transactions(self) -> list[int]:
        """Transactions sent and not yet applied, a lane."""
        return list(self._queues.loads)
