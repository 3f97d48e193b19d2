"""`headrace explain`: a window's dependency graph, and why a transaction of it is not applied yet.

Reads `changes` and `units` at a place, the ledger and the roles' reports; changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.recent import recent_reports
from headrace.streams import open_ledger, parse_position, position_text
from headrace.window_search import FoundWindow, WindowSearch, queued_units
from pipeline.conflicts import KeyRules
from pipeline.errors import ConfigError
from pipeline.waiting import Waiting, why_waiting
from pipeline.window_graph import Graph, Shape, shape, window_graph
from schemas.change_batch import ChangeBatch
from schemas.role_report import RoleReport
from topologies.settings import Settings
from topologies.stream_settings import StreamConfig


@dataclass(frozen=True, slots=True)
class Explanation:
    """One window. `done`: indexes of its applied transactions; `lanes`: index -> lane of the queued ones.

    `subject` is the index of the transaction asked for, or of the oldest that is not applied (None: all are);
    `waiting` says why it waits, if it is queued.
    """

    stream: StreamConfig
    topic: str
    window: FoundWindow
    graph: Graph
    shape: Shape
    done: frozenset[int]
    lanes: dict[int, int]
    subject: int | None
    waiting: Waiting | None
    stopped: str
    reports: tuple[RoleReport, ...]

    def text(self, index: int) -> str:
        """A transaction's position as its database writes it."""
        batch = self.window.batch
        return position_text(self.stream, batch.generation, batch.positions[index])


def explain(settings: Settings, stream: StreamConfig, wanted: str | None) -> Explanation:
    """Explain the window with the position `wanted`, or the oldest that is not applied, or the last one.

    Raises ConfigError when there is none, RetriableError, SchemaError, KafkaException.
    """
    number = settings.numbers()[stream.name]
    with open_ledger(stream) as ledger:
        row = ledger.stream_row()
        if row is None:
            raise ConfigError(f"stream {stream.name} has no ledger yet: it was never started")
        applied, lane_rows, rules = ledger.applied(), ledger.lane_rows(), KeyRules(ledger.catalogue())
    window = _window(settings, stream, wanted, row.generation, row.changes_offset)
    batch = window.batch
    place = (row.generation, row.watermark)
    above = applied.get(batch.generation, frozenset())
    done = frozenset(
        n for n, position in enumerate(batch.positions) if (batch.generation, position) <= place or position in above
    )
    units = queued_units(settings, number, lane_rows)
    reached = {lane: lane_row.seq for lane, lane_row in lane_rows.items()}
    subject = _subject(stream, batch, wanted, done)
    waiting = why_waiting(batch.positions[subject], units, reached, rules) if subject is not None else None
    lane_of = {position: lane for lane, queued in units.items() for each in queued for position in each.batch.positions}
    graph = window_graph(batch, rules)
    return Explanation(
        stream, settings.topic("changes"), window, graph, shape(graph), done,
        {n: lane_of[position] for n, position in enumerate(batch.positions) if position in lane_of},
        subject, waiting, row.stopped, tuple(recent_reports(settings, number)),
    )  # fmt: skip


def _window(
    settings: Settings, stream: StreamConfig, wanted: str | None, generation: int, applied_offset: int
) -> FoundWindow:
    with WindowSearch(settings, settings.numbers()[stream.name]) as search:
        if wanted is None:
            found = search.first_from(applied_offset)
        else:
            found = search.containing(generation, parse_position(stream, wanted))
    if found is None:
        what = "no transaction was captured yet" if wanted is None else f"position {wanted} was not captured yet"
        raise ConfigError(f"stream {stream.name}: {what}, or `changes` has expired; see `headrace status`")
    return found


def _subject(stream: StreamConfig, batch: ChangeBatch, wanted: str | None, done: frozenset[int]) -> int | None:
    if wanted is not None:
        position = parse_position(stream, wanted)
        return next((n for n, found in enumerate(batch.positions) if found == position), None)
    return next((n for n in range(len(batch.positions)) if n not in done), None)
