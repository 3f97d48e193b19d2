"""The planner of one stream: windows in, units out, watermark forward. Pure; a plan is only advice.

Everything here may be lost at any moment: a new planner starts from the ledger (rule 3). What of a record is to be
planned is told by `pipeline.intake`, which lane it goes to by `pipeline.dispatch`.
"""

from __future__ import annotations

from collections import deque

from pipeline.active_lanes import ActiveLanes
from pipeline.conflicts import KeyRules
from pipeline.dispatch import Dispatcher, Work
from pipeline.intake import Entry, Intake
from pipeline.lanes import Preferences
from pipeline.priorities import Priorities
from pipeline.schema_change import learn_changes
from pipeline.slicing import select
from pipeline.window import Restart, Window
from schemas.apply_unit import NORMAL, SERIAL, ApplyUnit
from schemas.change_batch import ChangeBatch
from schemas.change_batch_codec import encode_batch

# In flight at most. Small windows are many: the lanes merge what they find queued, and a few transactions a window
# would keep a merge of thousands from ever coming together. 64 MiB of records are kept for planning again.
WINDOWS_MAX = 1024
TRANSACTIONS_MAX = 64_000
BYTES_MAX = 64 * 1024 * 1024


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
        self.windows: deque[Window] = deque()
        self.applied = 0  # transactions, since this planner began
        self.bytes = 0  # of the records kept
        self._rules = rules
        self._shapes = start.shapes
        self._intake = Intake(stream, start, rules)
        self.chain = self._intake.chain
        normal = priorities.normal_lanes if priorities is not None else lanes
        self.active = ActiveLanes(1 if order == "commit" else normal)
        self._dispatcher = Dispatcher(stream, start.epoch, rules, self.active, prefer, priorities or None)
        self._serial_at: int | None = None

    @property
    def full(self) -> bool:
        """Whether planning must pause until windows are applied. An open large transaction never waits."""
        return self.chain.open_part < 0 and (
            len(self.windows) >= WINDOWS_MAX
            or self.bytes >= BYTES_MAX
            or self._dispatcher.queues.total >= TRANSACTIONS_MAX
        )

    def plan_serially(self, last_position: int) -> None:
        """Plan the window that ends at `last_position` as one unit in source order (hidden dependences)."""
        self._serial_at = last_position

    def renew(self, rules: KeyRules) -> None:
        """Plan by the target's catalogue as it is now."""
        if rules.catalogue == self._rules.catalogue:
            return
        self._rules = rules
        self._intake.renew(rules)
        self._dispatcher.renew(rules)

    def offer(self, batch: ChangeBatch, record: bytes, end_offset: int, token: object, now_us: int) -> list[ApplyUnit]:
        """Plan one batch and return its units, to be sent in this order.

        `end_offset` is the offset after the record. Raises StreamGapError when the chain is broken,
        StreamStoppedError when more must be parked than can be.
        """
        entry = self._intake.take(batch)
        window = self._open_window(entry, record if batch.whole else b"", end_offset, token)
        if entry.batch is not batch:
            record = encode_batch(entry.batch)
        work = Work(window, entry.batch, record, now_us)
        units = [self._dispatcher.park(work, entry.behind)] if entry.behind else []
        if not entry.wanted or (entry.batch.whole and not entry.batch.sections):
            self._dispatcher.nothing()
            return units
        return [*units, *self._apply(work, entry)]

    def _open_window(self, entry: Entry, kept: bytes, end_offset: int, token: object) -> Window:
        """The window of a record, of which `kept` stays in memory."""
        # A repeated record may be of an older generation, or parts of a transaction that ended long ago.
        chain = self.chain
        window = Window(
            chain.generation, entry.previous_position, chain.position, end_offset, chain.open_part < 0, token, kept
        )
        self.windows.append(window)
        self.bytes += len(kept)
        return window

    def _apply(self, work: Work, entry: Entry) -> list[ApplyUnit]:
        """The units of the transactions that are to be applied."""
        batch, window = work.batch, work.window
        serial = self._serial_at == batch.last_position
        if len(entry.wanted) < len(batch.positions):
            batch = select(batch, entry.wanted)
            work = Work(window, batch, encode_batch(batch), work.now_us)
        window.commit_times_us = batch.commit_times_us
        if self._shapes is not None:
            window.new_schema = learn_changes(batch, self._shapes, self._rules.catalogue)
        serial = serial or (window.new_schema and batch.kind == "live")
        return self._dispatcher.plan(work, SERIAL if serial else NORMAL)

    def progress(self, lane: int, epoch: int, seq: int) -> None:
        """Note that `lane` has applied up to `seq`. Other epochs and older news are ignored."""
        if epoch == self.epoch:
            self.applied += self._dispatcher.progress(lane, seq)

    def measure(self, now_us: int) -> None:
        """Let the controller of the active lanes see how fast the target applies. To be called often."""
        self._dispatcher.measure(now_us, self.applied)

    def retire(self) -> list[Window]:
        """Take out and return the windows at the front that are applied; parts only with their last."""
        done = 0
        for number, window in enumerate(self.windows, start=1):
            if not self._dispatcher.is_applied(window):
                break
            if window.last_part:
                done = number
        for _ in range(done):
            self._dispatcher.forget_window()
        retired = [self.windows.popleft() for _ in range(done)]
        self.bytes -= sum(len(window.record) for window in retired)
        return retired

    def oldest_us(self) -> int:
        """Source commit time of the oldest transaction in flight, 0 when there is none."""
        return next((window.commit_times_us[0] for window in self.windows if window.commit_times_us), 0)

    def queued_transactions(self) -> list[int]:
        """Transactions sent and not yet applied, a lane."""
        return list(self._dispatcher.queues.loads)
