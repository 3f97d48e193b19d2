"""One stream's planner inside the Faust application: events in, units out, the ledger asked when news stay away.

Decisions are in `pipeline.planner`; here is the order of things while partitions come and go: takeovers, waits, errors.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial

from faust.types import EventT

from connectors.errors import RefusedError
from connectors.failpoints import hit
from pipeline.conflicts import KeyRules
from pipeline.directory.preference import LanePreference
from pipeline.errors import HeadraceError, RetriableError, StreamStoppedError
from pipeline.planner import Planner
from pipeline.window import Window
from schemas.apply_unit import ApplyUnit
from schemas.change_batch_codec import decode_batch
from schemas.errors import SchemaError
from schemas.progress import Failure, Progress, decode_progress
from topologies.ledger_calls import LedgerCalls
from topologies.planner_report import PlannerReporter
from topologies.settings import Settings
from topologies.stream_parts import connect_ledger
from topologies.stream_settings import StreamConfig
from topologies.unit_sender import UnitSender
from topologies.watermark import Watermark, superseded

log = logging.getLogger(__name__)
STALL_S = 0.1  # without news from the lanes for so long, the ledger itself is asked


class StreamPlanner:
    """Plans one stream while its partition is assigned to this worker."""

    def __init__(
        self, settings: Settings, stream: StreamConfig, number: int, stop: Callable[[], Awaitable[None]],
        preference: LanePreference | None = None,
    ) -> None:  # fmt: skip
        self.fatal: Exception | None = None
        self._stream = stream
        self._place = f"topic {settings.topic('changes')}, partition {number}"
        self._stop = stop
        self._preference = preference
        self._ledger = LedgerCalls(partial(connect_ledger, stream))
        self._sender = UnitSender(settings, stream.name, number)
        self._reporter = PlannerReporter(settings, stream.name)
        self._watermark = Watermark(stream.name, self._ledger)
        self._planner: Planner | None = None
        self._next_offset = -1
        self._planning = asyncio.Lock()
        self._news = asyncio.Event()
        self._news_at_s = 0.0
        self._new_schema = False

    # -- change records --------------------------------------------------------------------------

    async def take(self, event: EventT[bytes]) -> None:
        """Plan one change record. Never raises: errors stop the stream, and the application if it is the last."""
        if self.fatal is not None:
            return
        try:
            await self._take(event)
        except Exception as error:  # noqa: BLE001 - Faust would acknowledge the event and lose it
            await self._fail(error, event.message.offset)

    async def _take(self, event: EventT[bytes]) -> None:
        async with self._planning:
            planner = self._planner or await self._take_over()
        offset = event.message.offset
        if offset < self._next_offset:
            self._redelivered(event)
            return
        if 0 <= self._next_offset < offset:
            raise RetriableError(
                f"stream {self._stream.name}: offset {offset} came after {self._next_offset - 1}; reading again"
            )
        while planner.full and planner is self._planner:
            await self._wait_for_news()
        async with self._planning:
            if self._planner is None:
                return  # the partition was lost while waiting; its new owner reads the record again
            units = self._offer(self._planner, event)
            self._next_offset = offset + 1
            await self._sender.send(units)
            self._retire()

    def _offer(self, planner: Planner, event: EventT[bytes]) -> list[ApplyUnit]:
        record, offset = event.value, event.message.offset
        try:
            return planner.offer(decode_batch(record), record, offset + 1, event, _now_us())
        except SchemaError as error:
            raise StreamStoppedError(
                f"stream {self._stream.name}: the record at {self._place}, offset {offset} can't be read: {error}. "
                "Nothing at or beyond it was applied; if a newer version wrote it, upgrade, else take a new snapshot."
            ) from error

    def _redelivered(self, event: EventT[bytes]) -> None:
        """After a rebalance Faust reads again from the committed offset: only the handle is new."""
        windows = self._planner.windows if self._planner is not None else ()
        for window in (*self._watermark.windows, *windows):
            if window.end_offset == event.message.offset + 1:
                window.token = event
                return
        event.ack()

    # -- epochs ----------------------------------------------------------------------------------

    async def _take_over(self) -> Planner:
        start = await self._ledger.call(lambda ledger: ledger.takeover())
        hit("plan.after_takeover")
        rules = await self._read_rules()
        target = self._stream.target
        self._planner = Planner(
            self._stream.name, start, rules, lanes=target.lanes, order=target.order,
            priorities=target.table_priorities(),
            prefer=self._preference,
        )  # fmt: skip
        self._next_offset = -1
        self._watermark.begin(start.epoch)
        self._reporter.begin(start)
        log.info(
            "stream %s: planning from position %d (generation %d) in epoch %d; %d transactions above it are applied",
            self._stream.name, start.watermark, start.generation, start.epoch, sum(map(len, start.applied.values())),
        )  # fmt: skip
        return self._planner

    async def _plan_again(self, failure: Failure, old: Planner) -> None:
        """Take over from `old`, itself: the window with the failed unit becomes one unit in source order."""
        if failure.poison:
            raise StreamStoppedError(failure.error)
        async with self._planning:
            if old is not self._planner:
                return
            log.warning("stream %s: planning again: %s", self._stream.name, failure.error)
            while self._watermark.windows and old is self._planner:  # news that come meanwhile retire more
                await self._watermark.advance()
            if old is not self._planner:
                return
            self._planner = None  # nothing retires while the next epoch begins
            windows = [*old.windows]
            planner = await self._take_over()
            self._next_offset = windows[-1].end_offset if windows else -1
            for window in windows:
                await self._offer_again(planner, window, failure)

    async def _offer_again(self, planner: Planner, window: Window, failure: Failure) -> None:
        if not window.record:
            raise RetriableError(f"stream {self._stream.name}: a large transaction has to be read again")
        batch = decode_batch(window.record)
        failed = batch.positions and batch.positions[0] <= failure.position <= batch.last_position
        if failed and failure.sqlstate:  # without one a unit was missing, and none was refused
            planner.plan_serially(batch.last_position)
        await self._sender.send(planner.offer(batch, window.record, window.end_offset, window.token, _now_us()))

    async def _read_rules(self) -> KeyRules:
        return KeyRules(await self._ledger.call(lambda ledger: ledger.catalogue()))

    async def _renew_rules(self, planner: Planner) -> None:
        """Read the target's catalogue again: a schema change is applied."""
        self._new_schema = False
        rules = await self._read_rules()
        async with self._planning:
            if planner is self._planner:
                planner.renew(rules)

    # -- news of the lanes -----------------------------------------------------------------------

    async def follow(self, value: bytes) -> None:
        """Take one progress record. Never raises: errors stop the stream, and the application if it is the last."""
        planner = self._planner
        if planner is None or self.fatal is not None:
            return
        try:
            progress = decode_progress(value)
        except SchemaError as error:
            log.warning("stream %s: a progress record can't be read: %s", self._stream.name, error)
            return
        if progress.stream != self._stream.name or progress.epoch != planner.epoch:
            return
        try:
            await self._hear(progress, planner)
        except Exception as error:  # noqa: BLE001 - logged and raised again by whoever runs the application
            await self._fail(error, -1)

    async def _hear(self, progress: Progress, planner: Planner) -> None:
        planner.progress(progress.lane, progress.epoch, progress.seq)
        if progress.failure is not None:
            await self._plan_again(progress.failure, planner)
        self._retire()
        self._news_at_s = time.monotonic()
        self._news.set()

    async def _wait_for_news(self) -> None:
        self._news.clear()
        try:
            await asyncio.wait_for(self._news.wait(), STALL_S)
        except TimeoutError:
            await self._ask_ledger()

    async def _ask_ledger(self) -> None:
        planner = self._planner
        if planner is None or self.fatal is not None:
            return
        if not await self._ledger.call(lambda ledger: ledger.is_current(planner.epoch)):
            if planner is self._planner:
                why = await self._ledger.call(lambda ledger: ledger.closed_by(planner.epoch))
                if why is None:
                    raise superseded(self._stream.name, planner.epoch)
                await self._plan_again(Failure(0, "", why, poison=False), planner)
            return
        rows = await self._ledger.call(lambda ledger: ledger.lane_rows())
        for lane, row in rows.items():
            planner.progress(lane, row.epoch, row.seq)
        self._retire()

    def _retire(self) -> None:
        if self._planner is not None:
            windows = self._planner.retire()
            self._reporter.applied(windows, _now_us())
            self._watermark.add(windows)
            self._new_schema = self._new_schema or any(window.new_schema for window in windows)

    async def tick(self) -> None:
        """Advance the watermark in the ledger and acknowledge what it has passed. To be called often; never raises."""
        try:
            self._sender.poll()
            if self._planner is not None and self.fatal is None:
                await self._tend(self._planner)
        except Exception as error:  # noqa: BLE001 - logged and raised again by whoever runs the application
            await self._fail(error, -1)

    async def _tend(self, planner: Planner) -> None:
        self._sender.require_delivered()
        now_us = _now_us()
        planner.measure(now_us)
        self._reporter.send_if_due(planner, self._sender.producer, now_us)
        stalled = bool(planner.windows) and time.monotonic() - self._news_at_s > STALL_S
        if stalled:
            await self._ask_ledger()
        if self._new_schema:
            await self._renew_rules(planner)
        # A lane may wait for the watermark before it goes on (retry at head): then at once.
        if stalled or self._watermark.due:
            await self._watermark.advance()

    # -- the end ---------------------------------------------------------------------------------

    def lose(self) -> None:
        """Forget everything: the partition went to another worker, or another planner took over."""
        self._planner = None
        self._next_offset = -1
        self._watermark.lose()
        self._news.set()

    async def fail(self, error: Exception) -> None:
        """Stop the stream: something that it needs can't go on."""
        await self._fail(error, -1)

    async def _fail(self, error: Exception, offset: int) -> None:
        if self.fatal is not None:
            return
        self.fatal = error
        place = f" at {self._place}, offset {offset}" if offset >= 0 else ""
        expected = isinstance(error, (HeadraceError, SchemaError, RefusedError))
        log.error("stream %s: the planner stops%s: %s", self._stream.name, place, error, exc_info=not expected)
        if isinstance(error, StreamStoppedError):
            await self._record_stop(str(error))
        asyncio.get_running_loop().call_soon(lambda: asyncio.ensure_future(self._stop()))

    async def _record_stop(self, reason: str) -> None:
        """Tell `headrace status` why; the log has it too, so one try is enough."""
        try:
            await self._ledger.once(lambda ledger: ledger.stop(reason))
        except HeadraceError as error:
            log.warning("%s", error)


def _now_us() -> int:
    return time.time_ns() // 1000
