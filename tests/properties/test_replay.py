"""A planner may die after any step: the next one goes on from the ledger, and each transaction is applied once."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import fence
from pipeline.conflicts import KeyRules
from pipeline.fence import LaneRow
from pipeline.planner import Planner
from pipeline.window import Restart
from schemas.apply_unit import ApplyUnit
from schemas.change_batch_codec import decode_batch, encode_batch
from tests.properties.model import Transaction, catalogue, pack_batch
from tests.properties.oracle import conflict
from tests.properties.strategies import TABLES, partition, windows

RULES = KeyRules(catalogue(TABLES))
LANES = 3
OFFER, HEAR = LANES, LANES + 1  # steps beside "apply the next unit of lane n"
steps = st.lists(st.sampled_from([*range(LANES), OFFER, OFFER, HEAR]), max_size=25)


class Target:
    """What survives: the ledger, the order in which transactions were applied, and the units topic."""

    def __init__(self) -> None:
        self.rows = [LaneRow(0, 0, 0)] * LANES
        self.watermark = 0
        self.applied: list[int] = []
        self.units: list[deque[ApplyUnit]] = [deque() for _ in range(LANES)]

    def take_over(self) -> Planner:
        """A new planner, as `takeover` of the ledger starts it."""
        epoch = self.rows[0].epoch + 1
        self.rows = [LaneRow(epoch, 0, 0)] * LANES
        above = frozenset(position for position in self.applied if position > self.watermark)
        return Planner("s", Restart(epoch, 1, self.watermark, {1: above}), RULES, lanes=LANES)

    def apply(self, lane: int) -> bool:
        """Take the lane's next unit, which the fence may refuse; returns whether one was taken."""
        queue = self.units[lane]
        if not queue:
            return False
        unit, row = queue[0], self.rows[lane]
        if fence.admits(row, unit.epoch, unit.seq):
            if any(self.rows[other].seq < seq for other, seq in unit.waits.items()):
                return False
            self.rows[lane] = LaneRow(row.epoch, unit.seq, 0)
            self.applied += decode_batch(unit.batch).positions
        queue.popleft()
        return True


class Life:
    """One planner's life: it reads `records` from the first one, since nothing was acknowledged."""

    def __init__(self, target: Target, records: Sequence[bytes]) -> None:
        self._target = target
        self._records = deque(records)
        self._planner = target.take_over()

    def step(self, what: int) -> bool:
        """Do one thing; returns whether there was something to do."""
        if what == OFFER:
            return self._offer()
        if what == HEAR:
            return self._hear()
        return self._target.apply(what)

    def to_the_end(self) -> None:
        """Do everything that is left to do, as far out of order as the waits let it."""
        going = True
        while going:
            going = False
            for what in (OFFER, *reversed(range(LANES)), HEAR):
                while self.step(what):
                    going = True

    def _offer(self) -> bool:
        if not self._records:
            return False
        record = self._records.popleft()
        for unit in self._planner.offer(decode_batch(record), record, 1, None, 0):
            self._target.units[unit.lane].append(unit)
        return True

    def _hear(self) -> bool:
        for lane, row in enumerate(self._target.rows):
            self._planner.progress(lane, row.epoch, row.seq)
        retired = self._planner.retire()
        if retired:
            self._target.watermark = max(self._target.watermark, retired[-1].last_position)
        return bool(retired)


@settings(max_examples=15)
@given(windows(transactions_max=16), st.integers(1, 4), steps, steps)
def test_after_any_prefix_a_new_planner_applies_each_transaction_once(
    history: list[Transaction], size: int, first: list[int], second: list[int]
) -> None:
    """For each number of steps: so many, a crash, some more under a second planner, a crash, and a third to the end."""
    records, previous = [], 0
    for window in partition(history, [*range(size, len(history), size)]):
        records.append(encode_batch(pack_batch(window, previous)))
        previous = window[-1].position
    for count in range(len(first) + 1):
        target = Target()
        for life in (first[:count], second):
            planner = Life(target, records)
            for what in life:
                planner.step(what)
        Life(target, records).to_the_end()
        assert_right(target, history)


def assert_right(target: Target, history: list[Transaction]) -> None:
    """Everything was applied once, conflicting transactions in source order, and the watermark is at the end."""
    written = [transaction for transaction in history if transaction.changes]
    assert len(set(target.applied)) == len(target.applied), "applied twice"
    assert {each.position for each in written} <= set(target.applied) <= {each.position for each in history}
    place = {position: number for number, position in enumerate(target.applied)}
    for one, other in combinations(written, 2):
        assert not conflict(one, other) or place[one.position] < place[other.position]
    assert target.watermark == history[-1].position
