"""One stream's planner inside the Faust application: events in, units out, ledger and acknowledgements.

Decisions are in `pipeline.planner`; here are the waits, the threads for database calls, the retries.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

from confluent_kafka import KafkaError, Message, Producer
from faust.types import EventT

from connectors.errors import RefusedError
from connectors.failpoints import hit
from connectors.ledger import Ledger
from pipeline.conflicts import KeyRules
from pipeline.directory.preference import LanePreference
from pipeline.errors import HeadraceError, RetriableError, StreamStoppedError
from pipeline.lag import Histogram
from pipeline.planner import Planner
from pipeline.window import Window
from schemas.apply_unit import LANES_MAX, ApplyUnit, encode_unit
from schemas.change_batch_codec import decode_batch
from schemas.errors import SchemaError
from schemas.progress import Failure, decode_progress
from topologies.kafka import make_producer
from topologies.planner_report import planner_report
from topologies.reporting import Reporter
from topologies.settings import Settings
from topologies.stream_parts import connect_ledger
from topologies.stream_settings import StreamConfig

log = logging.getLogger(__name__)
BACKOFF_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
STALL_S = 0.1  # without news from the lanes for so long, the ledger itself is asked
ADVANCE_S = 0.5  # between two advances of the watermark
FULL_S = 0.05
T = TypeVar("T")


class StreamPlanner:
    """Plans one stream while its partition is assigned to this worker."""

    def __init__(
        self, settings: Settings, stream: StreamConfig, number: int, stop: Callable[[], Awaitable[None]],
        preference: LanePreference | None = None,
    ) -> None:  # fmt: skip
        self.fatal: Exception | None = None
        self._settings = settings
        self._stream = stream
        self._number = number
        self._stop = stop
        self._preference = preference
        self._units_topic = settings.topic("units")
        self._changes_topic = settings.topic("changes")
        self._ledger: Ledger | None = None
        self._ledger_lock = threading.Lock()
        self._producer: Producer | None = None
        self._planner: Planner | None = None
        self._next_offset = -1
        self._retired: deque[Window] = deque()
        self._news = asyncio.Event()
        self._news_at_s = 0.0
        self._advanced_s = 0.0
        self._lock = asyncio.Lock()
        self._advancing = asyncio.Lock()  # taken alone, or within the other: planning goes on meanwhile
        self._undelivered = ""
        self._reporter = Reporter(settings, stream.name, "plan")
        self._visible = Histogram()  # since the last report
        self._passed = (0, 0)  # generation and position: the planner's own watermark, ahead of the ledger's
        self._new_schema = False

    async def take(self, event: EventT[bytes]) -> None:
        """Plan one change record. Never raises: errors stop the stream, and the application if it is the last."""
        if self.fatal is not None:
            return
        try:
            await self._take(event)
        except Exception as error:  # noqa: BLE001 - Faust would acknowledge the event and lose it
            await self._fail(error, event.message.offset)

    async def _take(self, event: EventT[bytes]) -> None:
        async with self._lock:
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
        async with self._lock:
            if self._planner is None:
                return  # the partition was lost while waiting; its new owner reads the record again
            units = self._offer(self._planner, event)
            self._next_offset = offset + 1
            await self._send(units)
            self._retire()

    def _offer(self, planner: Planner, event: EventT[bytes]) -> list[ApplyUnit]:
        record, offset = event.value, event.message.offset
        try:
            return planner.offer(decode_batch(record), record, offset + 1, event, time.time_ns() // 1000)
        except SchemaError as error:
            raise StreamStoppedError(
                f"stream {self._stream.name}: the record at topic {self._changes_topic}, partition {self._number}, "
                f"offset {offset} can't be read: {error}. Nothing at or beyond it was applied; if a newer version "
                "wrote it, upgrade, else take a new snapshot."
            ) from error

    async def _take_over(self) -> Planner:
        start = await self._with_ledger(lambda ledger: ledger.takeover())
        hit("plan.after_takeover")
        rules = KeyRules(await self._with_ledger(lambda ledger: ledger.catalogue()))
        target = self._stream.target
        self._planner = Planner(
            self._stream.name, start, rules, lanes=target.lanes, order=target.order,
            priorities=target.table_priorities(),
            prefer=self._preference,
        )  # fmt: skip
        self._next_offset = -1
        self._passed = (start.generation, start.watermark)
        log.info(
            "stream %s: planning from position %d (generation %d) in epoch %d; %d transactions above it are applied",
            self._stream.name, start.watermark, start.generation, start.epoch, sum(map(len, start.applied.values())),
        )  # fmt: skip
        return self._planner

    def _redelivered(self, event: EventT[bytes]) -> None:
        """After a rebalance Faust reads again from the committed offset: only the handle is new."""
        windows = self._planner.windows if self._planner is not None else ()
        for window in (*self._retired, *windows):
            if window.end_offset == event.message.offset + 1:
                window.token = event
                return
        event.ack()

    async def _send(self, units: list[ApplyUnit]) -> None:
        producer = self._made_producer()
        hit("plan.before_send")
        for number, unit in enumerate(units):
            if number:
                hit("plan.between_units")
            record = encode_unit(unit)
            while not self._produce(producer, unit.lane, record):  # noqa: ASYNC110 - librdkafka has no event
                await asyncio.sleep(FULL_S)
        producer.poll(0)

    def _made_producer(self) -> Producer:
        if self._producer is None:
            self._producer = make_producer(self._settings)
        return self._producer

    def _produce(self, producer: Producer, lane: int, record: bytes) -> bool:
        """Whether the producer took the record; it is full while the broker is away."""
        try:
            producer.produce(
                self._units_topic, record, key=f"{self._stream.name}/{lane}",
                partition=LANES_MAX * self._number + lane, on_delivery=self._delivered,
            )  # fmt: skip
        except BufferError:
            producer.poll(0)
            return False
        return True

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._undelivered = error.str()
            return
        hit("plan.after_send")

    async def follow(self, value: bytes) -> None:
        """Take one progress record. Never raises: errors stop the stream, and the application if it is the last."""
        if self._planner is None or self.fatal is not None:
            return
        try:
            progress = decode_progress(value)
        except SchemaError as error:
            log.warning("stream %s: a progress record can't be read: %s", self._stream.name, error)
            return
        try:
            planner = self._planner
            if progress.stream != self._stream.name or progress.epoch != planner.epoch:
                return
            planner.progress(progress.lane, progress.epoch, progress.seq)
            if progress.failure is not None:
                await self._plan_again(progress.failure, planner)
            self._retire()
            self._wake()
        except Exception as error:  # noqa: BLE001 - logged and raised again by whoever runs the application
            await self._fail(error, -1)

    async def _plan_again(self, failure: Failure, old: Planner) -> None:
        """Take over from `old`, itself: the window with the failed unit becomes one unit in source order."""
        if failure.poison:
            raise StreamStoppedError(failure.error)
        async with self._lock:
            if old is not self._planner:
                return
            log.warning("stream %s: planning again: %s", self._stream.name, failure.error)
            while self._retired and old is self._planner:  # news that come meanwhile retire more
                await self._advance(old)
            if old is not self._planner:
                return
            self._planner = None  # nothing retires while the next epoch begins
            windows = [*old.windows]
            planner = await self._take_over()
            self._next_offset = windows[-1].end_offset if windows else -1
            for window in windows:
                if not window.record:
                    raise RetriableError(f"stream {self._stream.name}: a large transaction has to be read again")
                batch = decode_batch(window.record)
                failed = batch.positions and batch.positions[0] <= failure.position <= batch.last_position
                if failed and failure.sqlstate:  # without one a unit was missing, and none was refused
                    planner.plan_serially(batch.last_position)
                units = planner.offer(batch, window.record, window.end_offset, window.token, time.time_ns() // 1000)
                await self._send(units)

    def _wake(self) -> None:
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
        if not await self._with_ledger(lambda ledger: ledger.is_current(planner.epoch)):
            if planner is self._planner:
                why = await self._with_ledger(lambda ledger: ledger.closed_by(planner.epoch))
                if why is None:
                    raise self._superseded(planner)
                await self._plan_again(Failure(0, "", why, poison=False), planner)
            return
        rows = await self._with_ledger(lambda ledger: ledger.lane_rows())
        for lane, row in rows.items():
            planner.progress(lane, row.epoch, row.seq)
        self._retire()

    def _retire(self) -> None:
        if self._planner is not None:
            now_us = time.time_ns() // 1000
            for window in self._planner.retire():
                window.record = b""
                self._retired.append(window)
                self._passed = (window.generation, window.last_position)
                self._visible.add_sample(now_us, window.commit_times_us)
                self._new_schema = self._new_schema or window.new_schema

    async def _renew_rules(self, planner: Planner) -> None:
        """Read the target's catalogue again: a schema change is applied."""
        self._new_schema = False
        rules = KeyRules(await self._with_ledger(lambda ledger: ledger.catalogue()))
        async with self._lock:
            if planner is self._planner:
                planner.renew(rules)

    async def tick(self) -> None:
        """Advance the watermark in the ledger and acknowledge what it has passed."""
        try:
            if self._producer is not None:
                self._producer.poll(0)
            planner = self._planner
            if planner is None or self.fatal is not None:
                return
            if self._undelivered:
                raise RetriableError(f"stream {self._stream.name}: a unit was not delivered: {self._undelivered}")
            planner.measure(time.time_ns() // 1000)
            if self._reporter.due():
                self._report(planner, self._made_producer())
            now_s = time.monotonic()
            stalled = bool(planner.windows) and now_s - self._news_at_s > STALL_S
            if stalled:
                await self._ask_ledger()
            if self._new_schema:
                await self._renew_rules(planner)
            # A lane may wait for the watermark before it goes on (retry at head): then at once.
            if self._retired and (stalled or now_s - self._advanced_s >= ADVANCE_S):
                self._advanced_s = now_s
                await self._advance(planner)
        except Exception as error:  # noqa: BLE001 - logged and raised again by whoever runs the application
            await self._fail(error, -1)

    def _report(self, planner: Planner, producer: Producer) -> None:
        visible, self._visible = self._visible, Histogram()
        report = planner_report(planner, self._passed, {"visible": visible.encode()}, time.time_ns() // 1000)
        self._reporter.send(producer, report)

    async def _advance(self, planner: Planner) -> None:
        async with self._advancing:
            await self._advance_alone(planner)

    async def _advance_alone(self, planner: Planner) -> None:
        windows = list(self._retired)
        if not windows or planner is not self._planner:
            return
        last = windows[-1]
        time_us = max(window.commit_time_us for window in windows)
        position = (planner.epoch, last.generation, last.last_position, time_us, last.end_offset)
        hit("plan.before_advance")
        if not await self._with_ledger(lambda ledger: ledger.advance(*position)):
            raise self._superseded(planner)
        hit("plan.after_advance")
        if planner is not self._planner:
            return  # the partition was lost meanwhile, and its events with it
        for window in windows:
            self._retired.popleft()
            if isinstance(window.token, EventT):
                window.token.ack()

    def _superseded(self, planner: Planner) -> RetriableError:
        # The records planned here were not acknowledged: whoever starts next reads them again.
        return RetriableError(
            f"stream {self._stream.name}: epoch {planner.epoch} is over, since another planner took over or a crash of "
            "the target may have lost commits; starting again"
        )

    async def _with_ledger(self, call: Callable[[Ledger], T]) -> T:
        """Run a ledger call in a thread; reconnect with backoff while the target is away."""
        attempt = 0
        while True:
            try:
                return await asyncio.to_thread(self._call, call)
            except RetriableError as error:
                pause_s = BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)]
                log.warning("%s; trying again in %.1f s", error, pause_s)
                attempt += 1
                await asyncio.sleep(pause_s)

    def _call(self, call: Callable[[Ledger], T]) -> T:
        """One at a time, though several tasks may ask: their transactions share the connection."""
        with self._ledger_lock:
            try:
                if self._ledger is None:
                    self._ledger = connect_ledger(self._stream)
                    self._ledger.ensure()
                return call(self._ledger)
            except RetriableError:
                if self._ledger is not None:
                    self._ledger.close()
                    self._ledger = None
                raise

    def lose(self) -> None:
        """Forget everything: the partition went to another worker, or another planner took over."""
        self._planner = None
        self._next_offset = -1
        self._retired.clear()
        self._news.set()

    async def _record_stop(self, reason: str) -> None:
        """Tell `headrace status` why; the log has it too, so one try is enough."""
        try:
            await asyncio.to_thread(self._call, lambda ledger: ledger.stop(reason))
        except HeadraceError as error:
            log.warning("%s", error)

    async def fail(self, error: Exception) -> None:
        """Stop the stream: something that it needs can't go on."""
        await self._fail(error, -1)

    async def _fail(self, error: Exception, offset: int) -> None:
        if self.fatal is not None:
            return
        self.fatal = error
        place = f" at topic {self._changes_topic}, partition {self._number}, offset {offset}" if offset >= 0 else ""
        expected = isinstance(error, (HeadraceError, SchemaError, RefusedError))
        log.error("stream %s: the planner stops%s: %s", self._stream.name, place, error, exc_info=not expected)
        if isinstance(error, StreamStoppedError):
            await self._record_stop(str(error))
        asyncio.get_running_loop().call_soon(lambda: asyncio.ensure_future(self._stop()))
