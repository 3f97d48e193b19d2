"""The cache node: followers, peers and readers in one process.

**Guarantee:** an answer is the target's row at the position it names or later, and that position is at least the
one asked for; else the answer is a refusal.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from connectors.errors import KeyTextError, RefusedError
from pipeline.cache.conflict import row_tag
from pipeline.cache.store import BlockStore
from pipeline.cache.view import Answer
from pipeline.directory.block import BlockId
from pipeline.directory.directory import Change
from pipeline.errors import RetriableError
from schemas.change_batch import Relation
from topologies.access_reports import AccessReports
from topologies.cache_exchange import Exchange
from topologies.cache_follower import StreamFollower
from topologies.cache_members import DirectedMembers, Members
from topologies.cache_reader import NotYetError, StreamReader
from topologies.cache_report import CACHE_ROLE, cache_report
from topologies.cache_state import NodeState
from topologies.cache_transfers import Fetched
from topologies.directory_follower import DirectoryFollower
from topologies.kafka import make_admin
from topologies.reporting import Reporter
from topologies.settings import Settings
from topologies.target_rows import connect_rows
from topologies.topics import ensure_topics

log = logging.getLogger(__name__)
TICK_S = 0.1
STOP_S = 5.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RowAnswer:
    """A row as of `position` or later; `origin` is cache, peer or target, `tag` stands for its image."""

    position: int
    row: dict[str, object] | None
    origin: str
    tag: str

    def said(self) -> dict[str, object]:
        """The answer as HTTP tells it."""
        return {"position": self.position, "row": self.row, "from": self.origin, "tag": self.tag}


@dataclass(frozen=True, slots=True)
class _Asked:
    """A key's bytes, and the relation that they are of."""

    relation: Relation
    key: bytes


class CacheNode(NodeState):
    """One node. `serve` runs until told to stop."""

    def __init__(self, settings: Settings) -> None:
        self.directory: DirectoryFollower | None = None
        self._accesses: AccessReports | None = None
        members, store = Members(settings.cache.node), BlockStore(settings.cache.memory_bytes_max)
        if settings.directory.enabled:
            self.directory = DirectoryFollower(settings, node=settings.cache.node, changed=self._remastered)
            members = DirectedMembers(settings.cache.node, self.directory.directory)
            store = BlockStore(settings.cache.memory_bytes_max, self._mastered, self._evicted)
            self._accesses = AccessReports(settings)
        super().__init__(settings, members, store)
        self.exchange = Exchange(self)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reporters = {
            stream.name: Reporter(settings, stream.name, f"{CACHE_ROLE}/{settings.cache.node}")
            for stream in settings.cached_streams()
        }

    # ---- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start followers and peers."""
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(ensure_topics, make_admin(self.settings), self.settings)
        await self.exchange.start()
        if self.directory is not None:
            self.directory.start()
        for stream in self.settings.cached_streams():
            follower = StreamFollower(
                self.settings, stream, self.members, self.store, self.lock, lambda s=stream: connect_rows(s),  # type: ignore[misc]
                self.producer, self._moved,
            )  # fmt: skip
            self.readers[stream.name] = StreamReader(stream, follower)
            follower.start()

    async def stop(self) -> None:
        """Stop everything."""
        for reader in self.readers.values():
            reader.follower.stop()
        await self.exchange.stop()
        if self.directory is not None:
            await asyncio.to_thread(self.directory.stop)
        for reader in self.readers.values():
            await asyncio.to_thread(reader.follower.join, STOP_S)
            await asyncio.get_running_loop().run_in_executor(reader.pool, reader.drop)
            reader.pool.shutdown(wait=False)
        await asyncio.to_thread(self.producer.flush, STOP_S)

    def tick(self) -> None:
        """Look after peers and failures. Raises what a follower has failed with."""
        for reader in self.readers.values():
            if reader.follower.fatal is not None:
                raise reader.follower.fatal
        if self.directory is not None and self.directory.fatal is not None:
            raise self.directory.fatal
        if self._accesses is not None:
            self._accesses.publish(self.producer)
        self.exchange.tick()
        self._report()

    def _report(self) -> None:
        """Tell what the transfers came to, a second apart."""
        for name, reporter in self._reporters.items():
            if reporter.due():
                reporter.send(self.producer, cache_report(self, self.exchange.transfers.routes, name))

    def _mastered(self, block: BlockId) -> bool:
        """Whether others would ask this node for the block: it uses it most, and copies elsewhere go first."""
        return self.members.owner(block).node == self.settings.cache.node

    def _evicted(self, block: BlockId) -> None:
        """Tell the deciders that this node is no holder any more (the thread of whoever adds to the cache)."""
        if self._accesses is not None and self.settings.cache.node in self.members.holders(block):
            self._accesses.evicted(block)

    def _remastered(self, change: Change) -> None:
        """The directory has moved a block (its follower's thread)."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.exchange.moved, change)

    # ---- positions -------------------------------------------------------------------------------

    def _moved(self, stream: str) -> None:
        """A follower has moved (its thread): wake readers."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.readers[stream].wake)

    # ---- rows ------------------------------------------------------------------------------------

    async def read(
        self, stream: str, table: tuple[str, str], key: Sequence[str], position: int, wait_s: float
    ) -> RowAnswer:
        """Read a row no older than `position`. Raises KeyTextError, NotYetError, RetriableError, ConfigError."""
        reader = self.readers.get(stream)
        if reader is None or not reader.follower.wanted(table):
            raise KeyTextError(f"{'.'.join(table)} of stream {stream!r} is not cached; see `cache` in the stream")
        await reader.wait_visible(max(position, 0), wait_s)
        relation = reader.follower.cache.relations.get(table)
        if relation is None:
            return await self._read_target(reader, table, key, None, position)
        packed = await self._in_pool(reader, lambda: reader.rows().encode_key(key, relation))
        block_id = reader.follower.cache.block_id(table, packed)
        if self._accesses is not None:
            self._accesses.read(block_id)
        asked = _Asked(relation, packed)
        answer = self._look(reader, asked, position)
        if answer is not None:
            self.counts["hits"] += 1
            return await self._shown(reader, answer, "cache")
        self.counts["misses"] += 1
        found = await self.exchange.transfers.fetch(block_id)
        if found is Fetched.HERE:
            answer = self._look(reader, asked, position)
            if answer is not None:
                return await self._shown(reader, answer, "peer")
        granted = found is Fetched.ABSENT
        return await self._read_target(reader, table, key, asked, position, granted=granted)

    def _look(self, reader: StreamReader, asked: _Asked, position: int) -> Answer | None:
        """What the cache knows. It may have begun anew since the reader waited, and be behind the position again."""
        with self.lock:
            answer = reader.follower.cache.read(asked.relation, asked.key)
        return answer if answer is not None and answer.position >= position else None

    async def _shown(self, reader: StreamReader, answer: Answer, origin: str) -> RowAnswer:
        row = answer.row
        shown = None if row is None else await self._in_pool(reader, lambda: _decode(reader, answer.relation, row))
        return RowAnswer(answer.position, shown, origin, row_tag(answer.relation, row))

    async def _read_target(
        self, reader: StreamReader, table: tuple[str, str], key: Sequence[str], asked: _Asked | None, position: int,
        *, granted: bool = False,
    ) -> RowAnswer:  # fmt: skip
        """Read the row and the ledger in one snapshot; keep the row if it may be kept."""
        self.counts["target_reads"] += 1
        cache, before = reader.follower.cache, reader.visible
        relation = asked.relation if asked is not None else None
        found = await self._in_pool(reader, lambda: reader.rows().read(table, key, relation))
        with self.lock:
            same = found.view.generation == cache.generation and cache is reader.follower.cache
            visible = max(found.view.watermark, before if same else 0)
            if same and asked is not None and found.cacheable:
                kept = cache.fill(asked.relation, asked.key, found.row, found.view, granted=granted)
                self.counts["filled"] += kept
        if not same or visible < position:
            raise NotYetError(f"stream {reader.stream.name}: the target is at {visible}, behind {position}")
        row = found.row
        shown = None if row is None else await self._in_pool(reader, lambda: _decode(reader, found.relation, row))
        return RowAnswer(visible, shown, "target", row_tag(found.relation, row))

    async def _in_pool(self, reader: StreamReader, call: Callable[[], T]) -> T:
        """Run a call of the target's connection in its thread; it is opened again once when it is broken, or when the
        target's columns are others than when it was opened.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(reader.pool, call)
        except (RetriableError, RefusedError):
            await loop.run_in_executor(reader.pool, reader.drop)
            return await loop.run_in_executor(reader.pool, call)


def _decode(reader: StreamReader, relation: Relation, row: bytes) -> dict[str, object]:
    return dict(reader.rows().decode_row(relation, row))
