"""The affinity topology: a Faust application that decides which node masters which block.

It takes reports of accesses (and affinity events from outside) from `grd-accesses`, and writes its decisions to the
compacted `grd-affinity`. Start it with `headrace affinity -c FILE`, or with
`HEADRACE_CONFIG=FILE faust -A topologies.affinity worker`. Several workers share the partitions.

**Guarantee:** one master an epoch of a block, whatever dies (`pipeline.directory.members`). A report may be lost.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from confluent_kafka import Producer
from faust.types import TP, EventT, StreamT
from mode.types.signals import BaseSignalT

from pipeline.directory.block import BlockId, partition_of
from pipeline.errors import ConfigError, RetriableError
from schemas.errors import SchemaError
from schemas.grd_accesses import decode_accesses
from schemas.grd_affinity import decode_affinity
from schemas.single_object import HEADER_BYTES, codec
from topologies.faust_app import app_on_demand, make_app, raw_topic
from topologies.kafka import make_admin, make_producer
from topologies.membership import Membership, read_membership
from topologies.partition_decider import PartitionDecider
from topologies.predecessor import remove_predecessor
from topologies.settings import Settings
from topologies.topics import KEYED_PARTITIONS, ensure_topics

log = logging.getLogger(__name__)
TICK_S = 1.0
GONE_TICKS = 3  # a node has to be missing for so long: one that is started again comes back


class AffinityApp:
    """The Faust application and the deciders of its partitions."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.fatal: Exception | None = None
        self.app = make_app(settings, "affinity")
        self.refused = 0
        self._topic = settings.topic("grd-accesses")
        self._admin = make_admin(settings)
        self._deciders: dict[int, PartitionDecider] = {}
        self._seen: dict[str, int] = {}  # node -> ticks since it was seen
        self._producer: Producer | None = None
        self.app.agent(raw_topic(self.app, self._topic), name="observe")(self._observe)
        self.app.timer(TICK_S)(self._tick)
        self.app.on_partitions_assigned.connect(self._assigned, weak=False)
        self.app.on_partitions_revoked.connect(self._revoked, weak=False)

    async def _observe(self, stream: StreamT[bytes]) -> None:
        async for event in stream.events():
            try:
                self._take(event)
            except (SchemaError, ValueError) as error:
                self.refused += 1
                place = f"partition {event.message.partition}, offset {event.message.offset}"
                log.warning("topic %s, %s: %s", self._topic, place, error)

    def _take(self, event: EventT[bytes]) -> None:
        value, decider = event.value, self._deciders.get(event.message.partition)
        if decider is None:
            return
        if value[:HEADER_BYTES] == codec("grd_affinity").header:
            wanted = decode_affinity(value)
            home = partition_of(BlockId.parse(wanted.block), KEYED_PARTITIONS)
            if home == decider.partition:
                decider.request(wanted)
            else:  # whoever wrote it hashes otherwise
                self._forward(value, wanted.block, home)
        else:
            decider.observe(decode_accesses(value), time.time_ns() // 1000)

    def _forward(self, value: bytes, block: str, partition: int) -> None:
        if self._producer is None:
            self._producer = make_producer(self.settings)
        self._producer.produce(self._topic, value, key=block, partition=partition)
        self._producer.poll(0)

    async def _tick(self) -> None:
        try:
            membership = await asyncio.to_thread(read_membership, self._admin, self.settings)
            nodes = self._present(membership)
            for decider in list(self._deciders.values()):
                await decider.tick(nodes)
        except RetriableError as error:
            log.warning("%s; the directory stays as it is", error)
        except Exception as error:
            log.exception("affinity failed; this is a bug")
            self.fatal = error
            asyncio.get_running_loop().call_soon(lambda: asyncio.ensure_future(self.app.stop()))

    def _present(self, membership: Membership) -> frozenset[str]:
        """The nodes seen lately. While a group rebalances it may show some of its members only."""
        if membership.settled:
            self._seen = {node: ticks + 1 for node, ticks in self._seen.items() if ticks < GONE_TICKS}
        self._seen.update(dict.fromkeys(membership.nodes, 0))
        return frozenset(self._seen)

    async def _assigned(self, *args: Any, signal: BaseSignalT[Any], **_: Any) -> None:  # noqa: ARG002
        for partition in self._partitions(args[-1]):
            self._deciders.setdefault(partition, PartitionDecider(self.settings, partition))

    async def _revoked(self, *args: Any, signal: BaseSignalT[Any], **_: Any) -> None:  # noqa: ARG002
        for partition in self._partitions(args[-1]):
            self._deciders.pop(partition, None)

    def _partitions(self, found: set[TP]) -> list[int]:
        return [tp.partition for tp in found if tp.topic == self._topic]


def create(settings: Settings) -> AffinityApp:
    """Make the application. Raises ConfigError, RetriableError."""
    if not settings.directory.enabled:
        raise ConfigError("the directory is off: set directory.enabled = true to have blocks move between nodes")
    remove_predecessor(settings, settings.group("affinity"))
    app = AffinityApp(settings)
    ensure_topics(make_admin(settings), settings)
    return app


__getattr__ = app_on_demand(__name__, create)
