"""The planner: a Faust application that turns change batches into units for the apply lanes.

Start it with `headrace plan -c FILE`, or with `HEADRACE_CONFIG=FILE faust -A topologies.planner worker`.

Faust's acknowledgements are hints here (design, rule 4): events are taken without automatic
acknowledgement and acknowledged in order once the ledger's watermark has passed them. An agent body never
raises, since Faust would acknowledge and lose the event.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from faust.streams import Stream
from faust.types import TP, StreamT
from mode.types.signals import BaseSignalT

from pipeline.directory.preference import LanePreference
from pipeline.errors import HeadraceError
from topologies.directory_follower import DirectoryFollower
from topologies.faust_app import app_on_demand, make_app, raw_topic
from topologies.heartbeat import Heartbeat
from topologies.predecessor import remove_predecessor
from topologies.progress_feed import follow_progress
from topologies.rewind import rewind_groups
from topologies.settings import Settings
from topologies.stopped_streams import OPERATOR_ERRORS
from topologies.stream_planner import StreamPlanner
from topologies.stream_queue import StreamQueue

log = logging.getLogger(__name__)
TICK_S = 0.1


class PlannerApp:
    """The Faust application and its stream planners."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.app = make_app(settings, "plan")
        self.directory = DirectoryFollower(settings, lanes=True) if settings.directory.enabled else None
        self._ending = False
        self._following = asyncio.Event()
        self._heartbeat = Heartbeat.from_environment()
        names = {number: name for name, number in settings.numbers().items()}
        self.planners = {
            number: StreamPlanner(settings, settings.stream(name), number, self._stopped, self._preference(name))
            for number, name in names.items()
        }
        self._queues = {
            number: StreamQueue(planner.take, self.app.add_future, self._hold, self._release)
            for number, planner in self.planners.items()
        }
        self.app.agent(raw_topic(self.app, settings.topic("changes")), name="plan")(self._plan)
        self.app.task(self._follow)
        self.app.timer(TICK_S)(self._tick)
        self.app.on_partitions_revoked.connect(self._revoked, weak=False)
        if self.directory is not None:
            self.directory.start()

    def _preference(self, stream: str) -> LanePreference | None:
        directory, number = self.directory, self.settings.numbers()[stream]
        if directory is None:
            return None
        buckets = self.settings.cache.buckets
        return LanePreference(stream, directory, buckets, lambda: directory.lanes.get(number, {}))

    @property
    def fatal(self) -> Exception | None:
        """The error that stopped the application or, when it ends, a stream of it; one that may pass first.

        Without its directory the planner would prefer lanes by what was true once, so that ends it too.
        """
        if self.directory is not None and self.directory.fatal is not None:
            return self.directory.fatal
        errors = [planner.fatal for planner in self.planners.values() if planner.fatal is not None]
        return next((error for error in errors if not isinstance(error, OPERATOR_ERRORS)), next(iter(errors), None))

    async def _stopped(self) -> None:
        """A stream has stopped: the application goes on while there are others, unless trying again may help."""
        running = any(planner.fatal is None for planner in self.planners.values())
        if not running or not isinstance(self.fatal, OPERATOR_ERRORS):
            await self.app.stop()

    def _hold(self, tp: TP) -> None:
        self.app.consumer.on_buffer_full(TP(tp.topic, tp.partition))  # of a message, it is the driver's own class

    def _release(self, tp: TP) -> None:
        self.app.consumer.on_buffer_drop(TP(tp.topic, tp.partition))

    async def _plan(self, stream: StreamT[bytes]) -> None:
        if not isinstance(stream, Stream):
            raise TypeError("noack() is a method of faust.Stream")
        await self._following.wait()  # a planner's epoch begins after the place from which its progress is read
        async for event in stream.noack().events():
            queue = self._queues.get(event.message.partition)
            if queue is not None:
                queue.put(event)

    async def _follow(self) -> None:
        try:
            await follow_progress(
                self.settings, [*self.planners], self._progressed, self._following.set, lambda: self.app.should_stop
            )
        except HeadraceError as error:
            for planner in self.planners.values():
                await planner.fail(error)

    async def _progressed(self, number: int, record: bytes) -> None:
        await self.planners[number].follow(record)

    async def _tick(self) -> None:
        self._heartbeat.beat()
        if self.directory is not None and self.directory.fatal is not None and not self._ending:
            self._ending = True
            log.error("the planner stops, its directory can't be followed: %s", self.directory.fatal)
            asyncio.get_running_loop().call_soon(lambda: asyncio.ensure_future(self.app.stop()))
        for planner in self.planners.values():
            await planner.tick()

    async def _revoked(self, *args: Any, signal: BaseSignalT[Any], **_: Any) -> None:  # noqa: ARG002
        revoked: set[TP] = args[-1]
        for tp in revoked:
            if tp.topic == self.settings.topic("changes") and tp.partition in self.planners:
                self._queues[tp.partition].clear()
                self.planners[tp.partition].lose()


def create(settings: Settings) -> PlannerApp:
    """Make the application, after rewinding offsets that are ahead of the ledger (rule 4)."""
    remove_predecessor(settings, settings.group("plan"))
    rewind_groups(settings)
    return PlannerApp(settings)


__getattr__ = app_on_demand(__name__, create)
