"""A simulation of the four rules: the real decisions, a model of everything around them, and faults.

A log of change records, one that captures write and sometimes repeat, cut otherwise; planners that read
it, are replaced, and go on unaware; sixteen partitions of units; consumers that apply them, die after or
before their commit, and live twice; news that is lost or late. `Target` checks every commit.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from pipeline.conflicts import KeyRules
from pipeline.fence import Fenced, LaneRow, OpenParts
from pipeline.lanes import Preference
from pipeline.merging import QueuedUnit, may_follow
from pipeline.planner import Planner
from pipeline.refusal import LastResort, last_resort
from schemas.apply_unit import LANES_MAX, PARK, SERIAL, ApplyUnit, decode_unit, encode_unit
from schemas.change_batch import ChangeBatch
from schemas.change_batch_codec import decode_batch
from tests.simulation.capture_model import Capture
from tests.simulation.history import History
from tests.simulation.processes import Lane, News, Planning
from tests.simulation.target_model import BrokenPromiseError, Group, RefusedError, Target

STEPS_TO_FINISH_MAX = 6000
# Records are read again and again (takeovers, lanes that wait); nothing changes what was decoded.
read_batch = lru_cache(4096)(decode_batch)
read_unit = lru_cache(4096)(decode_unit)


class Whims:
    """A directory that changes its mind at any time: nothing that is right may depend on what it prefers."""

    def __init__(self, rng: random.Random, lanes: int) -> None:
        self._rng, self._lanes = rng, lanes

    def window(self, batch: ChangeBatch) -> Preference | None:
        """Some lane or none, active or not."""
        del batch
        return (lambda _, loads: self._rng.randint(-1, len(loads))) if self._rng.random() < 0.2 else None

    def lane_order(self) -> Sequence[int]:
        """Any order that begins with lane 0."""
        others = [*range(1, self._lanes)]
        if self._rng.random() < 0.3:
            self._rng.shuffle(others)
        return [0, *others]


class World:
    """One history and everything that happens to it. `rng` decides what."""

    def __init__(self, history: History, rng: random.Random, *, lanes: int = 4, enforce: bool = False) -> None:
        self.history = history
        self.rng = rng
        self.target = Target(history, enforce_foreign_keys=enforce)
        self.log: list[bytes] = []
        self.captures: list[Capture] = []
        self.committed = 0  # offset of the planners' group
        self.units: list[list[bytes]] = [[] for _ in range(LANES_MAX)]
        self.news: list[News] = []
        self.planners: list[Planning] = []
        self.lanes: list[Lane] = []
        self.seen: Counter[str] = Counter()  # what happened in this history
        self.faults: Counter[str] = Counter()  # what was done to it
        self.trace: list[str] = []  # every step, for people
        self.lane_count = lanes
        self._serial_at: dict[int, int | None] = {}  # epoch -> what it has to plan as one unit
        self._clock = 0
        self.restart_capture()
        self.start_planner(keep_old=False)
        for number in range(lanes):
            self.start_lane(number, keep_old=False)

    def note(self, text: str, *, fault: bool = False) -> None:
        """Enter a step in the trace."""
        self.trace.append(f"FAULT {text}" if fault else text)
        if fault:
            self.faults[text] += 1

    # -- captures -------------------------------------------------------------------------------

    def restart_capture(self) -> None:
        """A capture dies, or seems to: the new one continues the log; the old one may send what it holds."""
        if any(capture.in_transaction or capture.spent for capture in self.captures[:-1]):
            return
        self._clock += 1000
        self.captures = [*self.captures[-1:], Capture(self.history, self.log, self._clock)]

    def capture(self, which: int = -1, *, lost: bool = False) -> None:
        """A capture appends a record; with `lost` the log does not keep it, unless nothing would ever tell."""
        capture = self.captures[which]
        record = capture.next_record(self.rng, replaced=capture is not self.captures[-1])
        if record is None:
            return
        batch = read_batch(record)
        if not lost or not batch.positions:
            self.note(
                f"log {len(self.log)}: {list(batch.positions)} of generation {batch.generation}, part {batch.part}"
            )
            self.log.append(record)

    # -- planners -------------------------------------------------------------------------------

    def start_planner(self, *, keep_old: bool, serial_at: int | None = None) -> None:
        """A planner takes over; the one before may go on unaware."""
        rules, whims = KeyRules(self.history.catalogue), Whims(self.rng, self.lane_count)
        planner = Planner("s", self.target.takeover(), rules, lanes=self.lane_count, prefer=whims)
        self._serial_at[planner.epoch] = serial_at
        offset = self.committed - self.rng.randint(0, min(2, self.committed))
        self.planners = [*(self.planners[-1:] if keep_old else []), Planning(planner, offset, serial_at)]
        self.seen["takeover"] += 1
        self.note(f"epoch {planner.epoch} begins at {self.target.watermark}, offset {offset}, serial {serial_at}")

    def plan(self, which: int = -1, *, send_all: bool = True) -> bool:
        """A planner reads a record and sends the units, or some of them do not arrive."""
        planning = self.planners[which]
        planner = planning.planner
        if planner.full or planning.offset >= len(self.log):
            return False
        record = self.log[planning.offset]
        batch = read_batch(record)
        at = planning.serial_at
        if at is not None and batch.positions and batch.positions[0] <= at <= batch.last_position:
            planner.plan_serially(batch.last_position)
        self._look_at(batch, planner)
        if self.rng.random() < 0.1:
            planner.active.count = self.rng.randint(1, self.lane_count)
        units = planner.offer(batch, record, planning.offset + 1, None, 0)
        planning.offset += 1
        self.seen["serial window"] += sum(unit.mode == SERIAL for unit in units)
        for unit in units:
            if send_all or self.rng.random() < 0.5:
                self.note(
                    f"unit {unit.epoch}.{unit.seq} for lane {unit.lane}, {unit.mode}, waits {unit.waits}: "
                    f"{list(read_batch(unit.batch).positions)}"
                )
                self.units[unit.lane].append(encode_unit(unit))
            else:
                planning.undelivered = True
        return True

    def _look_at(self, batch: ChangeBatch, planner: Planner) -> None:
        chain = planner.chain
        known = batch.generation == chain.generation and batch.positions and batch.positions[0] <= chain.position
        if known:
            self.seen["record repeated" if batch.last_position <= chain.position else "record overlapping"] += 1
        if not batch.whole:
            self.seen["part"] += 1
            other = batch.last_position == chain.open_position and batch.run != chain.open_run
            self.seen["part of a replaced capture"] += int(other and batch.part > 0)

    def ask_ledger(self, which: int = -1) -> None:
        """A planner without news reads the lane rows."""
        planner = self.planners[which].planner
        for lane, row in enumerate(self.target.rows):
            planner.progress(lane, row.epoch, row.seq)

    def advance(self, which: int = -1, *, commit: bool = True) -> None:
        """A planner moves the watermark past what is applied, and may die before it commits its offset."""
        planning = self.planners[which]
        windows = planning.planner.retire()
        if windows:
            last = windows[-1]
            planning.retired = last.generation, last.last_position, last.end_offset
        if planning.retired is not None:
            generation, position, offset = planning.retired
            if not self.target.advance(planning.planner.epoch, generation, position):
                self.seen["superseded"] += 1
                return
            planning.retired, planning.passed = None, offset
        if commit and planning.passed is not None:
            self._check_offset(planning.passed)
            self.committed = planning.passed

    def _check_offset(self, offset: int) -> None:
        for record in self.log[self.committed : offset]:
            batch = read_batch(record)
            if batch.generation == self.target.watermark[0] and batch.last_position > self.target.watermark[1]:
                raise BrokenPromiseError(f"offset {offset} was committed ahead of {batch.last_position}")

    # -- lanes ----------------------------------------------------------------------------------

    def start_lane(self, number: int, *, keep_old: bool) -> None:
        """A consumer starts on a partition; the one before may go on unaware."""
        old = [lane for lane in self.lanes if lane.number == number][-1:] if keep_old else []
        others = [lane for lane in self.lanes if lane.number != number]
        self.lanes = [*others, *old, Lane(number, self.target.rows[number].next_offset)]

    def apply(self, lane: Lane, *, merge_max: int = 4, dies: bool = False) -> bool:
        """A lane does the next thing; with `dies` it ends right after its commit. Whether anything happened."""
        if lane.failed is not None:
            return self._report_again(lane)
        queued = self._queued(lane)
        if queued is None:
            return False
        if lane.is_old(queued.unit):
            lane.offset += 1
            lane.alone = lane.at_head = lane.parks = False
            return True
        if not lane.met(queued.unit):
            self.seen["waited"] += 1
            self._look(lane)
            return lane.is_old(queued.unit) or lane.met(queued.unit)
        if lane.at_head and not self._everything_earlier_is_applied(queued.unit):
            self._look(lane)
            return lane.is_old(queued.unit)
        group = [queued]
        while not lane.alone and len(group) < merge_max:
            more = self._queued(lane, len(group))
            if more is None or not lane.met(more.unit) or not may_follow(group, more, 1000, 1 << 20):
                break
            group.append(more)
        self._commit(lane, group, dies=dies)
        return True

    def _queued(self, lane: Lane, ahead: int = 0) -> QueuedUnit | None:
        offset = lane.offset + ahead
        if offset >= len(self.units[lane.number]):
            return None
        unit = read_unit(self.units[lane.number][offset])
        return QueuedUnit(unit, read_batch(unit.batch), offset, len(unit.batch))

    def _look(self, lane: Lane) -> None:
        lane.row = self.target.rows[lane.number]
        for number, row in enumerate(self.target.rows):
            lane.known[row.epoch, number] = row.seq

    def _everything_earlier_is_applied(self, unit: ApplyUnit) -> bool:
        return self.target.watermark >= (unit.generation, unit.previous_position) or unit.previous_position == 0

    def _report_again(self, lane: Lane) -> bool:
        assert lane.failed is not None
        epoch, position = lane.failed
        if self.target.rows[lane.number].epoch > epoch:
            lane.failed, lane.row = None, self.target.rows[lane.number]
            return True
        self._publish(News(lane.number, epoch, 0, position, failure=True))
        return False

    def _commit(self, lane: Lane, group: list[QueuedUnit], *, dies: bool) -> None:
        first, last = group[0].unit, group[-1].unit
        batches, first_seq = [queued.batch for queued in group], first.seq
        if lane.open is not None and lane.open[0].epoch == first.epoch:
            if not lane.open[0].continued_by(first.epoch, first.seq):
                self._fenced(lane, first, Fenced.GAP)
                return
            first_seq = lane.open[0].first_seq
            batches = [*(lane.open[1] if batches[0].part > 0 else []), *batches]
        elif batches[0].part > 0:
            # A part without its beginning: of a planner that was replaced, or to be read again.
            lane.row = self.target.rows[lane.number]
            if not lane.is_old(first):
                self.start_lane(lane.number, keep_old=False)
            return
        if not batches[-1].last_part:
            lane.open = OpenParts(last.epoch, first_seq, last.seq), batches
            lane.offset += 1
            return
        lane.open = None
        self.seen["merged"] += len(group) - 1
        target_group = Group(lane.number, last.epoch, first_seq, last.seq, group[-1].offset + 1, batches)
        try:
            if last.mode == PARK:
                fenced = self.target.park(target_group)
            elif lane.parks:
                fenced = self.target.apply_or_park(target_group)
            else:
                fenced = self.target.apply(target_group)
        except RefusedError as error:
            self._refused(lane, group, error)
            return
        if fenced is None:
            positions = [list(batch.positions) for batch in batches]
            self.seen["table copied"] += batches[-1].table_copy
            self.note(f"lane {lane.number} commits {last.epoch}.{first_seq}..{last.seq}: {positions}")
        if dies:
            self.seen["died after the commit"] += fenced is None
            self.start_lane(lane.number, keep_old=False)
        elif fenced is not None:
            self._fenced(lane, last, fenced)
        else:
            lane.offset = group[-1].offset + 1
            lane.row = LaneRow(last.epoch, last.seq, lane.offset)
            lane.known[last.epoch, lane.number] = last.seq
            lane.alone = lane.at_head = lane.parks = False
            if self.target.closed:
                lane.failed = (last.epoch, None)
        if fenced is None:
            self._publish(News(lane.number, last.epoch, last.seq))

    def _refused(self, lane: Lane, group: list[QueuedUnit], error: RefusedError) -> None:
        unit, batch = group[-1].unit, group[-1].batch
        self.seen["refused"] += 1
        self.note(f"lane {lane.number}: {unit.epoch}.{unit.seq} is refused: {error}")
        if unit.mode != SERIAL and self._serial_at[unit.epoch] in batch.positions:
            raise BrokenPromiseError(f"{list(batch.positions)} had failed, and were not planned as one unit")
        if lane.at_head:
            resort = last_resort(group[-1], may_park=bool(self.history.poison))
            if resort is LastResort.PARK:
                lane.parks = True
                return
            if resort is LastResort.STOP:
                raise BrokenPromiseError(f"positions {list(batch.positions)} were given up: {error}")
            lane.failed = (unit.epoch, batch.last_position)
            lane.alone = lane.at_head = False
        elif lane.alone:
            lane.at_head = True
        lane.alone = lane.failed is None

    def _fenced(self, lane: Lane, unit: ApplyUnit, fenced: Fenced) -> None:
        lane.row = self.target.rows[lane.number]
        lane.alone = lane.at_head = lane.parks = False
        lane.open = None
        self.seen[fenced.value] += 1
        self.note(f"lane {lane.number}: {unit.epoch}.{unit.seq} is fenced: {fenced.value}")
        if fenced is Fenced.GAP or (fenced is Fenced.UNCHANGED and self.target.closed):
            lane.failed = (unit.epoch, None)
        elif fenced is not Fenced.STALE:
            raise BrokenPromiseError(f"a unit of epoch {unit.epoch} seq {unit.seq} was refused as {fenced.value}")

    # -- news -----------------------------------------------------------------------------------

    def _publish(self, news: News) -> None:
        if self.rng.random() < 0.7:
            self.news.append(news)
        else:
            self.seen["news lost"] += 1

    def deliver(self) -> bool:
        """Some news reaches some of those who listen."""
        if not self.news:
            return False
        news = self.news.pop(self.rng.randrange(len(self.news)))
        for lane in self.lanes:
            if self.rng.random() < 0.6:
                heard = lane.known.get((news.epoch, news.lane), 0)
                lane.known[news.epoch, news.lane] = max(heard, news.seq)
        for planning in list(self.planners):
            if planning.planner.epoch == news.epoch:
                planning.planner.progress(news.lane, news.epoch, news.seq)
                if news.failure:
                    self.start_planner(keep_old=self.rng.random() < 0.3, serial_at=news.failed)
        return True

    def replay(self) -> None:
        """An operator corrects the target, then has the dead letters applied that are below the watermark."""
        if self.target.parked:
            self.seen["replayed"] += self.target.replay()
            self.note(f"dead letters are replayed; left: {sorted(self.target.parked)}")

    # -- the end --------------------------------------------------------------------------------

    def finished(self) -> bool:
        """Whether all is captured, applied, below the watermark and committed."""
        last = self.history.events[-1]
        return (
            self.captures[-1].finished
            and self.target.watermark == last.name
            and self.committed == len(self.log)
            and not self.target.applied
        )

    def run_to_the_end(self) -> None:
        """No more faults: everything must be applied within a bounded number of steps."""
        self.captures = self.captures[-1:]
        self.planners = self.planners[-1:]
        if self.planners[0].undelivered:
            self.start_planner(keep_old=False)
        self.lanes = [lane for number in range(self.lane_count) for lane in self.lanes if lane.number == number]
        for _ in range(STEPS_TO_FINISH_MAX):
            if self.finished():
                break
            self.capture()
            self.plan()
            moved = [self.apply(lane) for lane in list(self.lanes)]
            while self.deliver():
                pass
            if not any(moved):
                self.ask_ledger()
            self.advance()
        else:
            raise BrokenPromiseError(
                f"stuck at {self.target.watermark}, {self.history.events[-1].name} was not reached"
            )
        self.seen["parked"] += len(self.target.parked)
        self.replay()
        if self.target.parked or self.target.state != self.history.end:
            raise BrokenPromiseError("the target differs from the source")
