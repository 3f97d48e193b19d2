"""A thread that keeps one stream's blocks in step with the log and the target's ledger.

**Guarantee:** a block is folded only when the ledger says that its changes are applied; whatever goes wrong (a
gap in the log, a target that went back) empties the stream's cache and begins again from the watermark.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from confluent_kafka import KafkaException, Producer

from connectors.errors import RefusedError
from connectors.rows import TargetRows
from pipeline.cache.records import block_id_of, block_of, record_of
from pipeline.cache.store import BlockStore
from pipeline.cache.stream_cache import StreamCache
from pipeline.cache.view import TargetView, TargetWentBackError
from pipeline.directory.block import BlockId
from pipeline.directory.placement import Placement
from pipeline.errors import HeadraceError, RetriableError, StreamGapError
from pipeline.selection import selected
from schemas.change_batch import Relation
from schemas.errors import SchemaError
from schemas.fusion_block import FusionBlock, encode_fusion_block
from topologies.cache_journal import WARM_RECORDS_MAX, ChangeLog, read_blocks
from topologies.settings import Settings
from topologies.stream_settings import StreamConfig

log = logging.getLogger(__name__)
POLL_S = 0.02
VIEW_S = 0.02  # between two looks at the ledger while something waits
HURRIED_S = 0.004  # ... and while a reader waits too
IDLE_VIEW_S = 1.0
PUBLISH_S = 1.0  # a block that changes all the time is journalled so often
PUBLISHED_MAX = 2000  # blocks a turn
REFRESH_RECORDS = WARM_RECORDS_MAX // 2  # blocks are journalled again before the log they need is too long
UNKNOWN = ""  # the owner while the directory has not been read yet: better a block too many
BACKOFF_S = (0.2, 0.5, 1.0)


class StreamFollower(threading.Thread):
    """Owns one stream's StreamCache. `lock` guards it and the store; `moved` is called after each step."""

    def __init__(
        self, settings: Settings, stream: StreamConfig, placement: Placement, store: BlockStore, lock: threading.Lock,
        connect: Callable[[], TargetRows], producer: Producer, moved: Callable[[str], None],
    ) -> None:  # fmt: skip
        super().__init__(name=f"cache {stream.name}", daemon=True)
        self.settings, self.stream = settings, stream
        self.fatal: Exception | None = None
        self.hurry = threading.Event()  # a reader waits for a position
        self.restarts = 0
        self.warmed = 0
        self._placement, self._store, self._lock = placement, store, lock
        self._connect, self._producer, self._moved = connect, producer, moved
        self._stopping = threading.Event()
        self._published: dict[BlockId, int] = {}
        self._offset = 0
        self.cache = self._empty(0, 0)

    def wanted(self, table: tuple[str, str]) -> bool:
        """Whether the settings have the table cached."""
        return selected(table, self.stream.cache, ())

    def _empty(self, generation: int, position: int) -> StreamCache:
        cache, target = self.settings.cache, self.stream.target
        doubtful = "ignore" in (target.on_missing_row, target.on_existing_row)
        return StreamCache(
            self.stream.name, self.wanted, cache.buckets, cache.node, self._placement, self._store, generation,
            position, doubtful=doubtful,
        )  # fmt: skip

    def stop(self) -> None:
        """End the thread soon."""
        self._stopping.set()

    def run(self) -> None:
        """Follow until stopped, beginning again after errors."""
        attempt, warm = 0, True
        while not self._stopping.is_set():
            started_s = time.monotonic()
            try:
                self._follow(warm=warm)
            except (HeadraceError, RefusedError, SchemaError, KafkaException) as error:
                # A gap: the journal was older than the log, or the log was cut. The watermark is a clean start.
                warm = not isinstance(error, StreamGapError | SchemaError | TargetWentBackError)
                attempt = 0 if time.monotonic() - started_s > 60 else attempt + 1
                pause_s = BACKOFF_S[min(attempt, len(BACKOFF_S)) - 1]
                log.warning("stream %s: %s; the cache begins again in %.1f s", self.stream.name, error, pause_s)
                self._stopping.wait(pause_s)
            except Exception as error:
                log.exception("stream %s: the cache failed; this is a bug", self.stream.name)
                self.fatal = error
                return
            self.restarts += 1

    def _follow(self, *, warm: bool) -> None:
        rows = self._connect()
        changes = ChangeLog(self.settings, self.settings.numbers()[self.stream.name])
        try:
            rows.view()  # fails at once while there is no ledger
            # Read before the view that counts: while there is load, most blocks have just been written again.
            journal = read_blocks(self.settings, self._ours, self.settings.cache.memory_bytes_max) if warm else []
            view, offset = rows.view()
            self._start(rows, changes, view, offset, journal)
            self._loop(rows, changes)
        finally:
            rows.close()
            changes.close()
            with self._lock:
                self.cache = self._empty(0, 0)
                for block_id in [
                    block_id for block_id, _ in self._store.items() if block_id.stream == self.stream.name
                ]:
                    self._store.drop(block_id)

    # ---- start -----------------------------------------------------------------------------------

    def _start(
        self, rows: TargetRows, changes: ChangeLog, view: TargetView, offset: int, journal: list[FusionBlock]
    ) -> None:
        """Take the journal's blocks that the log can still bring up to date, and read on from the oldest."""
        if view.watermark < view.discarded:
            raise RetriableError(f"the watermark is below the dead letter at {view.discarded}, which was discarded")
        low, high = changes.bounds()
        at = min(max(offset, low), high)
        tables = [relation for relation in rows.tables() if self.wanted(relation.name)]
        blocks = self._usable(journal, changes, view, tables, (low, at)) if journal and at > low else []
        start = min([view.watermark, *(block.version for block in blocks)])
        if start < view.watermark:
            floor = max(low, at - WARM_RECORDS_MAX)
            at = changes.offset_of(view.generation, start, floor, min(at, high - 1))
        with self._lock:
            self.cache = cache = self._empty(view.generation, start)
            self.warmed = cache.warm(map(block_of, blocks))
            for relation in tables:
                cache.learn(relation)
        self._published = {block_id_of(block): at for block in blocks}
        changes.seek(at)
        log.info(
            "stream %s: the cache begins at position %d with %d blocks of the journal",
            self.stream.name, start, self.warmed,
        )  # fmt: skip

    def _ours(self, block: FusionBlock) -> bool:
        """Whether a block of the journal is one that this node masters, or may."""
        owner = self._placement.owner(block_id_of(block)).node
        buckets = self.settings.cache.buckets
        return (
            block.stream == self.stream.name
            and block.buckets == buckets
            and owner in (self.settings.cache.node, UNKNOWN)
        )

    def _usable(
        self, journal: list[FusionBlock], changes: ChangeLog, view: TargetView, tables: Sequence[Relation],
        bounds: tuple[int, int],
    ) -> list[FusionBlock]:  # fmt: skip
        """The blocks of the journal to begin with.

        Not those of before a dead letter was discarded: the log still has it, the target never will. Nor those of
        other columns than the target's, whose change need not be in the log.
        """
        low, at = bounds
        floor_batch = changes.batch_at(max(low, at - WARM_RECORDS_MAX))
        floor = floor_batch.previous_position if floor_batch.generation == view.generation else 0
        floor = max(floor, view.discarded)
        columns = {relation.name: {column.name for column in relation.columns} for relation in tables}

        def usable(block: FusionBlock) -> bool:
            current = block.generation == view.generation and block.version >= floor and view.has(block.version)
            return current and {column.name for column in block.columns} == columns.get((block.schema, block.table))

        return [*filter(usable, journal)]

    # ---- the loop --------------------------------------------------------------------------------

    def _loop(self, rows: TargetRows, changes: ChangeLog) -> None:
        viewed_s = published_s = 0.0
        while not self._stopping.is_set():
            hurried = self.hurry.is_set()
            changes.pause(paused=self.cache.full)
            for offset, batch in changes.poll(HURRIED_S if hurried or self.cache.pending else POLL_S):
                with self._lock:
                    self.cache.offer(batch)
                if batch.kind == "snapshot" and batch.previous_position == 0:
                    self._learn_anew()
                self._offset = offset
            now_s = time.monotonic()
            if now_s - viewed_s >= self._view_interval_s(hurried=hurried):
                viewed_s = now_s
                self._see(rows)
            if now_s - published_s >= PUBLISH_S:
                published_s = now_s
                self._publish()

    def _learn_anew(self) -> None:
        """A snapshot begins, before which the capture may have created tables: its rows come without keys."""
        rows = self._connect()
        try:
            tables = [relation for relation in rows.tables() if self.wanted(relation.name)]
        finally:
            rows.close()
        with self._lock:
            for relation in tables:
                self.cache.learn(relation)

    def _view_interval_s(self, *, hurried: bool) -> float:
        if not self.cache.pending:
            return VIEW_S if not self.cache.current else IDLE_VIEW_S
        return HURRIED_S if hurried else VIEW_S

    def _see(self, rows: TargetRows) -> None:
        view, _ = rows.view()
        with self._lock:
            before = self.cache.current
            moved = self.cache.see(view)
        if moved or self.cache.current != before:
            self._moved(self.stream.name)

    def _publish(self) -> None:
        """Journal the changed blocks that this node masters, and those whose record is getting old."""
        node, cache = self.settings.cache.node, self.cache
        old = self._offset - REFRESH_RECORDS
        with self._lock:
            if not cache.current:
                return
            stale = [block_id for block_id, offset in self._published.items() if offset < old]
            due = [*cache.dirty, *stale][:PUBLISHED_MAX]
            cache.dirty.difference_update(due)
            records = []
            for block_id in due:
                exported = cache.export(block_id)
                owner = self._placement.owner(block_id)
                if exported is None or owner.node != node:
                    self._published.pop(block_id, None)
                    continue
                block, version = exported
                block.epoch = owner.epoch
                self._published[block_id] = self._offset
                records.append(record_of(block_id, block, self.settings.cache.buckets, cache.generation, version, node))
        for record in records:
            self._send(record)
        self._producer.poll(0)

    def _send(self, record: FusionBlock) -> None:
        block_id = block_id_of(record)
        try:
            self._producer.produce(
                self.settings.topic("fusion-updates"), encode_fusion_block(record), key=str(block_id)
            )
        except (BufferError, SchemaError) as error:
            log.warning("block %s was not journalled: %s", block_id, error)
            self._published.pop(block_id, None)
