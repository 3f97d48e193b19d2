"""What a cache node reports of itself: its memory, and how blocks came to it."""

from __future__ import annotations

import time

from pipeline.directory.routes import Outcome, Routes
from schemas.role_report import Buffer, Control, RoleReport
from topologies.cache_state import NodeState

CACHE_ROLE = "cache"
TRANSFERS = "transfers, "


def cache_report(node: NodeState, routes: Routes, stream: str) -> RoleReport:
    """The report of now. Transfers and memory are those of the node, whichever stream they are for."""
    cache = node.readers[stream].follower.cache
    role = f"{CACHE_ROLE}/{node.settings.cache.node}"
    return RoleReport(
        stream, role, time.time_ns() // 1000, cache.generation, max(cache.visible, 0),
        controls=[_outcome(outcome, routes.outcomes[outcome], routes.way_us.get(outcome.value)) for outcome in Outcome],
        buffers=[Buffer("row images", node.store.size_bytes, node.settings.cache.memory_bytes_max, "bytes")],
    )  # fmt: skip


def _outcome(outcome: Outcome, count: int, latency_us: float | None) -> Control:
    taken = "" if latency_us is None else f"{latency_us:,.0f} µs"
    return Control(f"{TRANSFERS}{outcome.value}", count, "blocks", 0, taken)


def transfers_of(report: RoleReport) -> dict[str, tuple[int, str]]:
    """Outcome -> count, and latency as text where there is one."""
    found = (c for c in report.controls if c.name.startswith(TRANSFERS))
    return {c.name.removeprefix(TRANSFERS): (round(c.value), c.reason) for c in found}
