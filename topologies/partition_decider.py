"""One partition of the directory while it is assigned to this worker: reports in, decisions out.

Decisions are in `pipeline.directory.decider`; here are the threads for broker calls, and the fence.

**Guarantee:** a decision is used only after it is in the log, and the log has one writer at a time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from pipeline.directory.decider import Decider
from pipeline.errors import RetriableError
from schemas.grd_accesses import GrdAccesses
from schemas.grd_affinity import GrdAffinity
from topologies.decision_log import DecisionLog
from topologies.settings import Settings

log = logging.getLogger(__name__)
DECIDE_S = 2.0  # between two judgements: nodes report as rarely, and each write costs the broker a transaction
REOPEN_S = 5.0  # after another process has taken over: if it was right, the group takes this partition away


class PartitionDecider:
    """Decides for one partition. All methods are called in the event loop's thread."""

    def __init__(self, settings: Settings, partition: int) -> None:
        self.partition = partition
        self._settings = settings
        self._log = DecisionLog(settings, partition)
        self._decider: Decider | None = None
        self._due_s = 0.0
        self._judge_s = 0.0

    def observe(self, report: GrdAccesses, now_us: int) -> None:
        """Count a report. Raises ValueError for a text that names no block."""
        if self._decider is not None:
            self._decider.observe(report, now_us)

    def request(self, wanted: GrdAffinity) -> None:
        """Take an affinity event from outside. One that comes while there is no decider is lost."""
        if self._decider is not None:
            self._decider.request(wanted)

    async def tick(self, nodes: frozenset[str]) -> None:
        """Decide and write. Errors that may pass are logged, and the partition is opened anew."""
        if time.monotonic() < self._due_s:
            return
        try:
            if self._decider is None:
                await self._open()
            await self._decide(nodes)
        except RetriableError as error:
            self._give_up(error)

    async def _open(self) -> None:
        records = await asyncio.to_thread(self._log.open)
        decider = Decider(self._settings.directory.policy())
        for record in records:
            load(decider, record)
        decider.directory.catch_up()
        self._decider = decider
        log.info(
            "directory partition %d: %d blocks have a record, members %s, epoch %d", self.partition,
            len(decider.directory), ", ".join(sorted(decider.members.nodes)) or "none yet", decider.last_epoch,
        )  # fmt: skip

    async def _decide(self, nodes: frozenset[str]) -> None:
        """Members first: what is decided then builds on them."""
        decider, now_us = self._decider, time.time_ns() // 1000
        if decider is None:
            return
        await self._write(decider, decider.set_members(nodes, now_us))
        if decider.asked or time.monotonic() >= self._judge_s:
            self._judge_s = time.monotonic() + DECIDE_S
            await self._write(decider, decider.decide(now_us))

    async def _write(self, decider: Decider, records: Sequence[GrdAffinity]) -> None:
        if not records:
            return
        await asyncio.to_thread(self._log.write, records)
        for record in records:
            decider.load(record)
            log.debug("directory: %s -> %s: %s", record.block, record.master or "all", record.reason)
        last = records[-1]
        log.info(
            "directory partition %d: %d decisions up to epoch %d, the last: %s -> %s: %s", self.partition, len(records),
            last.epoch, last.block, last.master or "all", last.reason,
        )  # fmt: skip

    def _give_up(self, error: RetriableError) -> None:
        log.warning("%s; reading it again in %.0f s", error, REOPEN_S)
        self._decider = None
        self._due_s = time.monotonic() + REOPEN_S


def load(decider: Decider, record: GrdAffinity) -> None:
    """Take a record of the topic; what no version of ours has written is passed over."""
    try:
        decider.load(record)
    except ValueError as error:
        log.warning("topic grd-affinity: %s", error)
