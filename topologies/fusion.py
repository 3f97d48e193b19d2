"""The journal of blocks: a Faust application that keeps the newest version of each block in `fusion-blocks`.

Nodes, and outside producers, write FusionBlock records to `fusion-updates`. Those that are newer than what the
journal has (generation, then epoch, then version) are copied to `fusion-blocks`; of tables that are not cached any
more, or that the target has no more, the journal gets tombstones. `updates` and `blocks` are partitioned alike, so a
worker that is given a partition of updates reads the same one of the journal first.

**Guarantee:** the journal never goes back. A record that is copied twice (a worker died before its acknowledgement)
is the same record.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import Any

from confluent_kafka import KafkaException, Producer, TopicPartition
from faust.types import TP, EventT, StreamT

from pipeline.cache.orphans import orphans
from pipeline.cache.records import Stamp, block_id_of, stamp
from pipeline.errors import ConfigError, RetriableError
from pipeline.selection import selected
from schemas.errors import SchemaError
from schemas.fusion_block import FusionBlock, decode_fusion_block
from topologies.faust_app import app_on_demand, make_app, raw_topic
from topologies.kafka import TIMEOUT_S, make_admin, make_consumer, make_producer
from topologies.predecessor import remove_predecessor
from topologies.settings import Settings
from topologies.target_rows import target_tables
from topologies.topics import ensure_topics

log = logging.getLogger(__name__)
POLL_S = 1.0
LOG_S = 30.0
SWEEP_S = 10.0  # between two looks at which tables the targets have


class FusionApp:
    """The Faust application. `fatal` is the error that stopped it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.fatal: Exception | None = None
        self.counts: Counter[str] = Counter()
        self.app = make_app(settings, "fusion")
        self._producer: Producer = make_producer(settings)
        self._newest: dict[int, dict[bytes, Stamp]] = {}
        self._assigned: set[int] = set()
        self._loading = asyncio.Lock()
        self._revocations = 0
        self._undelivered = ""
        self._updates = settings.topic("fusion-updates")
        self.app.agent(raw_topic(self.app, self._updates), name="keep")(self._keep)
        self.app.on_partitions_assigned.connect(self._given, weak=False)
        self.app.on_partitions_revoked.connect(self._revoked, weak=False)
        self.app.timer(SWEEP_S)(self._sweep)
        self.app.timer(LOG_S)(self._log)

    async def _keep(self, stream: StreamT[bytes]) -> None:
        """Decide on each update. Never raises: Faust would take the event for handled."""
        async for event in stream.events():
            try:
                await self._decide(event)
            except Exception as error:  # noqa: BLE001 - stops the application, which begins again from the journal
                self.fatal = self.fatal or error
                await self.app.stop()
                return

    async def _decide(self, event: EventT[bytes]) -> None:
        if self._undelivered:
            raise RetriableError(f"the journal of blocks: {self._undelivered}")
        partition, key, value = event.message.partition, event.message.key, event.message.value
        newest = self._newest.get(partition) or await self._load(partition)
        try:
            block = decode_fusion_block(value or b"")
        except SchemaError as error:
            self.counts["unreadable"] += 1
            log.warning("an update of the journal of blocks is refused: %s", error)
            return
        name = _name(block)
        if key != name or not self._cached(block):
            self.counts["unknown_block"] += 1
            log.warning("an update of block %s under key %r is refused: no such table is cached", name.decode(), key)
        elif name in newest and stamp(block) < newest[name]:
            self.counts["older"] += 1
        else:
            newest[name] = stamp(block)
            self.counts["kept"] += 1
            self._write(partition, name, value)

    async def _load(self, partition: int) -> dict[bytes, Stamp]:
        """Stamps of what the journal has of a partition; read once, and again if it was taken away meanwhile."""
        async with self._loading:
            while partition not in self._newest:
                before = self._revocations
                found = await asyncio.to_thread(self._read_journal, partition)
                if before == self._revocations:
                    self._newest[partition] = found
            return self._newest[partition]

    async def _sweep(self) -> None:
        """Tombstones for the blocks of tables that their target does not have."""
        try:
            for partition in [*self._assigned]:
                await self._load(partition)
            targets = await asyncio.to_thread(target_tables, self.settings)
        except RetriableError as error:
            log.warning("%s; tables that are gone stay in the journal until it can be read", error)
            return
        for partition, newest in self._newest.items():
            for key in orphans(newest, targets):
                del newest[key]
                self._write(partition, key, None)
                self.counts["orphans"] += 1

    def _cached(self, block: FusionBlock) -> bool:
        streams = {stream.name: stream.cache for stream in self.settings.streams}
        return selected((block.schema, block.table), streams.get(block.stream, ()), ())

    def _write(self, partition: int, key: bytes, value: bytes | None) -> None:
        self._producer.produce(
            self.settings.topic("fusion-blocks"), value, key=key, partition=partition, on_delivery=self._delivered
        )
        self._producer.poll(0)

    def _delivered(self, error: object, _: object) -> None:
        if error is not None:
            self._undelivered = str(error)

    def _read_journal(self, partition: int) -> dict[bytes, Stamp]:
        """Stamps of what the journal has; what is no block of a table that is cached gets a tombstone."""
        topic = self.settings.topic("fusion-blocks")
        newest: dict[bytes, Stamp] = {}
        consumer = make_consumer(self.settings, self.settings.group("fusion-journal"))
        try:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=TIMEOUT_S)
            consumer.assign([TopicPartition(topic, partition, low)])
            dropped = set()
            while low < high:
                for message in consumer.consume(500, timeout=POLL_S):
                    if message.error() is not None:
                        raise RetriableError(f"reading {topic}: {message.error()}")
                    low = max(low, (message.offset() or 0) + 1)
                    key, value = message.key(), message.value()
                    if not isinstance(key, bytes):
                        continue
                    dropped.discard(key)
                    if value is None:
                        newest.pop(key, None)
                    elif (block := _readable(key, value)) is not None and self._cached(block):
                        newest[key] = stamp(block)
                    else:
                        dropped.add(key)
        except KafkaException as error:
            raise RetriableError(f"reading {topic}: {error.args[0].str()}") from error
        finally:
            consumer.close()
        for key in dropped:
            newest.pop(key, None)
            self._write(partition, key, None)
        self.counts["tombstones"] += len(dropped)
        log.info("partition %d of the journal has %d blocks; %d were dropped", partition, len(newest), len(dropped))
        return newest

    async def _given(self, *args: Any, **_: object) -> None:
        """The partitions that this worker has now."""
        self._assigned |= self._partitions(args[-1])

    async def _revoked(self, *args: Any, **_: object) -> None:
        """Whoever gets the partitions reads the journal first, and so does this worker if they come back."""
        self._assigned -= self._partitions(args[-1])
        self._revocations += 1
        self._newest.clear()
        await asyncio.to_thread(self._producer.flush, TIMEOUT_S)

    def _partitions(self, found: set[TP]) -> set[int]:
        return {tp.partition for tp in found if tp.topic == self._updates}

    async def _log(self) -> None:
        if self.counts:
            log.info("journal of blocks: %s", ", ".join(f"{name} {count}" for name, count in self.counts.items()))


def _readable(key: bytes, value: bytes) -> FusionBlock | None:
    try:
        block = decode_fusion_block(value)
    except SchemaError:
        return None
    return block if _name(block) == key else None


def _name(block: FusionBlock) -> bytes:
    return str(block_id_of(block)).encode()


def create(settings: Settings) -> FusionApp:
    """Make the application, its topics first. Raises ConfigError, RetriableError."""
    if not settings.cached_streams():
        raise ConfigError("no stream has cached tables: name some in `cache` of a stream")
    ensure_topics(make_admin(settings), settings)
    remove_predecessor(settings, settings.group("fusion"))
    return FusionApp(settings)


__getattr__ = app_on_demand(__name__, create)
